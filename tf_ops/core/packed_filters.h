// Filters in the order in which the kernels read them, and back:
//
//     [group][destination plane][source plane][tap][source lane][lane]

#ifndef KERAS_ADDER_CORE_PACKED_FILTERS_H_
#define KERAS_ADDER_CORE_PACKED_FILTERS_H_

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/geometry.h"
#include "core/kernels/kernels.h"
#include "core/tile.h"

namespace keras_adder {

// Which channels of the filters are sources (summed over) and which are
// destinations (lanes).
enum class FilterOrder { kInputsToOutputs, kOutputsToInputs };

// Some of the terms that a sum runs over: source planes and filter taps.
struct Terms {
  int64_t first_plane, planes;
  int64_t first_row, rows;
  int64_t first_column, columns;
};

class PackedFilters {
 public:
  PackedFilters(const Geometry& geometry, FilterOrder order)
      : order_(order),
        taps_(geometry.kernel_taps()),
        kernel_width_(geometry.width.kernel),
        groups_(geometry.groups),
        group_in_(geometry.group_in()),
        group_out_(geometry.group_out()),
        out_channels_(geometry.out_channels) {}

  int64_t sources() const {
    return order_ == FilterOrder::kInputsToOutputs ? group_in_ : group_out_;
  }
  int64_t destinations() const {
    return order_ == FilterOrder::kInputsToOutputs ? group_out_ : group_in_;
  }

  // Elements between taps, rows of taps and planes. Fewer than kLanes sources
  // take no more room than they need.
  int64_t tap_stride() const {
    return std::min<int64_t>(kLanes, sources()) * kLanes;
  }
  int64_t row_stride() const { return kernel_width_ * tap_stride(); }
  int64_t source_plane_stride() const { return taps_ * tap_stride(); }
  int64_t destination_plane_stride() const {
    return Planes(sources()) * source_plane_stride();
  }
  // A unit is a destination plane of a group.
  int64_t units() const { return groups_ * Planes(destinations()); }
  int64_t size() const { return units() * destination_plane_stride(); }

  // Packs one unit; lanes without a channel become zero. Returns whether all of
  // its filters are finite.
  template <typename T, typename C>
  bool Pack(const KernelSet& set, const T* filters, int64_t unit,
            C* packed) const {
    const auto pack = CopiesOf<T>(set).pack;
    bool finite = true;
    ForEachRun(unit, [&](int64_t from, const Run& run, int64_t to) {
      pack(filters + from, run, packed + to);
      finite &= KernelsOf<C>(set).all_finite(packed + to, run.count);
    });
    return finite;
  }

  template <typename T, typename C>
  void Unpack(const KernelSet& set, const C* packed, int64_t unit,
              T* filters) const {
    const auto unpack = CopiesOf<T>(set).unpack;
    ForEachRun(unit, [&](int64_t from, const Run& run, int64_t to) {
      unpack(packed + to, run, C{1}, filters + from);
    });
  }

  // Sums over `terms` of a packed unit, lane by lane: one of each for every row
  // of taps. `leading` and `trailing` columns of taps lie in the padding for
  // the first and the last pixel of a row.
  template <typename C>
  void Sum(const C* packed, int64_t unit, const Terms& terms, int64_t leading,
           int64_t trailing, int64_t offset, FilterSums<C>* to) const {
    const C* from = packed + unit * destination_plane_stride();
    Clear(*to, offset, terms.rows * kLanes);
    for (int64_t p = 0; p < terms.planes; ++p) {
      const int64_t plane = terms.first_plane + p;
      for (int64_t i = 0; i < terms.rows; ++i) {
        for (int64_t j = 0; j < terms.columns; ++j) {
          AddRows(from + plane * source_plane_stride() +
                      (terms.first_row + i) * row_stride() +
                      (terms.first_column + j) * tap_stride(),
                  PlaneChannels(sources(), plane), j < leading,
                  j >= terms.columns - trailing, offset + i * kLanes, to);
        }
      }
    }
  }

 private:
  template <typename C>
  static void Clear(const FilterSums<C>& sums, int64_t offset, int64_t count) {
    for (C* array :
         {sums.sums, sums.magnitudes, sums.first_sums, sums.last_sums,
          sums.leading_magnitudes, sums.trailing_magnitudes}) {
      std::fill_n(array + offset, count, C{0});
    }
  }

  // Adds up one tap's rows first: shorter chains, smaller errors.
  template <typename C>
  static void AddRows(const C* rows, int count, bool leading, bool trailing,
                      int64_t offset, FilterSums<C>* to) {
    C sum[kLanes] = {}, magnitude[kLanes] = {};
    for (int row = 0; row < count; ++row) {
      for (int lane = 0; lane < kLanes; ++lane) {
        sum[lane] += rows[row * kLanes + lane];
        magnitude[lane] += std::abs(rows[row * kLanes + lane]);
      }
    }
    const auto add = [offset](const C* values, C* total) {
      for (int lane = 0; lane < kLanes; ++lane) {
        total[offset + lane] += values[lane];
      }
    };
    add(sum, to->sums);
    add(magnitude, to->magnitudes);
    if (!leading) add(sum, to->first_sums);
    if (!trailing) add(sum, to->last_sums);
    if (leading) add(magnitude, to->leading_magnitudes);
    if (trailing) add(magnitude, to->trailing_magnitudes);
  }

  // One run for each tap and source plane of a unit.
  template <typename Visit>
  void ForEachRun(int64_t unit, const Visit& visit) const {
    const int64_t group = unit / Planes(destinations());
    const int64_t plane = unit % Planes(destinations());
    const bool forward = order_ == FilterOrder::kInputsToOutputs;
    const int64_t source_step = forward ? out_channels_ : 1;
    const int64_t destination_step = forward ? 1 : out_channels_;
    for (int64_t p = 0; p < Planes(sources()); ++p) {
      for (int64_t tap = 0; tap < taps_; ++tap) {
        Run run;
        run.count = PlaneChannels(sources(), p);
        run.channels = PlaneChannels(destinations(), plane);
        run.pixel_stride = source_step;
        run.channel_stride = destination_step;
        visit(tap * group_in_ * out_channels_ + group * group_out_ +
                  p * kLanes * source_step + plane * kLanes * destination_step,
              run,
              unit * destination_plane_stride() + p * source_plane_stride() +
                  tap * tap_stride());
      }
    }
  }

  FilterOrder order_;
  int64_t taps_, kernel_width_, groups_, group_in_, group_out_, out_channels_;
};

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_PACKED_FILTERS_H_
