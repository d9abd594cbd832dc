// The lanes of the depthwise passes: output channels, in blocks of kLanes at
// most that hold all filters of a group. Each lane meets one input channel at a
// time, that of its group: the groups' first channels, then their second ones,
// and so on, which are called planes.
//
// A block's inputs, outputs and filters lie in tensors, or are packed as
//
//     pixels[plane][pixel][lane]    filters[tap][plane][lane]

#ifndef KERAS_ADDER_CORE_DEPTHWISE_LANE_BLOCKS_H_
#define KERAS_ADDER_CORE_DEPTHWISE_LANE_BLOCKS_H_

#include <algorithm>
#include <cstdint>

#include "core/geometry.h"
#include "core/kernels/kernels.h"
#include "core/tile.h"

namespace keras_adder {
namespace internal {

// Some pixels of a row, a column's step apart, and where they lie in a tensor:
// the row's first channel.
struct RowSpan {
  ptrdiff_t row;
  int64_t first, count;
};

class LaneBlocks {
 public:
  explicit LaneBlocks(const Geometry& geometry)
      : groups_(geometry.groups),
        planes_(geometry.group_in()),
        filters_(geometry.group_out()),
        out_channels_(geometry.out_channels),
        terms_(geometry.kernel_taps() * geometry.group_in()),
        input_(geometry.input_strides),
        output_(geometry.output_strides) {}

  int64_t count() const { return CeilDiv(groups_, block_groups()); }
  int64_t planes() const { return planes_; }
  // Filters that a lane has: one for each tap and plane.
  int64_t terms() const { return terms_; }
  int lanes(int64_t block) const {
    return static_cast<int>(groups_of(block) * filters_);
  }
  int64_t first_output(int64_t block) const {
    return block * block_groups() * filters_;
  }
  // Blocks whose lanes are neighbours in tensors, input and output alike, and
  // fill it: kernels need no packed copy of them.
  int64_t blocks_in_place() const {
    const bool neighbours = input_.channel == 1 && output_.channel == 1;
    return neighbours && planes_ * filters_ == 1 ? groups_ / kLanes : 0;
  }

  template <typename T, typename C>
  void PackFilters(const KernelSet& set, const T* filters, int64_t block,
                   C* packed) const {
    CopiesOf<T>(set).pack(filters + first_output(block), FilterSpan(block),
                          packed);
  }
  template <typename T, typename C>
  void UnpackFilters(const KernelSet& set, const C* packed, int64_t block,
                     T* filters) const {
    CopiesOf<T>(set).unpack(packed, FilterSpan(block),
                            filters + first_output(block));
  }

  template <typename T, typename C>
  void PackOutputs(const KernelSet& set, const T* tensor, const RowSpan& row,
                   int64_t block, C* packed) const {
    CopiesOf<T>(set).pack(tensor + OutputAt(row, block), OutputSpan(row, block),
                          packed);
  }
  template <typename T, typename C>
  void UnpackOutputs(const KernelSet& set, const C* packed, const RowSpan& row,
                     int64_t block, T* tensor) const {
    CopiesOf<T>(set).unpack(packed, OutputSpan(row, block),
                            tensor + OutputAt(row, block));
  }

  // Each channel becomes as many lanes as its group has filters.
  template <typename T, typename C>
  void PackInputs(const KernelSet& set, const T* tensor, const RowSpan& row,
                  int64_t block, int64_t plane, C* packed) const {
    CopiesOf<T>(set).pack(tensor + InputAt(row, block, plane),
                          InputSpan(row, block), packed);
    if (filters_ == 1) return;
    for (int64_t i = 0; i < row.count; ++i, packed += kLanes) {
      // From the last on, for none to be overwritten before its turn.
      for (int64_t group = groups_of(block) - 1; group >= 0; --group) {
        std::fill_n(packed + group * filters_, filters_, packed[group]);
      }
    }
  }
  // The lanes of a channel are added up. Destroys what is packed.
  template <typename T, typename C>
  void UnpackInputs(const KernelSet& set, C* packed, const RowSpan& row,
                    int64_t block, int64_t plane, T* tensor) const {
    if (filters_ > 1) {
      C* pixel = packed;
      for (int64_t i = 0; i < row.count; ++i, pixel += kLanes) {
        for (int64_t group = 0; group < groups_of(block); ++group) {
          C sum = pixel[group * filters_];
          for (int64_t filter = 1; filter < filters_; ++filter) {
            sum += pixel[group * filters_ + filter];
          }
          pixel[group] = sum;
        }
      }
    }
    CopiesOf<T>(set).unpack(packed, InputSpan(row, block),
                            tensor + InputAt(row, block, plane));
  }

 private:
  int64_t block_groups() const { return kLanes / filters_; }
  int64_t groups_of(int64_t block) const {
    return std::min(block_groups(), groups_ - block * block_groups());
  }
  PixelSpan FilterSpan(int64_t block) const {
    return {terms_, lanes(block), out_channels_, 1};
  }
  PixelSpan OutputSpan(const RowSpan& row, int64_t block) const {
    return {row.count, lanes(block), output_.width, output_.channel};
  }
  PixelSpan InputSpan(const RowSpan& row, int64_t block) const {
    return {row.count, static_cast<int>(groups_of(block)), input_.width,
            planes_ * input_.channel};
  }
  ptrdiff_t OutputAt(const RowSpan& row, int64_t block) const {
    return row.row + row.first * output_.width +
           first_output(block) * output_.channel;
  }
  ptrdiff_t InputAt(const RowSpan& row, int64_t block, int64_t plane) const {
    return row.row + row.first * input_.width +
           (block * block_groups() * planes_ + plane) * input_.channel;
  }

  int64_t groups_, planes_, filters_;  // filters of a group
  int64_t out_channels_, terms_;
  ImageStrides input_, output_;
};

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_DEPTHWISE_LANE_BLOCKS_H_
