// What an instruction set offers for the fused pass (fused/fusion.h): sums of
// integer distances, and what becomes of a sum.
//
// Sums are made for a few panels of filters, each kLanes of one group, and a
// few sources at once. A source is where one output's inputs begin, or those of
// some neighbouring outputs. Inputs are met step by step, in runs of steps that
// lie at one distance; filters of a panel are, too, and lie without gaps:
//
//     filters[step][position of a lane][elements that a lane has of a step]
//
// Sums become totals, which are int32:
//
//     totals[panel][source][output of the source][lane]
//
// panels being `total_stride` apart.

#ifndef KERAS_ADDER_CORE_KERNELS_FUSED_KERNELS_H_
#define KERAS_ADDER_CORE_KERNELS_FUSED_KERNELS_H_

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "core/fused/fitting.h"
#include "core/fused/fusion.h"

namespace keras_adder {

// The most sources and panels that sums are made for at once.
constexpr int kMaxSources = 16;
constexpr int kMaxPanels = 4;
constexpr int kMaxRowPanels = 2;

// Steps of inputs that lie `step` bytes apart, the first of them `shift` bytes
// from where a source begins.
struct StepRun {
  ptrdiff_t shift;
  int64_t steps;
};

struct StepParams {
  const StepRun* runs;
  int64_t run_count;
  ptrdiff_t step;
  const uint8_t* filters;
  ptrdiff_t panel_stride;  // of filters, in bytes
  int32_t* totals;
  ptrdiff_t total_stride;
};

// A way to sum distances. Each says what it sums in `totals`:
//
//   distances   |x - f|
//   maxima      max(x, f), of which |x - f| = 2 max(x, f) - x - f
//
// A sliding one takes a step for each row of taps and channel, from bytes that
// lie [row][channel][column]: it meets kSlidingTaps columns of taps for each of
// kSlidingOutputs neighbouring outputs.
struct IntegerSums {
  // With one panel, two and so on; 0: not so many.
  int max_sources[kMaxPanels] = {};
  int step_elements;  // of a lane
  bool maxima;
  uint8_t positions[16];  // of lanes
  void (*run)(int count, int panels, const uint8_t* const* sources,
              const StepParams& params);
};

// Sums for a run of neighbouring outputs, of which only the first's source is
// told; the others are `pixel_stride` bytes apart. Each input of it is
// broadcast once for the kRowTaps columns of taps that it meets. A step is some
// channels of these taps, whose filters follow each other.
struct IntegerRowSums {
  int max_outputs[kMaxRowPanels] = {};  // 0: there are none
  void (*run)(int outputs, int panels, const uint8_t* source,
              ptrdiff_t pixel_stride, const StepParams& params) = nullptr;
};

// Where a tap meets inputs: that of a run's first output, and how many bytes it
// is to the next one's. Taps in the padding meet the same again: 0.
struct IntegerTap {
  const uint8_t* input;
  ptrdiff_t step;
};

// Sums of distances for filters that see one input channel each: lanes are
// output channels, of inputs, filters and totals alike.
//
//     filters[tap][channel]        totals[output][channel]
//
// What is `next` is asked for ahead: inputs that outputs of the next row meet
// before any others do. Sums go through pixels some channels at a time, which
// the processor does not foresee.
struct DepthwiseParams {
  const IntegerTap* taps;
  int64_t tap_count;
  const IntegerTap* next;
  int64_t next_count;
  const uint8_t* filters;
  int64_t channels;  // kLanes at least
  int64_t outputs;
  int32_t* totals;
};

// The same for filters of kWindow x kWindow taps without stride or dilation
// along rows, and outputs of a row that meet any columns: `first` is where the
// first one's window begins, and those that are not 0 ... columns - 1 are
// padding, as `rows` of step 0 are. Filters are packed, so many rows of a
// column of taps together as fill 32 bits, and zeros:
//
//     filters[tap column][some tap rows][channel][tap row of these]
//
// A total starts from the sum of three `starts`, which is minus that of a
// channel's filters, modulo 2^32.
constexpr int kWindow = 3;
struct DepthwiseWindowParams {
  IntegerTap rows[kWindow];
  const uint8_t* padding;  // a pixel
  int64_t first, columns;
  IntegerTap next;
  const uint8_t* filters;
  const uint32_t* starts;
  int64_t channels;
  int64_t outputs;
  int32_t* totals;
};

constexpr int kRowTaps = 3;
constexpr int kSlidingTaps = 4;
constexpr int kSlidingOutputs = 4;

// Makes outputs of sums, for `pixels` of them and one panel:
//
//   distance = (total << shift) - pixel_sum - filter_sum
//   y = -distance
//
// and so on, as fused/fusion.h says.
struct OutputParams {
  const int32_t* totals;
  int64_t pixels;
  int32_t shift;
  const int32_t* pixel_sums;  // null: 0
  const int32_t* filter_sums;
  const float* multiplier;
  const float* offset;
  float lower, upper;
  Fitting fitting;
  Quantization residual, output;
  const void* residuals;  // of the first pixel; null if there are none
  void* outputs;
  ptrdiff_t pixel_stride;  // elements of both
  int64_t lanes;           // that have a filter
};

// The same for distances that follow each other as outputs do, `channels` of a
// pixel: the first is channel 0. Multipliers and offsets begin anew behind the
// last channel's, up to kRepeated of them.
constexpr int kRepeated = 64;
struct RunOutputParams {
  const int32_t* distances;
  int64_t count;
  int64_t channels;
  const float* multiplier;
  const float* offset;
  float lower, upper;
  Fitting fitting;
  Quantization residual, output;
  const void* residuals;  // of the first; null if there are none
  void* outputs;
};

// The same for sums of floats that have got multiplier and offset already:
// `values` of them follow each other.
struct FloatOutputParams {
  const float* values;
  int64_t count;
  float lower, upper;
  Quantization residual, output;
  const void* residuals;
  void* outputs;
};

// By types: of residuals (those of `kResidualTypes`, the last one meaning that
// there are none) and of outputs (`kOutputTypes`).
constexpr int kResidualTypes = 4;
constexpr int kOutputTypes = 4;
constexpr int TypeIndex(DataType type) {
  switch (type) {
    case DataType::kUint8:
      return 1;
    case DataType::kInt16:
      return 2;
    case DataType::kInt32:
      return 3;
    default:
      return 0;
  }
}
constexpr int kNoResidual = 3;

struct FusedKernels {
  IntegerSums sliding;                  // of uint8
  IntegerSums bytes;                    // of uint8
  IntegerSums words;                    // of int16
  IntegerRowSums byte_rows, word_rows;  // with the steps of bytes and of words
  void (*depthwise_bytes)(const DepthwiseParams& params);
  void (*depthwise_words)(const DepthwiseParams& params);
  // Null: there are none.
  void (*window_bytes)(const DepthwiseWindowParams& params);
  void (*window_words)(const DepthwiseWindowParams& params);
  void (*outputs[kResidualTypes][kOutputTypes])(const OutputParams& params);
  void (*run_outputs[kResidualTypes][kOutputTypes])(
      const RunOutputParams& params);
  void (*float_outputs[kResidualTypes][kOutputTypes])(
      const FloatOutputParams& params);
  void (*quantize_bytes)(const float* values, int64_t count,
                         const Quantization& quantization, uint8_t* result);
  void (*quantize_words)(const float* values, int64_t count,
                         const Quantization& quantization, int16_t* result);
  // For sliding sums: result[column][row] = source[row][column], rows and
  // columns being `source_stride` and `result_stride` bytes apart. Up to seven
  // bytes behind each of the result's rows become `padding`.
  void (*transpose_bytes)(const uint8_t* source, int64_t rows, int64_t columns,
                          ptrdiff_t source_stride, uint8_t* result,
                          ptrdiff_t result_stride, uint8_t padding);
  // For sums of maxima: sums[i] = the sum of `channels` elements of pixel i,
  // which lie `stride` bytes apart.
  void (*sum_bytes)(const uint8_t* pixels, int64_t count, ptrdiff_t stride,
                    int64_t channels, int32_t* sums);
  void (*sum_words)(const uint8_t* pixels, int64_t count, ptrdiff_t stride,
                    int64_t channels, int32_t* sums);
  // For sliding sums: sums[i] += the sum of rows[0][i], rows[1][i], ...
  void (*add_rows)(const uint8_t* rows, int64_t count, ptrdiff_t stride,
                   int64_t columns, int32_t* sums);
};

extern const FusedKernels kFusedBaseline;
#if defined(__x86_64__)
extern const FusedKernels kFusedAvx2;
extern const FusedKernels kFusedAvx512;
// In place of AVX-512's own, where they are faster.
extern const IntegerSums kVnniBytes, kVnniWords;
extern const IntegerRowSums kVnniByteRows, kVnniWordRows;
extern void (*const kVnniWindowBytes)(const DepthwiseWindowParams& params);
extern void (*const kVnniWindowWords)(const DepthwiseWindowParams& params);
extern const IntegerSums kSaturatingSliding, kSaturatingBytes;
#elif defined(__aarch64__)
extern const FusedKernels kFusedNeon;
#endif

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_FUSED_KERNELS_H_
