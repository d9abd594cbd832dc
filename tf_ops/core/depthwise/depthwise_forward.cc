#include "core/depthwise/depthwise_forward.h"

#include <algorithm>
#include <type_traits>

#include "core/depthwise/suits_depthwise.h"
#include "core/engines.h"
#include "core/workspace.h"

namespace keras_adder {
namespace internal {
namespace {

// Outputs of more bytes than this are in no cache when they are written. Found
// with `benchmarks/conv2d.py --parts depthwise` on Zen 4 with 32 MiB of
// third-level cache.
constexpr int64_t kCacheBytes = 8 << 20;

}  // namespace

DepthwiseForwardPlan::DepthwiseForwardPlan(const Problem& problem)
    : set_(*problem.kernels),
      geometry_(problem.geometry),
      blocks_(geometry_),
      in_place_(IsComputedAsIs(problem.type) ? blocks_.blocks_in_place() : 0),
      rows_(OutputRuns(geometry_.height)),
      columns_(OutputRuns(geometry_.width)),
      run_of_row_(RunOfEach(rows_, geometry_.height.output)),
      packed_rows_(geometry_.height.kernel, geometry_.height.dilation,
                   geometry_.height.input),
      compute_bytes_(ComputeBytes(problem.type)) {
  const int64_t wanted = problem.threads > 1 ? kItemsPerThread : 1;
  bands_ =
      std::clamp<int64_t>(CeilDiv(wanted * problem.threads, geometry_.batch), 1,
                          geometry_.height.output);
  threads_ = static_cast<int>(std::min<int64_t>(problem.threads, items()));
  if (in_place_ < blocks_.count()) {
    input_scratch_ = packed_rows_.slots() * blocks_.planes() *
                     geometry_.width.input * kLanes;
    output_scratch_ = geometry_.width.output * kLanes;
    filter_scratch_ = blocks_.terms() * kLanes;
  }
}

int64_t DepthwiseForwardPlan::workspace_bytes() const {
  return compute_bytes_ *
         (2 * RoundUp(blocks_.count() * kLanes, kWorkspaceAlignment) +
          threads_ * PaddedSize(scratch(), compute_bytes_, threads_));
}

DepthwiseForwardPlan::WorkItem DepthwiseForwardPlan::ItemAt(
    int64_t index) const {
  const int64_t band = index % bands_;
  const int64_t rows = geometry_.height.output;
  return {index / bands_, rows * band / bands_, rows * (band + 1) / bands_};
}

template <typename C>
DepthwiseForwardPlan::LaneEpilogue<C> DepthwiseForwardPlan::SpreadEpilogue(
    const Epilogue* epilogue, C* memory) const {
  if (epilogue == nullptr) return {nullptr, nullptr, 0, 0};
  const int64_t size = blocks_.count() * kLanes;
  C* const multiplier = memory;
  C* const offset = memory + RoundUp(size, kWorkspaceAlignment);
  std::fill_n(multiplier, size, C{1});
  // To add it changes nothing, not even a negative zero.
  std::fill_n(offset, size, C{-0.0});
  for (int64_t block = 0; block < blocks_.count(); ++block) {
    const int64_t from = blocks_.first_output(block);
    const int lanes = blocks_.lanes(block);
    if (epilogue->multiplier != nullptr) {
      std::copy_n(epilogue->multiplier + from, lanes,
                  multiplier + block * kLanes);
    }
    if (epilogue->offset != nullptr) {
      std::copy_n(epilogue->offset + from, lanes, offset + block * kLanes);
    }
  }
  return {multiplier, offset, epilogue->lower, epilogue->upper};
}

template <typename T, typename O>
void DepthwiseForwardPlan::Run(ThreadPool& pool,
                               const TypedTensors<T, O>& tensors,
                               void* workspace) const {
  using C = typename ComputeType<T>::type;
  C* const memory = static_cast<C*>(workspace);
  const LaneEpilogue<C> epilogue = SpreadEpilogue(tensors.epilogue, memory);
  C* const scratch =
      memory + 2 * RoundUp(blocks_.count() * kLanes, kWorkspaceAlignment);
  const int64_t stride = PaddedSize(this->scratch(), sizeof(C), threads_);
  const auto run = [&](int64_t index, int number) {
    const WorkItem item = ItemAt(index);
    C* const own = scratch + number * stride;
    const Worker<C> worker = {own, own + input_scratch_,
                              own + input_scratch_ + output_scratch_};
    if (in_place_ > 0) RunInPlace(item, tensors, epilogue);
    for (int64_t block = in_place_; block < blocks_.count(); ++block) {
      RunPacked(item, block, tensors, epilogue, worker);
    }
    if (tensors.epilogue != nullptr && tensors.epilogue->after != nullptr) {
      VisitOutputs(item, *tensors.epilogue->after);
    }
  };
  RunTasks(pool, threads_, Task{items(), run});
}

template <typename T, typename O, typename C>
void DepthwiseForwardPlan::RunInPlace(const WorkItem& item,
                                      const TypedTensors<T, O>& tensors,
                                      const LaneEpilogue<C>& epilogue) const {
  if constexpr (std::is_same_v<T, C> && std::is_same_v<O, C>) {
    const ImageStrides& input = geometry_.input_strides;
    const ImageStrides& output = geometry_.output_strides;
    View<C> view{nullptr,
                 std::vector<ptrdiff_t>(geometry_.height.kernel),
                 input.width,
                 0,
                 tensors.filters,
                 geometry_.out_channels,
                 nullptr,
                 output.width,
                 0,
                 in_place_};
    // Seen from the input row that an output row's first tap would meet without
    // padding, taps are the same for all rows of a run.
    for (int64_t tap = 0; tap < geometry_.height.kernel; ++tap) {
      view.rows[tap] = InputRow(0, tap) * input.height;
    }
    RowLists lists;
    int64_t listed = -1;
    for (int64_t row = item.first_row; row < item.end_row; ++row) {
      if (run_of_row_[row] != listed) {
        ListRow(RowTaps(row), view, &lists);
        listed = run_of_row_[row];
      }
      view.input = tensors.input + item.image * input.batch +
                   row * geometry_.height.stride * input.height;
      view.output =
          tensors.output + item.image * output.batch + row * output.height;
      RunRow(lists, view, epilogue);
    }
  }
}

template <typename T, typename O, typename C>
void DepthwiseForwardPlan::RunPacked(const WorkItem& item, int64_t block,
                                     const TypedTensors<T, O>& tensors,
                                     const LaneEpilogue<C>& epilogue,
                                     const Worker<C>& worker) const {
  const ImageStrides& input = geometry_.input_strides;
  const ImageStrides& output = geometry_.output_strides;
  const int64_t plane = geometry_.width.input * kLanes;
  const int64_t slot_size = blocks_.planes() * plane;
  blocks_.PackFilters(set_, tensors.filters, block, worker.filters);
  View<C> view{worker.input,   std::vector<ptrdiff_t>(geometry_.height.kernel),
               kLanes,         plane,
               worker.filters, kLanes,
               worker.output,  kLanes,
               block,          1};
  PackedRows::Held held(packed_rows_);
  RowLists lists;
  for (int64_t row = item.first_row; row < item.end_row; ++row) {
    const TapRun& taps = RowTaps(row);
    for (const int64_t tap : taps.inside) {
      const int64_t from = InputRow(row, tap);
      const int64_t slot = packed_rows_.SlotOf(from);
      view.rows[tap] = slot * slot_size;
      if (!held.Misses(slot, from)) continue;
      for (int64_t p = 0; p < blocks_.planes(); ++p) {
        blocks_.PackInputs(set_, tensors.input,
                           {item.image * input.batch + from * input.height, 0,
                            geometry_.width.input},
                           block, p,
                           worker.input + slot * slot_size + p * plane);
      }
    }
    ListRow(taps, view, &lists);
    RunRow(lists, view, epilogue);
    blocks_.UnpackOutputs(set_, worker.output,
                          {item.image * output.batch + row * output.height, 0,
                           geometry_.width.output},
                          block, tensors.output);
  }
}

template <typename C>
void DepthwiseForwardPlan::ListRow(const TapRun& row_taps, const View<C>& view,
                                   RowLists* lists) const {
  lists->resize(columns_.size());
  for (size_t i = 0; i < columns_.size(); ++i) {
    TapList& list = (*lists)[i];
    ListTaps(row_taps, columns_[i], view, &list.taps);
    list.inside =
        row_taps.inside.size() * columns_[i].inside.size() * blocks_.planes();
  }
}

template <typename C>
void DepthwiseForwardPlan::RunRow(const RowLists& lists, const View<C>& view,
                                  const LaneEpilogue<C>& epilogue) const {
  DepthwiseForwardParams<C> params{};
  params.input = view.input;
  params.input_pixel_stride = geometry_.width.stride * view.pixel_stride;
  params.filters = view.filters;
  params.output_pixel_stride = view.output_pixel_stride;
  params.fetches_outputs =
      geometry_.output_size() * compute_bytes_ > kCacheBytes;
  params.blocks = view.blocks;
  if (epilogue.multiplier != nullptr) {
    params.multiplier = epilogue.multiplier + view.first_block * kLanes;
    params.offset = epilogue.offset + view.first_block * kLanes;
    params.lower = epilogue.lower;
    params.upper = epilogue.upper;
  }
  for (size_t i = 0; i < columns_.size(); ++i) {
    const TapRun& run = columns_[i];
    params.taps = lists[i].taps.data();
    params.inside = lists[i].inside;
    params.outside = lists[i].taps.size() - lists[i].inside;
    params.output = view.output + run.first * view.output_pixel_stride;
    params.pixels = run.count;
    KernelsOf<C>(set_).depthwise.forward(params);
  }
}

// Those inside first, as kernels want them.
template <typename C>
void DepthwiseForwardPlan::ListTaps(const TapRun& row_taps, const TapRun& run,
                                    const View<C>& view,
                                    std::vector<ForwardTap>* taps) const {
  const Axis& width = geometry_.width;
  const auto filter = [&](int64_t i, int64_t j, int64_t plane) {
    return ((i * width.kernel + j) * blocks_.planes() + plane) *
           view.term_stride;
  };
  taps->clear();
  for (const int64_t i : row_taps.inside) {
    for (const int64_t j : run.inside) {
      for (int64_t plane = 0; plane < blocks_.planes(); ++plane) {
        taps->push_back({view.rows[i] + plane * view.plane_stride +
                             width.Position(run.first, j) * view.pixel_stride,
                         filter(i, j, plane)});
      }
    }
  }
  const auto add_outside = [&](int64_t i, const std::vector<int64_t>& columns) {
    for (const int64_t j : columns) {
      for (int64_t plane = 0; plane < blocks_.planes(); ++plane) {
        taps->push_back({0, filter(i, j, plane)});
      }
    }
  };
  for (const int64_t i : row_taps.inside) add_outside(i, run.outside);
  for (const int64_t i : row_taps.outside) {
    add_outside(i, run.inside);
    add_outside(i, run.outside);
  }
}

// Runs of neighbouring elements of the output.
void DepthwiseForwardPlan::VisitOutputs(
    const WorkItem& item,
    const std::function<void(int64_t, int64_t)>& visit) const {
  const ImageStrides& strides = geometry_.output_strides;
  const int64_t first =
      item.image * strides.batch + item.first_row * strides.height;
  const int64_t count = (item.end_row - item.first_row) * strides.height;
  if (strides.channel == 1) return visit(first, count);
  for (int64_t channel = 0; channel < geometry_.out_channels; ++channel) {
    visit(first + channel * strides.channel, count);
  }
}

}  // namespace internal

std::unique_ptr<const Engine> MakeDepthwiseForward(const Problem& problem) {
  if (problem.pass != Pass::kForward || !SuitsDepthwise(problem.geometry)) {
    return nullptr;
  }
  return internal::MakeTyped<internal::TypedEngine>(
      problem, internal::DepthwiseForwardPlan(problem));
}

}  // namespace keras_adder
