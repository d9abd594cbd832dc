#include "core/depthwise/depthwise_gradient.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "core/depthwise/suits_depthwise.h"
#include "core/engines.h"
#include "core/stride_phase.h"
#include "core/workspace.h"

namespace keras_adder {
namespace internal {
namespace {

// Chunks that are wanted for a good balance between threads, the memory that
// their filter gradients may take, and pixels that each should have at least,
// for these to weigh little.
constexpr int64_t kWantedChunks = 32;
constexpr int64_t kChunkBytes = 8 << 20;
constexpr int64_t kChunkPixels = 64;

}  // namespace

DepthwiseGradientPlan::DepthwiseGradientPlan(const Problem& problem)
    : set_(*problem.kernels),
      of_input_(problem.pass != Pass::kFilterGradient),
      of_filters_(problem.pass != Pass::kInputGradient),
      mode_(problem.mode),
      geometry_(problem.geometry),
      blocks_(geometry_),
      in_place_(IsComputedAsIs(problem.type) ? blocks_.blocks_in_place() : 0),
      input_rows_(InputRuns(geometry_.height)),
      input_columns_(InputRuns(geometry_.width)),
      output_rows_(OutputRuns(geometry_.height)),
      output_columns_(OutputRuns(geometry_.width)),
      run_of_input_(RunOfEach(input_rows_, geometry_.height.input)),
      run_of_output_(RunOfEach(output_rows_, geometry_.height.output)),
      packed_rows_(geometry_.height.kernel,
                   TapStep(geometry_.height) * geometry_.height.dilation /
                       geometry_.height.stride,
                   geometry_.height.output),
      compute_bytes_(ComputeBytes(problem.type)) {
  const int64_t rows = geometry_.batch * geometry_.height.input;
  chunks_ = std::clamp<int64_t>(
      std::min({kWantedChunks, rows * geometry_.width.input / kChunkPixels,
                kChunkBytes / (partial_size() * compute_bytes_)}),
      1, rows);
  threads_ = static_cast<int>(std::min<int64_t>(problem.threads, chunks_));
  zero_scratch_ = blocks_.count() * kLanes;
  if (in_place_ < blocks_.count()) {
    input_scratch_ = blocks_.planes() * geometry_.width.input * kLanes;
    // One more row, of which padding is met.
    gradient_scratch_ =
        (packed_rows_.slots() + 1) * geometry_.width.output * kLanes;
    filter_scratch_ = block_size();
  }
}

int64_t DepthwiseGradientPlan::workspace_bytes() const {
  const int64_t partials = of_filters_ ? chunks_ * partial_size() : 0;
  return compute_bytes_ *
         (partials +
          threads_ * PaddedSize(scratch(), compute_bytes_, threads_));
}

template <typename T, typename O>
void DepthwiseGradientPlan::Run(ThreadPool& pool,
                                const TypedTensors<T, O>& tensors,
                                void* workspace) const {
  using C = typename ComputeType<T>::type;
  C* const partials = static_cast<C*>(workspace);
  C* const scratch = partials + (of_filters_ ? chunks_ * partial_size() : 0);
  const int64_t stride = PaddedSize(this->scratch(), sizeof(C), threads_);
  const auto run = [&](int64_t chunk, int number) {
    C* const own = scratch + number * stride;
    C* const gradient = own + 2 * input_scratch_;
    C* const filters = gradient + gradient_scratch_;
    C* const zeros = filters + filter_scratch_;
    std::memset(zeros, 0, zero_scratch_ * sizeof(C));
    const Worker<C> worker = {own, own + input_scratch_, gradient, filters,
                              zeros};
    C* total = nullptr;
    if (of_filters_) {
      total = partials + chunk * partial_size();
      std::memset(total, 0, partial_size() * sizeof(C));
    }
    if (in_place_ > 0) RunInPlace(chunk, tensors, total, worker);
    for (int64_t block = in_place_; block < blocks_.count(); ++block) {
      RunPacked(chunk, block, tensors,
                total == nullptr ? nullptr : total + block * block_size(),
                worker);
    }
  };
  const auto finish = [&](int64_t block, int) {
    C* const total = partials + block * block_size();
    for (int64_t chunk = 1; chunk < chunks_; ++chunk) {
      KernelsOf<C>(set_).add_slots(total + chunk * partial_size(),
                                   blocks_.terms(), total);
    }
    blocks_.UnpackFilters(set_, total, block, tensors.filter_gradient);
  };
  RunTasks(pool, threads_, Task{chunks_, run},
           Task{of_filters_ ? blocks_.count() : 0, finish});
}

template <typename T, typename O, typename C>
void DepthwiseGradientPlan::RunInPlace(int64_t chunk,
                                       const TypedTensors<T, O>& tensors,
                                       C* total,
                                       const Worker<C>& worker) const {
  if constexpr (std::is_same_v<T, C> && std::is_same_v<O, C>) {
    const ImageStrides& input = geometry_.input_strides;
    const ImageStrides& output = geometry_.output_strides;
    const int64_t height = geometry_.height.input;
    View<C> view{};
    view.rows.resize(geometry_.height.kernel);
    view.pixel_stride = input.width;
    view.gradient_pixel_stride = output.width;
    view.filters = tensors.filters;
    view.term_stride = geometry_.out_channels;
    view.total = total;
    view.blocks = in_place_;
    const Rows inputs = Share(geometry_.batch * height, chunk);
    for (int64_t at = inputs.first; at < inputs.end; ++at) {
      const int64_t image = at / height, row = at % height;
      const ptrdiff_t offset = image * input.batch + row * input.height;
      const TapRun& taps = TapsOfInput(row);
      view.input = tensors.input + offset;
      if (of_input_) view.input_gradient = tensors.input_gradient + offset;
      view.gradient = tensors.output_gradient + image * output.batch;
      for (const int64_t tap : taps.inside) {
        view.rows[tap] = OutputRow(row, tap) * output.height;
      }
      RunInputRow(taps, view);
    }
    if (!of_filters_) return;
    view.input = worker.zeros;
    const Rows outputs =
        Share(geometry_.batch * geometry_.height.output, chunk);
    for (int64_t at = outputs.first; at < outputs.end; ++at) {
      const int64_t image = at / geometry_.height.output;
      const int64_t row = at % geometry_.height.output;
      view.gradient =
          tensors.output_gradient + image * output.batch + row * output.height;
      RunPadding(TapsOfOutput(row), view);
    }
  }
}

template <typename T, typename O, typename C>
void DepthwiseGradientPlan::RunPacked(int64_t chunk, int64_t block,
                                      const TypedTensors<T, O>& tensors,
                                      C* total, const Worker<C>& worker) const {
  const ImageStrides& input = geometry_.input_strides;
  const ImageStrides& output = geometry_.output_strides;
  const int64_t height = geometry_.height.input;
  const int64_t row_size = geometry_.width.output * kLanes;
  const auto row_of = [&](const ImageStrides& strides, int64_t image,
                          int64_t row, int64_t count) {
    return RowSpan{image * strides.batch + row * strides.height, 0, count};
  };
  View<C> view{};
  view.rows.resize(geometry_.height.kernel);
  view.pixel_stride = kLanes;
  view.plane_stride = geometry_.width.input * kLanes;
  view.gradient_pixel_stride = kLanes;
  view.filters = worker.filters;
  view.term_stride = kLanes;
  view.total = total;
  view.blocks = 1;
  view.input = worker.input;
  view.input_gradient = of_input_ ? worker.input_gradient : nullptr;
  view.gradient = worker.gradient;
  blocks_.PackFilters(set_, tensors.filters, block, worker.filters);
  PackedRows::Held held(packed_rows_);
  const Rows inputs = Share(geometry_.batch * height, chunk);
  for (int64_t at = inputs.first; at < inputs.end; ++at) {
    const int64_t image = at / height, row = at % height;
    const TapRun& taps = TapsOfInput(row);
    for (const int64_t tap : taps.inside) {
      const int64_t from = OutputRow(row, tap);
      const int64_t slot = packed_rows_.SlotOf(from);
      view.rows[tap] = slot * row_size;
      if (!held.Misses(slot, image * geometry_.height.output + from)) continue;
      blocks_.PackOutputs(set_, tensors.output_gradient,
                          row_of(output, image, from, geometry_.width.output),
                          block, worker.gradient + slot * row_size);
    }
    const RowSpan span = row_of(input, image, row, geometry_.width.input);
    for (int64_t p = 0; p < blocks_.planes(); ++p) {
      blocks_.PackInputs(set_, tensors.input, span, block, p,
                         worker.input + p * view.plane_stride);
    }
    RunInputRow(taps, view);
    for (int64_t p = 0; of_input_ && p < blocks_.planes(); ++p) {
      blocks_.UnpackInputs(set_, worker.input_gradient + p * view.plane_stride,
                           span, block, p, tensors.input_gradient);
    }
  }
  if (of_filters_) {
    view.input = worker.zeros;
    view.gradient = worker.gradient +
                    packed_rows_.slots() * geometry_.width.output * kLanes;
    RunPackedPadding(chunk, block, tensors, worker, view);
  }
}

// Of the output gradients no more is packed than what meets padding.
template <typename T, typename O, typename C>
void DepthwiseGradientPlan::RunPackedPadding(int64_t chunk, int64_t block,
                                             const TypedTensors<T, O>& tensors,
                                             const Worker<C>& worker,
                                             const View<C>& view) const {
  const ImageStrides& strides = geometry_.output_strides;
  const int64_t height = geometry_.height.output;
  C* const spare =
      worker.gradient + packed_rows_.slots() * geometry_.width.output * kLanes;
  const Rows outputs = Share(geometry_.batch * height, chunk);
  for (int64_t at = outputs.first; at < outputs.end; ++at) {
    const int64_t image = at / height, row = at % height;
    const TapRun& taps = TapsOfOutput(row);
    for (const TapRun& run : output_columns_) {
      if (taps.outside.empty() && run.outside.empty()) continue;
      blocks_.PackOutputs(
          set_, tensors.output_gradient,
          {image * strides.batch + row * strides.height, run.first, run.count},
          block, spare + run.first * kLanes);
    }
    RunPadding(taps, view);
  }
}

template <typename C>
DepthwiseGradientParams<C> DepthwiseGradientPlan::ParamsOf(
    const View<C>& view) const {
  DepthwiseGradientParams<C> params{};
  params.input_block_stride = kLanes;
  params.gradient_block_stride = kLanes;
  params.gradient_pixel_stride = view.gradient_pixel_stride;
  params.filters = view.filters;
  params.filter_block_stride = kLanes;
  params.total = view.total;
  params.total_block_stride = block_size();
  params.blocks = view.blocks;
  return params;
}

template <typename C>
typename DepthwiseKernels<C>::Gradient DepthwiseGradientPlan::FilterKernel()
    const {
  const DepthwiseKernels<C>& kernels = KernelsOf<C>(set_).depthwise;
  return mode_ == FilterGradientMode::kSign ? kernels.filter_gradient_sign
                                            : kernels.filter_gradient;
}

template <typename C>
typename DepthwiseKernels<C>::Gradient DepthwiseGradientPlan::Kernel() const {
  const DepthwiseKernels<C>& kernels = KernelsOf<C>(set_).depthwise;
  if (!of_input_) return FilterKernel<C>();
  if (!of_filters_) return kernels.input_gradient;
  return mode_ == FilterGradientMode::kSign ? kernels.backward_sign
                                            : kernels.backward;
}

// A few pixels at a time, for all channels: what is read stays in the caches.
template <typename C>
void DepthwiseGradientPlan::RunInputRow(const TapRun& row_taps,
                                        const View<C>& view) const {
  constexpr int64_t kPixels = 24;
  const Axis& width = geometry_.width;
  const auto kernel = Kernel<C>();
  DepthwiseGradientParams<C> params = ParamsOf(view);
  std::vector<DepthwiseTap> taps;
  for (const TapRun& run : input_columns_) {
    for (int64_t plane = 0; plane < blocks_.planes(); ++plane) {
      taps.clear();
      for (const int64_t i : row_taps.inside) {
        for (const int64_t j : run.inside) {
          const int64_t column =
              (run.first + width.pad_before - j * width.dilation) /
              width.stride;
          taps.push_back(TapAt(
              i, j, plane, view.rows[i] + column * view.gradient_pixel_stride,
              view.term_stride));
        }
      }
      if (taps.empty() && !of_input_) continue;
      params.taps = taps.data();
      params.tap_count = taps.size();
      params.input_pixel_stride = run.step * view.pixel_stride;
      const int64_t parts = CeilDiv(run.count, kPixels);
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t first = run.count * part / parts;
        const ptrdiff_t at = plane * view.plane_stride +
                             run.first * view.pixel_stride +
                             first * params.input_pixel_stride;
        params.pixels = run.count * (part + 1) / parts - first;
        params.input = view.input + at;
        if (of_input_) params.input_gradient = view.input_gradient + at;
        params.gradient = view.gradient + first * view.gradient_pixel_stride;
        kernel(params);
      }
    }
  }
}

// Of one output row: all taps that meet zeros, which is what `input` holds.
template <typename C>
void DepthwiseGradientPlan::RunPadding(const TapRun& row_taps,
                                       const View<C>& view) const {
  const auto kernel = FilterKernel<C>();
  DepthwiseGradientParams<C> params = ParamsOf(view);
  params.input = view.input;
  params.input_pixel_stride = 0;
  std::vector<DepthwiseTap> taps;
  const auto add = [&](int64_t i, const std::vector<int64_t>& columns) {
    for (const int64_t j : columns) {
      for (int64_t plane = 0; plane < blocks_.planes(); ++plane) {
        taps.push_back(TapAt(i, j, plane, 0, view.term_stride));
      }
    }
  };
  for (const TapRun& run : output_columns_) {
    taps.clear();
    for (const int64_t i : row_taps.inside) add(i, run.outside);
    for (const int64_t i : row_taps.outside) {
      add(i, run.inside);
      add(i, run.outside);
    }
    if (taps.empty()) continue;
    params.taps = taps.data();
    params.tap_count = taps.size();
    params.pixels = run.count;
    params.gradient = view.gradient + run.first * view.gradient_pixel_stride;
    kernel(params);
  }
}

}  // namespace internal

std::unique_ptr<const Engine> MakeDepthwiseGradient(const Problem& problem) {
  if (problem.pass == Pass::kForward || problem.pass == Pass::kFused ||
      !SuitsDepthwise(problem.geometry)) {
    return nullptr;
  }
  return internal::MakeTyped<internal::TypedEngine>(
      problem, internal::DepthwiseGradientPlan(problem));
}

}  // namespace keras_adder
