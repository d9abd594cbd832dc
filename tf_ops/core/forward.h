// The forward pass: for each pixel of the output and each filter, minus the sum
// of distances.
//
// Kernels read inputs where they lie or, where they cannot or had better not,
// in a tile. Rows of taps that lie in the padding are skipped and, for the
// first and the last pixel of an image's row, so are columns of taps. What they
// contribute there, the filters' magnitudes, is subtracted without looking.
// Sums that a kernel completes may go to the tensor at once.

#ifndef KERAS_ADDER_CORE_FORWARD_H_
#define KERAS_ADDER_CORE_FORWARD_H_

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "core/blocking.h"
#include "core/engine.h"
#include "core/typed_engine.h"

namespace keras_adder {
namespace internal {

class ForwardPlan {
 public:
  // `geometry` is an equal convolution to the problem's.
  ForwardPlan(const Problem& problem, const Geometry& geometry);

  int64_t workspace_bytes(bool filters_are_packed = false) const;
  int64_t packed_filters_bytes() const {
    return filters_elements() * blocking_.compute_bytes;
  }

  template <typename T>
  void PackFilters(ThreadPool& pool, const T* filters, void* packed) const;
  template <typename T, typename O>
  void Run(ThreadPool& pool, const TypedTensors<T, O>& tensors,
           void* workspace) const;

 private:
  // The indirection buffers of a reduction block: `taps` for the tile of slot
  // sums, lists[i] for segments[i]. Items that lie alike in their images share
  // them; to make one takes as long as packing, so a worker keeps some.
  struct Indirection {
    std::array<int64_t, 11> key;
    std::vector<ForwardTap> taps;
    std::vector<RowSegments> segments;
    std::vector<std::vector<ForwardTap>> lists;
  };

  // How many elements of a worker's scratch each part takes.
  struct Scratch {
    int64_t source, totals;
    int64_t slots, pixels;  // sums
    int64_t total() const { return source + totals + 2 * (slots + pixels); }
  };

  // `slot_sums` and the rest are sums over a reduction block: of slots, and of
  // what the taps of a pixel see.
  template <typename C>
  struct Worker {
    C* source;
    C* totals;
    C* slot_sums;
    C* slot_magnitudes;
    C* pixel_sums;
    C* pixel_magnitudes;
    std::vector<Indirection>* cache;
  };

  // All filters as the kernels read them and, for each row of taps of each
  // reduction block and each lane of destinations, their sums.
  template <typename C>
  struct Filters {
    const C* packed;
    FilterSums<C> sums;
  };

  // An epilogue with a lane for each filter of each panel; null if none.
  template <typename C>
  struct PackedEpilogue {
    const C* multiplier;
    const C* offset;
    C lower, upper;
  };

  // Where kernels find an item's sources, seen from its first pixel: in a tile,
  // or in the tensor.
  template <typename C>
  struct SourceView {
    const C* first;
    ptrdiff_t block_stride, pixel_stride;
  };

  // An item's first `blocks` blocks of channels go straight to the tensor, from
  // `first` on.
  template <typename C>
  struct Results {
    C* first;
    int64_t blocks;
  };

  // How many blocks of destinations a kernel takes at once, and how many
  // vectors of sums it has then.
  struct AtOnce {
    int64_t blocks, sums;
  };

  const Image& input_image() const { return blocking_.source; }
  const Image& output_image() const { return blocking_.destination; }
  OutsideColumns FindOutsideColumns() const;
  bool SkipsAllColumnsOutside() const;
  bool CanReadInPlace(DataType type) const;
  OutsideColumns OutsideOf(const ReductionBlock& reduction) const;
  template <typename C>
  bool SuitsRows() const;
  template <typename C>
  AtOnce BlocksAtOnce(int64_t blocks, int64_t pixels) const;

  int64_t filters_elements() const;
  int64_t epilogue_elements() const { return filters_.panels() * kLanes; }
  int64_t FilterSumsOffset(int64_t panel) const {
    return panel * all_tap_rows_ * kLanes;
  }
  template <typename C>
  Filters<C> FiltersAt(C* memory) const;
  template <typename T, typename C>
  void PackShare(const T* filters, const BlockRange& panels, C* memory) const;
  template <typename C>
  void SumPackedFilters(const BlockRange& panels,
                        const ReductionBlock& reduction,
                        const Filters<C>& filters) const;
  template <typename C>
  PackedEpilogue<C> PackEpilogue(const Epilogue* epilogue, C* memory) const;
  template <typename C>
  Worker<C> WorkerAt(C* scratch, std::vector<Indirection>* cache) const;

  void ForEachRun(const WorkItem& item,
                  const std::function<void(int64_t, int64_t)>& visit) const;
  template <typename C, typename T, typename O>
  void RunItem(const WorkItem& item, const T* input, const Filters<C>& filters,
               const PackedEpilogue<C>& epilogue, O* output,
               Worker<C> worker) const;
  template <typename C, typename T>
  SourceView<C> SourcesOf(const WorkItem& item, const ReductionBlock& reduction,
                          const T* input, const Worker<C>& worker) const;
  template <typename C>
  bool SumSlots(const WorkItem& item, const ReductionBlock& reduction,
                const SourceView<C>& sources, const Worker<C>& worker) const;
  template <typename C>
  void SumSources(const WorkItem& item, const std::vector<ForwardTap>& taps,
                  const Worker<C>& worker) const;
  template <typename C, typename O>
  Results<C> ResultsOf(const WorkItem& item, O* output) const;
  const Indirection& IndirectionOf(const WorkItem& item,
                                   const ReductionBlock& reduction,
                                   std::vector<Indirection>* cache) const;
  std::array<int64_t, 11> KeyOf(const WorkItem& item,
                                const ReductionBlock& reduction) const;
  std::vector<ForwardTap> TapsOf(const WorkItem& item,
                                 const ReductionBlock& reduction, int64_t first,
                                 int64_t rows, bool in_place) const;
  template <typename C>
  void SubtractDistances(const WorkItem& item, const ReductionBlock& reduction,
                         const RowSegments& segments,
                         const std::vector<ForwardTap>& taps,
                         const SourceView<C>& sources,
                         const Filters<C>& filters,
                         const PackedEpilogue<C>& epilogue,
                         const Worker<C>& worker,
                         const Results<C>& results) const;
  template <typename C>
  void RunBlocks(const RowSegments& segments, const ForwardParams<C>& params,
                 int64_t blocks) const;
  template <typename C>
  void RunKernel(const ForwardKernel<C>& kernel, const RowSegments& segments,
                 int64_t begin, int64_t end,
                 const ForwardParams<C>& params) const;

  const KernelSet& set_;
  Axis height_, width_;
  PackedFilters filters_;
  bool by_rows_ = false;      // see Kernels::forward_rows
  int64_t all_tap_rows_ = 0;  // rows of taps in all reduction blocks
  Blocking blocking_;
  SourceAccess access_;
  Scratch scratch_{};
};

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_FORWARD_H_
