// Filters in the order in which the kernels read them, and back:
//
//     [group][destination plane][source plane][tap][source lane][lane]
//
// taps column by column: the forward pass leaves out the first or the last
// columns for some pixels, and reads filters one after the other.

#ifndef KERAS_ADDER_CORE_PACKED_FILTERS_H_
#define KERAS_ADDER_CORE_PACKED_FILTERS_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

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
  int64_t rows_before;  // rows of taps of all terms that come before these

  // Whether these are the first of their channels.
  bool starts_channels() const { return first_row == 0 && first_column == 0; }
};

class PackedFilters {
 public:
  PackedFilters(const Geometry& geometry, FilterOrder order)
      : order_(order),
        kernel_height_(geometry.height.kernel),
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

  // Where a tap's filters lie in their plane of sources, and how far planes are
  // apart. Fewer than kLanes sources take no more room than they need.
  int64_t TapAt(int64_t row, int64_t column) const {
    return (column * kernel_height_ + row) *
           std::min<int64_t>(kLanes, sources()) * kLanes;
  }
  int64_t source_plane_stride() const { return TapAt(0, kernel_width_); }
  int64_t destination_plane_stride() const {
    return Planes(sources()) * source_plane_stride();
  }
  // A unit is a destination plane of a group.
  int64_t units() const { return groups_ * Planes(destinations()); }
  int64_t size() const { return units() * destination_plane_stride(); }

  // Whether units of work should be ordered by parts of the filters, not by
  // images of so many elements in all: what is more of the two should be met
  // by one thread alone.
  bool Outweigh(int64_t image_elements) const {
    return 2 * size() > image_elements;
  }

  // Packs some planes of sources of some units; lanes without a channel become
  // zero. Clears `finite`, if there is one, where not all of these filters are.
  template <typename T, typename C>
  void Pack(const KernelSet& set, const T* filters, const PlaneRange& units,
            const PlaneRange& planes, C* packed,
            std::atomic<bool>* finite) const {
    const auto pack = CopiesOf<T>(set).pack;
    const int64_t end = units.first + units.planes;
    int64_t together;
    for (int64_t unit = units.first; unit < end; unit += together) {
      together = NeighboursFrom(unit, end);
      const auto visit = [&](int64_t from, const Run& run, int64_t to) {
        pack(filters + from, run, packed + to);
        for (int64_t i = 0; i < together && finite != nullptr; ++i) {
          if (!KernelsOf<C>(set).all_finite(packed + to + i * run.next_plane,
                                            run.count)) {
            *finite = false;
          }
        }
      };
      ForEachRun(unit, together, planes, visit);
    }
  }

  // All planes of sources.
  PlaneRange planes() const { return {0, Planes(sources())}; }

  // All units in ranges that are worth a thread each.
  std::vector<PlaneRange> Share(int threads) const {
    return DealPlanes(units(),
                      std::clamp<int64_t>(units() / (4 * threads), 1, 4));
  }

  template <typename T, typename C>
  void Unpack(const KernelSet& set, const C* packed, int64_t unit,
              T* filters) const {
    const auto unpack = CopiesOf<T>(set).unpack;
    ForEachRun(unit, 1, planes(),
               [&](int64_t from, const Run& run, int64_t to) {
                 unpack(packed + to, run, filters + from);
               });
  }

  int64_t ChannelsOf(const Terms& terms) const {
    return std::min(terms.planes * kLanes,
                    sources() - terms.first_plane * kLanes);
  }

  // The window of `terms`, and where it begins in a packed unit.
  FilterWindow Window(const Terms& terms) const {
    FilterWindow window{};
    window.plane = source_plane_stride();
    window.row = TapAt(1, 0);
    window.column = TapAt(0, 1);
    window.rows = terms.rows;
    window.columns = terms.columns;
    window.channels = ChannelsOf(terms);
    return window;
  }
  int64_t WindowAt(const Terms& terms) const {
    return terms.first_plane * source_plane_stride() +
           TapAt(terms.first_row, terms.first_column);
  }

 private:
  // How many whole units from `unit` on, before `end`, are neighbours in the
  // tensor; at least the one.
  int64_t NeighboursFrom(int64_t unit, int64_t end) const {
    if (order_ != FilterOrder::kInputsToOutputs) return 1;
    const int64_t whole = group_out_ / kLanes - unit % Planes(group_out_);
    return std::max<int64_t>(1, std::min(whole, end - unit));
  }

  // One run for each tap and source plane of so many neighbouring units.
  template <typename Visit>
  void ForEachRun(int64_t unit, int64_t together, const PlaneRange& planes,
                  const Visit& visit) const {
    const int64_t group = unit / Planes(destinations());
    const int64_t plane = unit % Planes(destinations());
    const bool forward = order_ == FilterOrder::kInputsToOutputs;
    const int64_t source_step = forward ? out_channels_ : 1;
    const int64_t destination_step = forward ? 1 : out_channels_;
    for (int64_t p = planes.first; p < planes.first + planes.planes; ++p) {
      for (int64_t tap = 0; tap < kernel_height_ * kernel_width_; ++tap) {
        Run run;
        run.count = PlaneChannels(sources(), p);
        run.channels = PlaneChannels(destinations(), plane);
        run.pixel_stride = source_step;
        run.channel_stride = destination_step;
        run.planes = together;
        run.next_plane = destination_plane_stride();
        visit(tap * group_in_ * out_channels_ + group * group_out_ +
                  p * kLanes * source_step + plane * kLanes * destination_step,
              run,
              unit * destination_plane_stride() + p * source_plane_stride() +
                  TapAt(tap / kernel_width_, tap % kernel_width_));
      }
    }
  }

  FilterOrder order_;
  int64_t kernel_height_, kernel_width_, groups_, group_in_, group_out_,
      out_channels_;
};

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_PACKED_FILTERS_H_
