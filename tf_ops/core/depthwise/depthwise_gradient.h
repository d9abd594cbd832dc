// Both gradients, or either, where every filter meets one input channel, or
// few: lanes are output channels, as in depthwise_forward.h.
//
// Rows of inputs are dealt out in chunks. Each completes the gradients of its
// rows, since it gathers all that outputs say of them, and sums up filter
// gradients of its own, which are added up at the end. How many chunks there
// are depends on the geometry alone, and so do the bits of the result.
//
// Taps in the padding meet zeros: what these add to the filter gradient is seen
// to output row by output row, of which a chunk has a share, too.

#ifndef KERAS_ADDER_CORE_DEPTHWISE_DEPTHWISE_GRADIENT_H_
#define KERAS_ADDER_CORE_DEPTHWISE_DEPTHWISE_GRADIENT_H_

#include <cstdint>
#include <vector>

#include "core/depthwise/lane_blocks.h"
#include "core/depthwise/packed_rows.h"
#include "core/depthwise/tap_runs.h"
#include "core/engine.h"
#include "core/typed_engine.h"

namespace keras_adder {
namespace internal {

class DepthwiseGradientPlan {
 public:
  explicit DepthwiseGradientPlan(const Problem& problem);

  int64_t workspace_bytes() const;

  template <typename T, typename O>
  void Run(ThreadPool& pool, const TypedTensors<T, O>& tensors,
           void* workspace) const;

 private:
  // Rows of all images, one image after the other.
  struct Rows {
    int64_t first, end;
  };

  // A worker's memory.
  template <typename C>
  struct Worker {
    C* input;
    C* input_gradient;
    C* gradient;  // PackedRows, and one row more that meets padding
    C* filters;
    const C* zeros;  // a pixel of padding
  };

  // Where kernels find what they need of some blocks. A row of taps meets
  // output gradients from `rows` on.
  template <typename C>
  struct View {
    const C* input;
    C* input_gradient;
    ptrdiff_t pixel_stride, plane_stride;
    const C* gradient;
    std::vector<ptrdiff_t> rows;
    ptrdiff_t gradient_pixel_stride;
    const C* filters;
    ptrdiff_t term_stride;
    C* total;
    int64_t blocks;
  };

  int64_t OutputRow(int64_t input_row, int64_t tap) const {
    const Axis& height = geometry_.height;
    return (input_row + height.pad_before - tap * height.dilation) /
           height.stride;
  }
  const TapRun& TapsOfInput(int64_t row) const {
    return input_rows_[run_of_input_[row]];
  }
  const TapRun& TapsOfOutput(int64_t row) const {
    return output_rows_[run_of_output_[row]];
  }
  int64_t block_size() const { return blocks_.terms() * kLanes; }
  int64_t partial_size() const {
    return RoundUp(blocks_.count() * block_size(), kWorkspaceLanes);
  }
  Rows Share(int64_t rows, int64_t chunk) const {
    return {rows * chunk / chunks_, rows * (chunk + 1) / chunks_};
  }

  template <typename T, typename O, typename C>
  void RunInPlace(int64_t chunk, const TypedTensors<T, O>& tensors, C* total,
                  const Worker<C>& worker) const;
  template <typename T, typename O, typename C>
  void RunPacked(int64_t chunk, int64_t block,
                 const TypedTensors<T, O>& tensors, C* total,
                 const Worker<C>& worker) const;
  template <typename T, typename O, typename C>
  void RunPackedPadding(int64_t chunk, int64_t block,
                        const TypedTensors<T, O>& tensors,
                        const Worker<C>& worker, const View<C>& view) const;
  template <typename C>
  void RunInputRow(const TapRun& row_taps, const View<C>& view) const;
  template <typename C>
  void RunPadding(const TapRun& row_taps, const View<C>& view) const;
  template <typename C>
  DepthwiseGradientParams<C> ParamsOf(const View<C>& view) const;
  DepthwiseTap TapAt(int64_t i, int64_t j, int64_t plane, ptrdiff_t gradient,
                     ptrdiff_t term_stride) const {
    const int64_t term =
        (i * geometry_.width.kernel + j) * blocks_.planes() + plane;
    return {gradient, term * term_stride, term * kLanes};
  }
  template <typename C>
  typename DepthwiseKernels<C>::Gradient Kernel() const;
  template <typename C>
  typename DepthwiseKernels<C>::Gradient FilterKernel() const;

  static constexpr int64_t kWorkspaceLanes = 64;

  const KernelSet& set_;
  bool of_input_, of_filters_;
  FilterGradientMode mode_;
  Geometry geometry_;
  LaneBlocks blocks_;
  int64_t in_place_;  // blocks
  std::vector<TapRun> input_rows_, input_columns_, output_rows_,
      output_columns_;
  std::vector<int64_t> run_of_input_, run_of_output_;
  PackedRows packed_rows_;
  int64_t compute_bytes_;
  int64_t chunks_;
  int threads_;
  // Elements of a worker's memory.
  int64_t input_scratch_ = 0, gradient_scratch_ = 0, filter_scratch_ = 0,
          zero_scratch_ = 0;
  int64_t scratch() const {
    return 2 * input_scratch_ + gradient_scratch_ + filter_scratch_ +
           zero_scratch_;
  }
};

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_DEPTHWISE_DEPTHWISE_GRADIENT_H_
