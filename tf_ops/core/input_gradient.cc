#include "core/input_gradient.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/engines.h"
#include "core/workspace.h"

namespace keras_adder {
namespace internal {

InputGradientPlan::InputGradientPlan(const Problem& problem,
                                     const Geometry& geometry,
                                     const AxisPhases& rows,
                                     const AxisPhases& columns)
    : set_(*problem.kernels),
      filters_(geometry, FilterOrder::kOutputsToInputs),
      input_size_(geometry.input_size()),
      partial_(static_cast<int64_t>(rows.phases.size()) <
                   std::min(geometry.height.stride, geometry.height.input) ||
               static_cast<int64_t>(columns.phases.size()) <
                   std::min(geometry.width.stride, geometry.width.input)),
      blocking_(
          OutputImage(geometry), InputImage(geometry), geometry.groups,
          filters_, rows, columns,
          SplitReduction(ChannelBlocks(geometry.group_out()), geometry.height,
                         geometry.width,
                         rows.phases.size() * columns.phases.size(), false),
          ComputeBytes(problem.type), problem.threads),
      gradient_scratch_(blocking_.most_source_slots() *
                        blocking_.reduction_blocks[0].blocks * kLanes),
      tile_scratch_(blocking_.tile_pixels() *
                    MostBlocks(blocking_.destination_ranges) * kLanes) {}

int64_t InputGradientPlan::workspace_bytes() const {
  const int threads = blocking_.threads;
  const int64_t compute_bytes = blocking_.compute_bytes;
  return (PaddedSize(filters_.size(), compute_bytes, threads) +
          threads * PaddedSize(worker_elements(), compute_bytes, threads)) *
             compute_bytes -
         GapBytes(threads);
}

template <typename T, typename O>
void InputGradientPlan::Run(ThreadPool& pool, const TypedTensors<T, O>& tensors,
                            void* workspace) const {
  using C = typename ComputeType<T>::type;
  const int threads = blocking_.threads;
  C* const packed = static_cast<C*>(workspace);
  C* const scratch = packed + PaddedSize(filters_.size(), sizeof(C), threads);
  const int64_t scratch_stride =
      PaddedSize(worker_elements(), sizeof(C), threads);
  std::atomic<bool> finite{true};
  const std::vector<BlockRange> shares = filters_.SplitForThreads(threads);
  const auto pack = [&](int64_t share, int) {
    for (const ReductionBlock& reduction : blocking_.reduction_blocks) {
      filters_.Pack(set_, tensors.filters, shares[share],
                    {reduction.first_block, reduction.blocks}, packed, &finite);
    }
  };
  const auto run = [&](int64_t index, int number) {
    const WorkItem item = blocking_.WorkItemAt(index);
    if (item.empty()) return;
    Worker<C> worker;
    worker.gradient = scratch + number * scratch_stride;
    worker.totals = worker.gradient + gradient_scratch_;
    worker.input = worker.totals + tile_scratch_;
    RunItem<C>(item, tensors, packed, finite, worker);
  };
  const auto zero =
      ZeroTask(tensors.input_gradient, partial_ ? input_size_ * sizeof(T) : 0);
  RunTasks(pool, threads, zero, Task{static_cast<int64_t>(shares.size()), pack},
           Task{blocking_.work_items, run});
}

template <typename C, typename T, typename O>
void InputGradientPlan::RunItem(const WorkItem& item,
                                const TypedTensors<T, O>& tensors,
                                const C* filters, bool finite,
                                const Worker<C>& worker) const {
  const TileBounds& at = item.at;
  const int64_t blocks = item.blocks.count;
  const int64_t block_stride = blocking_.tile_pixels() * kLanes;
  std::memset(worker.totals, 0, block_stride * blocks * sizeof(C));
  PackTile(set_, tensors.input, input_image(), item.rows->destination,
           item.columns->destination, at, item.blocks.first, blocks,
           block_stride, worker.input);
  bool propagate_nan = !finite;
  const int64_t filled =
      at.images * blocking_.tile_rows * blocking_.tile_columns;
  for (int64_t p = 0; p < blocks && !propagate_nan; ++p) {
    propagate_nan =
        !KernelsOf<C>(set_).all_finite(worker.input + p * block_stride, filled);
  }
  const std::vector<RowSegments> segments = blocking_.SegmentsOf(
      item, SourceAccess(), 0, item.rows->source.tap_slots.size());
  for (const ReductionBlock& reduction : blocking_.reduction_blocks) {
    PackTile(set_, tensors.output_gradient, gradient_image(), item.rows->source,
             item.columns->source, at, reduction.first_block, reduction.blocks,
             Blocking::SourceBlockElements(item, blocking_.tile_images),
             worker.gradient);
    AddTerms(item, reduction, segments, propagate_nan, filters, worker);
  }
  UnpackTile(set_, worker.totals, input_image(), item.rows->destination,
             item.columns->destination, at, item.blocks.first, blocks,
             block_stride, tensors.input_gradient);
}

// Adds what a reduction block contributes to all of an item's totals.
template <typename C>
void InputGradientPlan::AddTerms(const WorkItem& item,
                                 const ReductionBlock& reduction,
                                 const std::vector<RowSegments>& segments,
                                 bool propagate_nan, const C* filters,
                                 const Worker<C>& worker) const {
  const AxisPlan& columns = item.columns->source;
  const int64_t block_stride = blocking_.tile_pixels() * kLanes;
  InputGradientParams<C> params{};
  params.source = worker.gradient;
  params.source_block_stride =
      Blocking::SourceBlockElements(item, blocking_.tile_images);
  params.source_row_stride = columns.slots * kLanes;
  params.filter_block_stride = filters_.block_stride();
  params.filter_row_stride = filters_.TapAt(1, 0);
  params.filter_column_stride = filters_.TapAt(0, 1);
  params.column_taps = columns.tap_slots.data();
  params.column_tap_count = columns.tap_slots.size();
  params.channels = filters_.ChannelsOf(reduction);
  for (int64_t p = 0; p < item.blocks.count; ++p) {
    params.filters = filters +
                     blocking_.PanelOf(item, p) * filters_.panel_stride() +
                     reduction.first_block * params.filter_block_stride;
    params.total = worker.totals + p * block_stride;
    params.centre = worker.input + p * block_stride;
    if (propagate_nan) {
      AddInside(item, params);
      continue;
    }
    for (const RowSegments& some : segments) AddSegments(item, some, params);
  }
}

template <typename C>
void InputGradientPlan::AddSegments(
    const WorkItem& item, const RowSegments& segments,
    const InputGradientParams<C>& params) const {
  if (segments.tap_rows == 0) return;
  const Kernels<C>& kernels = KernelsOf<C>(set_);
  InputGradientParams<C> here = params;
  here.row_taps = item.rows->source.tap_slots.data() + segments.first_tap_row;
  here.row_tap_count = segments.tap_rows;
  const int64_t runs = CeilDiv(segments.pixels, kernels.max_input_gradient);
  for (int64_t i = 0; i < runs; ++i) {
    const int64_t first = segments.pixels * i / runs;
    const int64_t end = segments.pixels * (i + 1) / runs;
    for (const RunOffsets& start : segments.starts) {
      const int64_t at = start.total + first * kLanes;
      here.source = params.source + start.source + first * kLanes;
      here.total = params.total + at;
      here.centre = params.centre + at;
      kernels.input_gradient(here, static_cast<int>(end - first));
    }
  }
}

// The same, slowly, for an input gradient that may meet NaNs: pixel by pixel,
// with only those taps whose output exists. The others add
// 0 * HT(filter - input), which is nothing unless it is NaN.
template <typename C>
void InputGradientPlan::AddInside(const WorkItem& item,
                                  const InputGradientParams<C>& params) const {
  const auto inside = [](const AxisPlan& plan, int64_t at, int64_t size) {
    std::vector<TapSlot> taps;
    for (size_t i = 0; i < plan.taps.size(); ++i) {
      const int64_t source = at + plan.taps[i].shift;
      if (source >= 0 && source < size) taps.push_back(plan.tap_slots[i]);
    }
    return taps;
  };
  const AxisPlan& row_plan = item.rows->source;
  const AxisPlan& column_plan = item.columns->source;
  InputGradientParams<C> here = params;
  for (int64_t row = 0; row < item.at.rows; ++row) {
    const auto row_taps =
        inside(row_plan, item.at.row + row, gradient_image().height);
    here.row_taps = row_taps.data();
    here.row_tap_count = row_taps.size();
    for (int64_t column = 0; column < item.at.columns; ++column) {
      const auto column_taps =
          inside(column_plan, item.at.column + column, gradient_image().width);
      if (column_taps.empty()) continue;
      here.column_taps = column_taps.data();
      here.column_tap_count = column_taps.size();
      for (int64_t image = 0; image < item.at.images; ++image) {
        const int64_t pixel =
            (image * blocking_.tile_rows + row) * blocking_.tile_columns +
            column;
        here.source =
            params.source +
            ((image * row_plan.slots + row) * column_plan.slots + column) *
                kLanes;
        here.total = params.total + pixel * kLanes;
        here.centre = params.centre + pixel * kLanes;
        KernelsOf<C>(set_).input_gradient(here, 1);
      }
    }
  }
}

}  // namespace internal

std::unique_ptr<const Engine> MakeInputGradient(const Problem& problem) {
  if (problem.pass != Pass::kInputGradient) return nullptr;
  const Geometry geometry = Folded(problem.geometry);
  const internal::AxisPhases rows{BackwardPhases(geometry.height), 1,
                                  geometry.height.stride};
  const internal::AxisPhases columns{BackwardPhases(geometry.width), 1,
                                     geometry.width.stride};
  if (rows.phases.empty() || columns.phases.empty()) {
    return MakeZeroGradients(problem);
  }
  return internal::MakeTyped<internal::TypedEngine>(
      problem, internal::InputGradientPlan(problem, geometry, rows, columns));
}

}  // namespace keras_adder
