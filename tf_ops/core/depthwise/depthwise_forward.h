// The forward pass where every filter meets one input channel, or few: lanes
// are output channels, and nothing is broadcast.
//
// A work item is a band of output rows of an image. Kernels take some
// neighbouring outputs that meet the same taps, for all channels, before they
// go on: what they read lies in one piece, and stays in the caches for the next
// rows. Lanes that are no neighbours in the tensors, or of another type than is
// computed in, go through packed rows (lane_blocks.h).

#ifndef KERAS_ADDER_CORE_DEPTHWISE_DEPTHWISE_FORWARD_H_
#define KERAS_ADDER_CORE_DEPTHWISE_DEPTHWISE_FORWARD_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "core/depthwise/lane_blocks.h"
#include "core/depthwise/packed_rows.h"
#include "core/depthwise/tap_runs.h"
#include "core/engine.h"
#include "core/typed_engine.h"

namespace keras_adder {
namespace internal {

class DepthwiseForwardPlan {
 public:
  explicit DepthwiseForwardPlan(const Problem& problem);

  int64_t workspace_bytes() const;

  template <typename T, typename O>
  void Run(ThreadPool& pool, const TypedTensors<T, O>& tensors,
           void* workspace) const;

 private:
  struct WorkItem {
    int64_t image, first_row, end_row;
  };

  // What all items share: an epilogue with a value for each lane.
  template <typename C>
  struct LaneEpilogue {
    const C* multiplier;
    const C* offset;
    C lower, upper;
  };

  // A worker's memory.
  template <typename C>
  struct Worker {
    C* input;
    C* output;
    C* filters;
  };

  // Where kernels find inputs, filters and outputs of some blocks. A row of
  // taps meets inputs from `rows` on.
  template <typename C>
  struct View {
    const C* input;
    std::vector<ptrdiff_t> rows;
    ptrdiff_t pixel_stride, plane_stride;
    const C* filters;
    ptrdiff_t term_stride;
    C* output;
    ptrdiff_t output_pixel_stride;
    int64_t first_block, blocks;
  };

  // The taps of each run of a row's outputs, of which so many meet an input.
  struct TapList {
    std::vector<ForwardTap> taps;
    int64_t inside;
  };
  using RowLists = std::vector<TapList>;

  WorkItem ItemAt(int64_t index) const;
  int64_t items() const { return geometry_.batch * bands_; }
  int64_t InputRow(int64_t output_row, int64_t tap) const {
    return geometry_.height.Position(output_row, tap);
  }
  const TapRun& RowTaps(int64_t row) const { return rows_[run_of_row_[row]]; }

  template <typename C>
  LaneEpilogue<C> SpreadEpilogue(const Epilogue* epilogue, C* memory) const;
  template <typename T, typename O, typename C>
  void RunInPlace(const WorkItem& item, const TypedTensors<T, O>& tensors,
                  const LaneEpilogue<C>& epilogue) const;
  template <typename T, typename O, typename C>
  void RunPacked(const WorkItem& item, int64_t block,
                 const TypedTensors<T, O>& tensors,
                 const LaneEpilogue<C>& epilogue,
                 const Worker<C>& worker) const;
  template <typename C>
  void RunRow(const RowLists& lists, const View<C>& view,
              const LaneEpilogue<C>& epilogue) const;
  template <typename C>
  void ListRow(const TapRun& row_taps, const View<C>& view,
               RowLists* lists) const;
  template <typename C>
  void ListTaps(const TapRun& row_taps, const TapRun& run, const View<C>& view,
                std::vector<ForwardTap>* taps) const;
  void VisitOutputs(const WorkItem& item,
                    const std::function<void(int64_t, int64_t)>& visit) const;

  const KernelSet& set_;
  Geometry geometry_;
  LaneBlocks blocks_;
  int64_t in_place_;  // blocks
  std::vector<TapRun> rows_, columns_;
  std::vector<int64_t> run_of_row_;
  PackedRows packed_rows_;
  int64_t bands_;  // of an image
  int threads_;
  int64_t compute_bytes_;
  // Elements of a worker's memory; none if no block is packed.
  int64_t input_scratch_ = 0, output_scratch_ = 0, filter_scratch_ = 0;
  int64_t scratch() const {
    return input_scratch_ + output_scratch_ + filter_scratch_;
  }
};

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_DEPTHWISE_DEPTHWISE_FORWARD_H_
