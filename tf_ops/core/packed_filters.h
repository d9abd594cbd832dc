// Filters in the order in which the kernels read them, and back.
//
// Destination planes are dealt into blocks of at most `max_planes`; a block
// holds  [source plane][tap][source lane][destination lane of the block].

#ifndef KERAS_ADDER_CORE_PACKED_FILTERS_H_
#define KERAS_ADDER_CORE_PACKED_FILTERS_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/geometry.h"
#include "core/kernels/kernels.h"
#include "core/tile.h"

namespace keras_adder {

// Which channels of the filters are sources (summed over) and which are
// destinations (lanes).
enum class FilterOrder { kInputsToOutputs, kOutputsToInputs };

struct PlaneBlock {
  int64_t first;
  int planes;
};

// Deals planes out evenly into blocks of at most `max_planes`.
inline std::vector<PlaneBlock> DealPlanes(int64_t planes, int64_t max_planes) {
  std::vector<PlaneBlock> blocks;
  const int64_t count = CeilDiv(planes, max_planes);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = planes * i / count;
    blocks.push_back(
        {first, static_cast<int>(planes * (i + 1) / count - first)});
  }
  return blocks;
}

// Some of the terms that a sum runs over: source planes and filter taps.
struct Terms {
  int64_t first_plane, planes;
  int64_t first_row, rows;
  int64_t first_column, columns;
};

class PackedFilters {
 public:
  PackedFilters(const Geometry& geometry, FilterOrder order, int max_planes)
      : order_(order),
        taps_(geometry.kernel_taps()),
        kernel_width_(geometry.width.kernel),
        groups_(geometry.groups),
        group_in_(geometry.group_in()),
        group_out_(geometry.group_out()),
        out_channels_(geometry.out_channels),
        blocks_(DealPlanes(Planes(destinations()), max_planes)) {}

  int64_t sources() const {
    return order_ == FilterOrder::kInputsToOutputs ? group_in_ : group_out_;
  }
  int64_t destinations() const {
    return order_ == FilterOrder::kInputsToOutputs ? group_out_ : group_in_;
  }
  const std::vector<PlaneBlock>& blocks() const { return blocks_; }

  // Elements between taps, source planes, destination planes and groups.
  int64_t tap_stride(int planes) const {
    return std::min<int64_t>(kLanes, sources()) * planes * kLanes;
  }
  int64_t source_plane_stride(int planes) const {
    return taps_ * tap_stride(planes);
  }
  int64_t destination_plane_stride() const {
    return Planes(sources()) * source_plane_stride(1);
  }
  int64_t kernel_width() const { return kernel_width_; }
  int64_t group_stride() const {
    return Planes(destinations()) * destination_plane_stride();
  }
  int64_t size() const { return groups_ * group_stride(); }
  int64_t units() const { return groups_ * blocks_.size(); }

  // One block of one group; destination lanes without a channel become zero.
  // Returns whether all of them are finite.
  template <typename T, typename C>
  bool Pack(const KernelSet& set, const T* filters, int64_t unit,
            C* packed) const {
    const auto pack = CopiesOf<T>(set).pack;
    bool finite = true;
    ForEachRow(unit, [&](int64_t from, const Run& run, int64_t to) {
      pack(filters + from, run, packed + to);
      finite &= AllFinite(packed + to, kLanes);
    });
    return finite;
  }

  // Sums over `terms` of a packed block, and sums of magnitudes, for each
  // destination lane: the lanes of the block's planes in a row.
  template <typename C>
  void Sum(const C* packed, int64_t unit, const Terms& terms, C* sums,
           C* magnitudes) const {
    const PlaneBlock& block = blocks_[unit % blocks_.size()];
    const int64_t lanes = block.planes * kLanes;
    const C* from = packed + unit / blocks_.size() * group_stride() +
                    block.first * destination_plane_stride();
    std::fill_n(sums, lanes, C{0});
    std::fill_n(magnitudes, lanes, C{0});
    for (int64_t p = 0; p < terms.planes; ++p) {
      const int64_t plane = terms.first_plane + p;
      for (int64_t i = 0; i < terms.rows; ++i) {
        for (int64_t j = 0; j < terms.columns; ++j) {
          const int64_t tap = (terms.first_row + i) * kernel_width_ +
                              terms.first_column + j;
          AddRows(from + plane * source_plane_stride(block.planes) +
                      tap * tap_stride(block.planes),
                  PlaneChannels(sources(), plane), lanes, sums, magnitudes);
        }
      }
    }
  }

  template <typename T, typename C>
  void Unpack(const KernelSet& set, const C* packed, int64_t unit,
              T* filters) const {
    const auto unpack = CopiesOf<T>(set).unpack;
    ForEachRow(unit, [&](int64_t from, const Run& run, int64_t to) {
      unpack(packed + to, run, C{1}, filters + from);
    });
  }

 private:
  // Adds up one tap's rows first: shorter chains, smaller errors.
  template <typename C>
  static void AddRows(const C* rows, int count, int64_t lanes, C* sums,
                      C* magnitudes) {
    C sum[2 * kLanes] = {}, magnitude[2 * kLanes] = {};
    for (int row = 0; row < count; ++row) {
      for (int64_t lane = 0; lane < lanes; ++lane) {
        sum[lane] += rows[row * lanes + lane];
        magnitude[lane] += std::abs(rows[row * lanes + lane]);
      }
    }
    for (int64_t lane = 0; lane < lanes; ++lane) {
      sums[lane] += sum[lane];
      magnitudes[lane] += magnitude[lane];
    }
  }

  // Rows of kLanes destinations. Only blocks of one plane hold their source
  // lanes next to each other, as a Run's slots are; wider ones go row by row.
  template <typename Visit>
  void ForEachRow(int64_t unit, const Visit& visit) const {
    const int64_t group = unit / blocks_.size();
    const PlaneBlock& block = blocks_[unit % blocks_.size()];
    const int64_t base =
        group * group_stride() + block.first * destination_plane_stride();
    const bool forward = order_ == FilterOrder::kInputsToOutputs;
    const int64_t source_step = forward ? out_channels_ : 1;
    const int64_t destination_step = forward ? 1 : out_channels_;
    for (int64_t tap = 0; tap < taps_; ++tap) {
      for (int64_t source = 0; source < sources(); ++source) {
        for (int p = 0; p < block.planes; ++p) {
          const int64_t plane = block.first + p;
          Run run;
          run.count = 1;
          run.channels = PlaneChannels(destinations(), plane);
          run.pixel_stride = 0;
          run.channel_stride = destination_step;
          visit(tap * group_in_ * out_channels_ + group * group_out_ +
                    source * source_step + plane * kLanes * destination_step,
                run,
                base + source / kLanes * source_plane_stride(block.planes) +
                    tap * tap_stride(block.planes) +
                    (source % kLanes * block.planes + p) * kLanes);
        }
      }
    }
  }

  FilterOrder order_;
  int64_t taps_, kernel_width_, groups_, group_in_, group_out_, out_channels_;
  std::vector<PlaneBlock> blocks_;
};

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_PACKED_FILTERS_H_
