#include "core/fused/integer_depthwise.h"

#include <algorithm>
#include <cstring>

#include "core/depthwise/tap_runs.h"
#include "core/tile.h"
#include "core/workspace.h"

namespace keras_adder {
namespace internal {
namespace {

// What distances take of the first-level cache until they become outputs.
constexpr int64_t kDistanceBytes = 32 << 10;

// Taps of an axis that meet what no output before did.
int64_t NextOf(const Axis& axis) { return std::min(axis.stride, axis.kernel); }

auto TapsOf(const Problem& problem, const FusedKernels& kernels) {
  return problem.fusion.filter_type == DataType::kUint8
             ? kernels.depthwise_bytes
             : kernels.depthwise_words;
}

auto WindowsOf(const Problem& problem, const FusedKernels& kernels) {
  const Axis& height = problem.geometry.height;
  const Axis& width = problem.geometry.width;
  const bool suits = height.kernel == kWindow && width.kernel == kWindow &&
                     width.stride == 1 && width.dilation == 1;
  return !suits ? nullptr
         : problem.fusion.filter_type == DataType::kUint8
             ? kernels.window_bytes
             : kernels.window_words;
}

}  // namespace

IntegerDepthwise::IntegerDepthwise(const Problem& problem,
                                   const FusedKernels& kernels)
    : geometry_(problem.geometry),
      fusion_(problem.fusion),
      output_type_(problem.output_type),
      lanes_(std::max<int64_t>(geometry_.out_channels, kLanes)),
      sum_taps_(TapsOf(problem, kernels)),
      sum_windows_(WindowsOf(problem, kernels)),
      filters_(geometry_, fusion_.filter_type, lanes_, sum_windows_ != nullptr),
      inputs_(problem, lanes_, kernels),
      outputs_at_once_(std::max<int64_t>(
          1, kDistanceBytes / (lanes_ * SizeOf(DataType::kInt32)))),
      item_rows_(problem.threads > 1
                     ? CeilDiv(rows(), kItemsPerThread * problem.threads)
                     : rows()),
      threads_(static_cast<int>(std::min<int64_t>(problem.threads, items()))) {
  const int residual =
      fusion_.has_residual ? TypeIndex(fusion_.residual_type) : kNoResidual;
  write_run_ = kernels.run_outputs[residual][TypeIndex(output_type_)];
  write_pixels_ = kernels.outputs[residual][TypeIndex(output_type_)];
  FindRuns();
  LayOut();
}

int64_t IntegerDepthwise::items() const { return CeilDiv(rows(), item_rows_); }

// Windows meet the padding like anything else.
void IntegerDepthwise::FindRuns() {
  const Axis& width = geometry_.width;
  std::vector<Columns> alike;
  if (sum_windows_ != nullptr) {
    alike.push_back({0, width.output});
  } else {
    for (const TapRun& run : OutputRuns(width)) {
      alike.push_back({run.first, run.count});
    }
  }
  for (const Columns& run : alike) {
    for (int64_t done = 0; done < run.count; done += outputs_at_once_) {
      runs_.push_back(
          {run.first + done, std::min(outputs_at_once_, run.count - done)});
    }
  }
}

void IntegerDepthwise::LayOut() {
  Places shared;
  shared_.padding = shared.Take(inputs_.pixel_bytes());
  shared_.multiplier = shared.Take((lanes_ + kRepeated) * sizeof(float));
  shared_.offset = shared.Take((lanes_ + kRepeated) * sizeof(float));
  shared_.end = shared.end();
  Places scratch;
  scratch_.packed = scratch.Take(inputs_.PackedBytes());
  scratch_.quantized = scratch.Take(inputs_.QuantizedBytes());
  const int64_t next_rows = NextOf(geometry_.height);
  const int64_t next = next_rows * NextOf(geometry_.width);
  scratch_.rows =
      scratch.Take((geometry_.height.kernel + next_rows) * sizeof(IntegerTap));
  scratch_.taps =
      scratch.Take((geometry_.kernel_taps() + next) * sizeof(IntegerTap));
  scratch_.distances =
      scratch.Take(outputs_at_once_ * lanes_ * sizeof(int32_t));
  scratch_.end = PaddedSize(scratch.end(), 1, threads_);
}

IntegerDepthwise::Scratch IntegerDepthwise::ScratchAt(
    uint8_t* memory, PackedRows::Held* held) const {
  return {{memory + scratch_.packed, memory + scratch_.quantized, held},
          reinterpret_cast<IntegerTap*>(memory + scratch_.rows),
          reinterpret_cast<IntegerTap*>(memory + scratch_.taps),
          reinterpret_cast<int32_t*>(memory + scratch_.distances)};
}

int64_t IntegerDepthwise::workspace_bytes(bool filters_are_packed) const {
  const int64_t filters = filters_are_packed ? 0 : filters_.PackedBytes();
  return RoundUp(filters, kWorkspaceAlignment) + shared_.end +
         threads_ * scratch_.end;
}

void IntegerDepthwise::Run(ThreadPool& pool, const Tensors& tensors,
                           void* workspace) const {
  auto* memory = static_cast<uint8_t*>(workspace);
  const void* filters = tensors.filters;
  if (tensors.packed_filters != nullptr) {
    filters = tensors.packed_filters;
  } else if (filters_.PackedBytes() > 0) {
    filters_.Pack(filters, memory);
    filters = memory;
    memory += RoundUp(filters_.PackedBytes(), kWorkspaceAlignment);
  }
  const Shared shared =
      Prepare(tensors, static_cast<const uint8_t*>(filters), memory);
  memory += shared_.end;
  const auto run = [&](int64_t item, int worker) {
    PackedRows::Held held(inputs_.packed_rows());
    const Scratch scratch = ScratchAt(memory + worker * scratch_.end, &held);
    const int64_t first = item * item_rows_;
    const int64_t end = std::min(first + item_rows_, rows());
    for (int64_t row = first; row < end; ++row) RunRow(row, shared, scratch);
  };
  RunTasks(pool, threads_, Task{items(), run});
}

IntegerDepthwise::Shared IntegerDepthwise::Prepare(const Tensors& tensors,
                                                   const uint8_t* filters,
                                                   uint8_t* memory) const {
  const Epilogue& epilogue = *tensors.epilogue;
  const uint8_t* padding = FillPadding(memory + shared_.padding);
  const float* multiplier =
      Repeat(epilogue.multiplier, 1, memory + shared_.multiplier);
  // To add negative zero changes nothing, not even that.
  const float* offset = Repeat(epilogue.offset, -0.0f, memory + shared_.offset);
  return {tensors, filters,
          padding, multiplier,
          offset,  FittingOf(geometry_, fusion_, output_type_, epilogue)};
}

const uint8_t* IntegerDepthwise::FillPadding(uint8_t* pixel) const {
  const int32_t zero_point = fusion_.input.zero_point;
  if (fusion_.filter_type == DataType::kUint8) {
    std::memset(pixel, zero_point, lanes_);
  } else {
    std::fill_n(reinterpret_cast<int16_t*>(pixel), lanes_,
                static_cast<int16_t>(zero_point));
  }
  return pixel;
}

// Values of channels, again and again; `none` where there are none at all.
const float* IntegerDepthwise::Repeat(const float* values, float none,
                                      uint8_t* memory) const {
  auto* const repeated = reinterpret_cast<float*>(memory);
  const int64_t channels = geometry_.out_channels, end = lanes_ + kRepeated;
  if (values == nullptr) {
    std::fill_n(repeated, end, none);
    return repeated;
  }
  std::copy_n(values, channels, repeated);
  for (int64_t i = channels; i < end; ++i) repeated[i] = repeated[i - channels];
  return repeated;
}

void IntegerDepthwise::RunRow(int64_t row, const Shared& shared,
                              const Scratch& scratch) const {
  MeetRows(row / geometry_.height.output, row % geometry_.height.output, shared,
           scratch);
  for (const Columns& columns : runs_) {
    if (sum_windows_ != nullptr) {
      SumWindows(columns, shared, scratch);
    } else {
      SumTaps(columns, shared, scratch);
    }
    Write(row * geometry_.width.output + columns.first, columns.count, shared,
          scratch);
  }
}

// Says which rows a row of outputs meets, and those that the next one is the
// first to meet.
void IntegerDepthwise::MeetRows(int64_t image, int64_t output_row,
                                const Shared& shared,
                                const Scratch& scratch) const {
  const void* const input = shared.tensors.input;
  const auto row_of = [&](const uint8_t* pixels) {
    return pixels == nullptr ? IntegerTap{shared.padding, 0}
                             : IntegerTap{pixels, inputs_.pixel_bytes()};
  };
  const int64_t taps = geometry_.height.kernel;
  for (int64_t tap = 0; tap < taps; ++tap) {
    scratch.rows[tap] =
        row_of(inputs_.Met(input, image, output_row, tap, scratch.memory));
  }
  for (int64_t i = 0; i < NextOf(geometry_.height); ++i) {
    scratch.rows[taps + i] =
        row_of(inputs_.InPlace(input, image, output_row + 1, taps - 1 - i));
  }
}

void IntegerDepthwise::SumTaps(const Columns& columns, const Shared& shared,
                               const Scratch& scratch) const {
  const Axis& width = geometry_.width;
  const auto met = [&](const IntegerTap& row, int64_t tap) -> IntegerTap {
    const int64_t at = width.Position(columns.first, tap);
    if (at < 0 || at >= width.input) return {shared.padding, 0};
    return {row.input + at * row.step, width.stride * row.step};
  };
  const int64_t rows = geometry_.height.kernel;
  IntegerTap* tap = scratch.taps;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < width.kernel; ++j) *tap++ = met(scratch.rows[i], j);
  }
  IntegerTap* const next = tap;
  for (int64_t i = 0; i < NextOf(geometry_.height); ++i) {
    for (int64_t j = 1; j <= NextOf(width); ++j) {
      *tap++ = met(scratch.rows[rows + i], width.kernel - j);
    }
  }
  sum_taps_({scratch.taps, next - scratch.taps, next, tap - next,
             shared.filters, lanes_, columns.count, scratch.distances});
}

void IntegerDepthwise::SumWindows(const Columns& columns, const Shared& shared,
                                  const Scratch& scratch) const {
  DepthwiseWindowParams params;
  std::copy_n(scratch.rows, kWindow, params.rows);
  params.padding = shared.padding;
  params.first = geometry_.width.Position(columns.first, 0);
  params.columns = geometry_.width.input;
  params.next = scratch.rows[kWindow];
  params.filters = shared.filters;
  params.starts = filters_.Starts(shared.filters);
  params.channels = lanes_;
  params.outputs = columns.count;
  params.totals = scratch.distances;
  sum_windows_(params);
}

// Makes outputs of distances: of `count` pixels, from `pixel` of all on.
void IntegerDepthwise::Write(int64_t pixel, int64_t count, const Shared& shared,
                             const Scratch& scratch) const {
  const int64_t channels = geometry_.out_channels;
  const int64_t element = pixel * channels;
  const void* residuals = nullptr;
  if (fusion_.has_residual) {
    residuals = static_cast<const uint8_t*>(shared.tensors.residual) +
                element * SizeOf(fusion_.residual_type);
  }
  void* const outputs = static_cast<uint8_t*>(shared.tensors.output) +
                        element * SizeOf(output_type_);
  const float lower = shared.tensors.epilogue->lower;
  const float upper = shared.tensors.epilogue->upper;
  if (lanes_ == channels) {
    return write_run_({scratch.distances, count * channels, channels,
                       shared.multiplier, shared.offset, lower, upper,
                       shared.fitting, fusion_.residual, fusion_.output,
                       residuals, outputs});
  }
  static constexpr int32_t kNoSums[kLanes] = {};
  write_pixels_({scratch.distances, count, 0, nullptr, kNoSums,
                 shared.multiplier, shared.offset, lower, upper, shared.fitting,
                 fusion_.residual, fusion_.output, residuals, outputs, channels,
                 channels});
}

}  // namespace internal
}  // namespace keras_adder
