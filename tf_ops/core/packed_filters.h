// Filters in the order in which the kernels read them, and back:
//
//     [group][destination block][source block][tap][source lane][lane]
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

// A block of a reduction: some of the terms that a sum runs over, which are
// channel blocks of the source and taps of the filters.
struct ReductionBlock {
  int64_t first_block, blocks;
  int64_t first_row, rows;
  int64_t first_column, columns;
  int64_t rows_before;  // rows of taps of all reduction blocks before this one

  // Whether it is the first one of its channels.
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

  // Where a tap's filters lie in their block of sources, and how far blocks are
  // apart. Fewer than kLanes sources take no more room than they need.
  int64_t TapAt(int64_t row, int64_t column) const {
    return (column * kernel_height_ + row) *
           std::min<int64_t>(kLanes, sources()) * kLanes;
  }
  int64_t block_stride() const { return TapAt(0, kernel_width_); }
  int64_t panel_stride() const {
    return ChannelBlocks(sources()) * block_stride();
  }
  // A panel holds the filters of one channel block of destinations.
  int64_t panels() const { return groups_ * ChannelBlocks(destinations()); }
  int64_t size() const { return panels() * panel_stride(); }

  // Whether work items should be ordered by panels, not by images of so many
  // elements in all: the larger of the two should be met by one thread alone.
  bool FiltersDominate(int64_t image_elements) const {
    return 2 * size() > image_elements;
  }

  // Packs some channel blocks of sources of some panels; lanes without a
  // channel become zero. Clears `finite`, if there is one, where not all of
  // these filters are.
  template <typename T, typename C>
  void Pack(const KernelSet& set, const T* filters, const BlockRange& panels,
            const BlockRange& blocks, C* packed,
            std::atomic<bool>* finite) const {
    const auto pack = CopiesOf<T>(set).pack;
    const int64_t end = panels.first + panels.count;
    int64_t together;
    for (int64_t panel = panels.first; panel < end; panel += together) {
      together = NeighboursFrom(panel, end);
      const auto visit = [&](int64_t from, const PixelSpan& span, int64_t to) {
        pack(filters + from, span, packed + to);
        for (int64_t i = 0; i < together && finite != nullptr; ++i) {
          if (!KernelsOf<C>(set).all_finite(packed + to + i * span.block_stride,
                                            span.count)) {
            *finite = false;
          }
        }
      };
      ForEachSpan(panel, together, blocks, visit);
    }
  }

  // All channel blocks of sources.
  BlockRange blocks() const { return {0, ChannelBlocks(sources())}; }

  // All panels in ranges that are worth a thread each.
  std::vector<BlockRange> SplitForThreads(int threads) const {
    return SplitBlocks(panels(),
                       std::clamp<int64_t>(panels() / (4 * threads), 1, 4));
  }

  template <typename T, typename C>
  void Unpack(const KernelSet& set, const C* packed, int64_t panel,
              T* filters) const {
    const auto unpack = CopiesOf<T>(set).unpack;
    ForEachSpan(panel, 1, blocks(),
                [&](int64_t from, const PixelSpan& span, int64_t to) {
                  unpack(packed + to, span, filters + from);
                });
  }

  int64_t ChannelsOf(const ReductionBlock& reduction) const {
    return std::min(reduction.blocks * kLanes,
                    sources() - reduction.first_block * kLanes);
  }

  // The window of `reduction`, and where it begins in a panel.
  FilterWindow Window(const ReductionBlock& reduction) const {
    FilterWindow window{};
    window.block_stride = block_stride();
    window.row_stride = TapAt(1, 0);
    window.column_stride = TapAt(0, 1);
    window.rows = reduction.rows;
    window.columns = reduction.columns;
    window.channels = ChannelsOf(reduction);
    return window;
  }
  int64_t WindowAt(const ReductionBlock& reduction) const {
    return reduction.first_block * block_stride() +
           TapAt(reduction.first_row, reduction.first_column);
  }

 private:
  // Returns how many whole panels from `panel` on, before `end`, are neighbours
  // in the tensor; at least the one.
  int64_t NeighboursFrom(int64_t panel, int64_t end) const {
    if (order_ != FilterOrder::kInputsToOutputs) return 1;
    const int64_t whole =
        group_out_ / kLanes - panel % ChannelBlocks(group_out_);
    return std::max<int64_t>(1, std::min(whole, end - panel));
  }

  // Calls visit(filters' offset, span, packed offset) for each tap and channel
  // block of sources of `together` neighbouring panels.
  template <typename Visit>
  void ForEachSpan(int64_t panel, int64_t together, const BlockRange& blocks,
                   const Visit& visit) const {
    const int64_t group = panel / ChannelBlocks(destinations());
    const int64_t block = panel % ChannelBlocks(destinations());
    const bool forward = order_ == FilterOrder::kInputsToOutputs;
    const int64_t source_step = forward ? out_channels_ : 1;
    const int64_t destination_step = forward ? 1 : out_channels_;
    for (int64_t p = blocks.first; p < blocks.first + blocks.count; ++p) {
      for (int64_t tap = 0; tap < kernel_height_ * kernel_width_; ++tap) {
        PixelSpan span;
        span.count = BlockChannels(sources(), p);
        span.channels = BlockChannels(destinations(), block);
        span.pixel_stride = source_step;
        span.channel_stride = destination_step;
        span.blocks = together;
        span.block_stride = panel_stride();
        visit(tap * group_in_ * out_channels_ + group * group_out_ +
                  p * kLanes * source_step + block * kLanes * destination_step,
              span,
              panel * panel_stride() + p * block_stride() +
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
