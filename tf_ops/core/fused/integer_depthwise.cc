#include "core/fused/integer_depthwise.h"

#include <algorithm>
#include <cstring>

#include "core/tile.h"
#include "core/workspace.h"

namespace keras_adder {
namespace internal {
namespace {

// What distances take of the first-level cache until they become outputs.
constexpr int64_t kDistanceBytes = 16 << 10;

// Items for each thread, so that one that is late does not matter much.
constexpr int64_t kItemsPerThread = 4;

// Taps of a row that lie before the image, and those that do not lie behind it.
struct Inside {
  int64_t first, end;
  bool operator==(const Inside& other) const {
    return first == other.first && end == other.end;
  }
};

Inside InsideOf(const Axis& axis, int64_t output) {
  Inside inside{0, axis.kernel};
  while (inside.first < axis.kernel &&
         axis.Position(output, inside.first) < 0) {
    ++inside.first;
  }
  while (inside.end > 0 &&
         axis.Position(output, inside.end - 1) >= axis.input) {
    --inside.end;
  }
  return inside;
}

// Hands out parts of a memory.
class Places {
 public:
  int64_t Take(int64_t bytes) {
    const int64_t begin = end_;
    end_ += RoundUp(bytes, kWorkspaceAlignment);
    return begin;
  }
  int64_t end() const { return end_; }

 private:
  int64_t end_ = 0;
};

}  // namespace

IntegerDepthwise::IntegerDepthwise(const Problem& problem,
                                   const FusedKernels& kernels)
    : geometry_(problem.geometry),
      fusion_(problem.fusion),
      output_type_(problem.output_type),
      lanes_(std::max<int64_t>(geometry_.out_channels, kLanes)),
      element_bytes_(SizeOf(fusion_.filter_type)),
      inputs_(problem, lanes_, kernels),
      outputs_at_once_(std::max<int64_t>(
          1,
          kDistanceBytes / (lanes_ * static_cast<int64_t>(sizeof(int32_t))))),
      item_rows_(problem.threads > 1
                     ? CeilDiv(rows(), kItemsPerThread * problem.threads)
                     : rows()),
      threads_(static_cast<int>(std::min<int64_t>(problem.threads, items()))),
      sum_(fusion_.filter_type == DataType::kUint8 ? kernels.depthwise_bytes
                                                   : kernels.depthwise_words) {
  const int residual =
      fusion_.has_residual ? TypeIndex(fusion_.residual_type) : kNoResidual;
  write_run_ = kernels.run_outputs[residual][TypeIndex(output_type_)];
  write_pixels_ = kernels.outputs[residual][TypeIndex(output_type_)];
  FindRuns();
  LayOut();
}

int64_t IntegerDepthwise::items() const { return CeilDiv(rows(), item_rows_); }

void IntegerDepthwise::FindRuns() {
  const Axis& width = geometry_.width;
  Inside last{-1, -1};
  for (int64_t column = 0; column < width.output; ++column) {
    const Inside inside = InsideOf(width, column);
    if (!(inside == last)) runs_.push_back({column, 0});
    ++runs_.back().count;
    last = inside;
  }
}

void IntegerDepthwise::LayOut() {
  const int64_t taps = geometry_.kernel_taps();
  Places shared;
  shared_.padding = shared.Take(inputs_.pixel_bytes());
  shared_.filters = shared.Take(
      lanes_ > geometry_.out_channels ? taps * inputs_.pixel_bytes() : 0);
  shared_.multiplier = shared.Take((lanes_ + kRepeated) * sizeof(float));
  shared_.offset = shared.Take((lanes_ + kRepeated) * sizeof(float));
  shared_.end = shared.end();
  Places scratch;
  scratch_.packed = scratch.Take(inputs_.PackedBytes());
  scratch_.held = scratch.Take(inputs_.HeldBytes());
  scratch_.quantized = scratch.Take(inputs_.QuantizedBytes());
  scratch_.rows = scratch.Take(geometry_.height.kernel * sizeof(uint8_t*));
  scratch_.taps = scratch.Take(taps * sizeof(DepthwiseTap));
  scratch_.distances =
      scratch.Take(outputs_at_once_ * lanes_ * sizeof(int32_t));
  scratch_.end = PaddedSize(scratch.end(), 1, threads_);
}

int64_t IntegerDepthwise::workspace_bytes(bool) const {
  return shared_.end + threads_ * scratch_.end;
}

IntegerDepthwise::Scratch IntegerDepthwise::ScratchAt(uint8_t* memory) const {
  return {{memory + scratch_.packed,
           reinterpret_cast<int64_t*>(memory + scratch_.held),
           memory + scratch_.quantized},
          reinterpret_cast<const uint8_t**>(memory + scratch_.rows),
          reinterpret_cast<DepthwiseTap*>(memory + scratch_.taps),
          reinterpret_cast<int32_t*>(memory + scratch_.distances)};
}

void IntegerDepthwise::Run(ThreadPool& pool, const Tensors& tensors,
                           void* workspace) const {
  auto* memory = static_cast<uint8_t*>(workspace);
  const Shared shared = Prepare(tensors, memory);
  memory += shared_.end;
  const auto run = [&](int64_t item, int worker) {
    const Scratch scratch = ScratchAt(memory + worker * scratch_.end);
    inputs_.Clear(scratch.memory);
    const int64_t first = item * item_rows_;
    const int64_t end = std::min(first + item_rows_, rows());
    for (int64_t row = first; row < end; ++row) RunRow(row, shared, scratch);
  };
  RunTasks(pool, threads_, Task{items(), run});
}

IntegerDepthwise::Shared IntegerDepthwise::Prepare(const Tensors& tensors,
                                                   uint8_t* memory) const {
  uint8_t* const padding = memory + shared_.padding;
  const int32_t zero_point = fusion_.input.zero_point;
  if (fusion_.filter_type == DataType::kUint8) {
    std::memset(padding, zero_point, lanes_);
  } else {
    std::fill_n(reinterpret_cast<int16_t*>(padding), lanes_,
                static_cast<int16_t>(zero_point));
  }
  const auto* filters = static_cast<const uint8_t*>(tensors.filters);
  if (lanes_ > geometry_.out_channels) {
    PadFilters(filters, memory + shared_.filters);
    filters = memory + shared_.filters;
  }
  const auto repeat = [&](const float* values, float none, int64_t place) {
    auto* repeated = reinterpret_cast<float*>(memory + place);
    const int64_t channels = geometry_.out_channels;
    for (int64_t i = 0; i < lanes_ + kRepeated; ++i) {
      repeated[i] = values == nullptr ? none
                    : i < channels    ? values[i]
                                      : repeated[i - channels];
    }
    return repeated;
  };
  const Epilogue& epilogue = *tensors.epilogue;
  // To add negative zero changes nothing, not even that.
  return {tensors, padding, filters,
          repeat(epilogue.multiplier, 1, shared_.multiplier),
          repeat(epilogue.offset, -0.0f, shared_.offset)};
}

// Lanes without a filter stay as they are: nobody reads what comes of them.
void IntegerDepthwise::PadFilters(const uint8_t* filters,
                                  uint8_t* padded) const {
  const int64_t bytes = geometry_.out_channels * element_bytes_;
  for (int64_t tap = 0; tap < geometry_.kernel_taps(); ++tap) {
    std::memcpy(padded + tap * inputs_.pixel_bytes(), filters + tap * bytes,
                bytes);
  }
}

void IntegerDepthwise::RunRow(int64_t row, const Shared& shared,
                              const Scratch& scratch) const {
  const int64_t image = row / geometry_.height.output;
  const int64_t of_image = row % geometry_.height.output;
  for (int64_t tap = 0; tap < geometry_.height.kernel; ++tap) {
    scratch.rows[tap] =
        inputs_.Met(shared.tensors.input, image, of_image, tap, scratch.memory);
  }
  for (const Columns& run : runs_) {
    for (int64_t done = 0; done < run.count; done += outputs_at_once_) {
      const int64_t column = run.first + done;
      const int64_t count = std::min(outputs_at_once_, run.count - done);
      MeetTaps(column, shared, scratch);
      sum_({scratch.taps, geometry_.kernel_taps(), shared.filters, lanes_,
            count, scratch.distances});
      Write(row * geometry_.width.output + column, count, shared, scratch);
    }
  }
}

// Says what outputs meet from `column` on, as long as they have the same taps
// in the padding.
void IntegerDepthwise::MeetTaps(int64_t column, const Shared& shared,
                                const Scratch& scratch) const {
  const Axis& width = geometry_.width;
  const int64_t bytes = inputs_.pixel_bytes();
  DepthwiseTap* tap = scratch.taps;
  for (int64_t i = 0; i < geometry_.height.kernel; ++i) {
    for (int64_t j = 0; j < width.kernel; ++j, ++tap) {
      const int64_t at = width.Position(column, j);
      const bool inside =
          scratch.rows[i] != nullptr && at >= 0 && at < width.input;
      *tap = inside ? DepthwiseTap{scratch.rows[i] + at * bytes,
                                   width.stride * bytes}
                    : DepthwiseTap{shared.padding, 0};
    }
  }
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
                       fusion_.residual, fusion_.output, residuals, outputs});
  }
  static constexpr int32_t kNoSums[kLanes] = {};
  write_pixels_({scratch.distances, count, 0, nullptr, kNoSums,
                 shared.multiplier, shared.offset, lower, upper,
                 fusion_.residual, fusion_.output, residuals, outputs, channels,
                 channels});
}

}  // namespace internal
}  // namespace keras_adder
