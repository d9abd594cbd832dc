// Depthwise micro-kernels: lanes are output channels, each of which meets one
// input channel under a tap. See DepthwiseParams and the rest in kernels.h.

#ifndef KERAS_ADDER_CORE_KERNELS_DEPTHWISE_KERNELS_H_
#define KERAS_ADDER_CORE_KERNELS_DEPTHWISE_KERNELS_H_

#include <type_traits>

#include "core/kernels/kernels.h"
#include "core/kernels/lanes.h"
#include "core/kernels/vector.h"

namespace keras_adder {
namespace {

// Pixels that share a vector of filters, and filters whose sums share a pixel:
// as many as fit into the registers of every instruction set.
constexpr int kDepthwisePixels = 8;
constexpr int kDepthwiseTaps = 9;

// sum - magnitude. With a difference before it, a multiply-add keeps the ports
// even where there is one.
template <typename C>
inline Vector<C> SubtractMagnitude(Vector<C> sum, Vector<C> magnitude,
                                   [[maybe_unused]] Vector<C> minus_one) {
#if defined(__FMA__)
  return Fma(magnitude, minus_one, sum);
#else
  return sum - magnitude;
#endif
}

template <typename C, int kPixels>
inline __attribute__((always_inline)) void DepthwiseForwardPixels(
    const DepthwiseForwardParams<C>& params, const C* input, const C* filters,
    int64_t lane, C* output) {
  const Vector<C> minus_one = Opaque<C>(-1);
  Vector<C> sums[kPixels] = {};
  const ForwardTap* tap = params.taps;
  const ForwardTap* const inside = tap + params.inside;
  for (; tap < inside; ++tap) {
    const Vector<C> filter = Load(filters + tap->filter);
    const C* const source = input + tap->source;
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p) {
      const Vector<C> distance = AbsoluteDifference<C>(
          Load(source + p * params.input_pixel_stride), filter);
      sums[p] = SubtractMagnitude<C>(sums[p], distance, minus_one);
    }
  }
  for (const ForwardTap* const end = inside + params.outside; tap < end;
       ++tap) {
    const Vector<C> magnitude = Abs<C>(Load(filters + tap->filter));
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p) sums[p] -= magnitude;
  }
  if (params.multiplier != nullptr) {
    const Vector<C> multiplier = Load(params.multiplier + lane);
    const Vector<C> offset = Load(params.offset + lane);
    const Vector<C> lower = Broadcast(params.lower);
    const Vector<C> upper = Broadcast(params.upper);
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p) {
      sums[p] = Min(upper, Max(lower, sums[p] * multiplier + offset));
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) {
    Store(sums[p], output + p * params.output_pixel_stride);
  }
}

// Asks for memory that lies ahead, line by line.
class Prefetch {
 public:
  Prefetch(const void* begin, int64_t bytes, int64_t steps)
      : next_(static_cast<const char*>(begin)),
        lines_((bytes / kLine + steps - 1) / steps) {}
  // One of the steps.
  void Step() {
    for (int64_t i = 0; i < lines_; ++i, next_ += kLine) {
      __builtin_prefetch(next_, 0, kSecondLevelCache);
    }
  }

 private:
  static constexpr int64_t kLine = 64;
  static constexpr int kSecondLevelCache = 2;

  const char* next_;
  const int64_t lines_;
};

// All blocks of so many pixels: what these read stays in the first-level cache
// for the pixels behind them.
//
// Only the last row of taps meets inputs that no row before has met. They come
// from memory, and not in the order of addresses, so the processor does not see
// what comes next: it is told to fetch as much as these pixels take of what
// lies behind them and those after them.
template <typename C, int kPixels>
void DepthwiseForwardBlocks(const DepthwiseForwardParams<C>& params,
                            int64_t first) {
  constexpr int64_t kAhead = 4096;
  const C* input = params.input + first * params.input_pixel_stride;
  C* output = params.output + first * params.output_pixel_stride;
  const C* filters = params.filters;
  const int64_t bytes = kPixels * params.input_pixel_stride * sizeof(C);
  const ptrdiff_t last =
      params.inside > 0 ? params.taps[params.inside - 1].source : 0;
  Prefetch prefetch(
      reinterpret_cast<const char*>(input + last) + bytes + kAhead, bytes,
      params.blocks);
  for (int64_t block = 0; block < params.blocks; ++block) {
    prefetch.Step();
    for (int lane = 0; lane < kLanes; lane += kWidth<C>) {
      DepthwiseForwardPixels<C, kPixels>(params, input + lane, filters + lane,
                                         block * kLanes + lane, output + lane);
    }
    input += params.input_block_stride;
    output += params.output_block_stride;
    filters += params.filter_block_stride;
  }
}

template <typename C, int kMost>
void DepthwiseForwardUpTo(const DepthwiseForwardParams<C>& params,
                          int64_t first, int64_t pixels) {
  if (pixels == kMost) return DepthwiseForwardBlocks<C, kMost>(params, first);
  if constexpr (kMost > 1) {
    DepthwiseForwardUpTo<C, kMost - 1>(params, first, pixels);
  }
}

template <typename C, int kMost>
void DepthwiseForward(const DepthwiseForwardParams<C>& params) {
  int64_t first = 0;
  for (; first + kMost <= params.pixels; first += kMost) {
    DepthwiseForwardBlocks<C, kMost>(params, first);
  }
  if (first < params.pixels) {
    DepthwiseForwardUpTo<C, kMost>(params, first, params.pixels - first);
  }
}

// What a gradient kernel computes. `Slope` is what a difference x - f becomes
// in the filter gradient.
struct NoFilterGradient {};

template <typename C>
struct DepthwiseDifference {
  static Vector<C> Of(Vector<C> difference) { return difference; }
};

template <typename C>
struct DepthwiseSign {
  static Vector<C> Of(Vector<C> difference) { return Sign<C>(difference); }
};

// Some taps of one vector of lanes, whose filters and sums stay in registers
// while the pixels go by.
template <typename C, typename Slope, bool kInput, int kTaps>
inline __attribute__((always_inline)) void DepthwiseGradientTaps(
    const DepthwiseGradientParams<C>& params, const DepthwiseTap* taps,
    bool add, const C* input, const C* gradient, const C* filter, C* total,
    C* input_gradient) {
  constexpr bool kFilter = !std::is_same_v<Slope, NoFilterGradient>;
  const Vector<C> one = Opaque<C>(1);
  Vector<C> filters[kTaps], sums[kTaps];
  ptrdiff_t offsets[kTaps];
#pragma GCC unroll 16
  for (int t = 0; t < kTaps; ++t) {
    filters[t] = Load(filter + taps[t].filter);
    offsets[t] = taps[t].gradient;
    sums[t] = Vector<C>{};
  }
  for (int64_t pixel = 0; pixel < params.pixels; ++pixel) {
    const Vector<C> x = Load(input);
    Vector<C> rest{};
    if (kInput && add) rest = Load(input_gradient);
#pragma GCC unroll 16
    for (int t = 0; t < kTaps; ++t) {
      const Vector<C> g = Load(gradient + offsets[t]);
      const Vector<C> difference =
          Difference<C>(x, filters[t], one, kFuseHalf && t % 2 == 1);
      if constexpr (kFilter) {
        sums[t] = Fma(Slope::Of(difference), g, sums[t]);
      }
      if constexpr (kInput) rest = Fma(-HardTanh<C>(difference), g, rest);
    }
    if (kInput) Store(rest, input_gradient);
    input += params.input_pixel_stride;
    gradient += params.gradient_pixel_stride;
    if (kInput) input_gradient += params.input_pixel_stride;
  }
  if constexpr (kFilter) {
#pragma GCC unroll 16
    for (int t = 0; t < kTaps; ++t) {
      C* const to = total + taps[t].total;
      Store(Load(to) + sums[t], to);
    }
  }
}

template <typename C, typename Slope, bool kInput, int kMost>
void DepthwiseGradientUpTo(const DepthwiseGradientParams<C>& params,
                           int64_t first, int count) {
  if (count < kMost) {
    if constexpr (kMost > 0) {
      DepthwiseGradientUpTo<C, Slope, kInput, kMost - 1>(params, first, count);
    }
    return;
  }
  constexpr bool kFilter = !std::is_same_v<Slope, NoFilterGradient>;
  for (int64_t block = 0; block < params.blocks; ++block) {
    const ptrdiff_t at = block * params.input_block_stride;
    for (int lane = 0; lane < kLanes; lane += kWidth<C>) {
      DepthwiseGradientTaps<C, Slope, kInput, kMost>(
          params, params.taps + first, first > 0, params.input + at + lane,
          params.gradient + block * params.gradient_block_stride + lane,
          params.filters + block * params.filter_block_stride + lane,
          kFilter ? params.total + block * params.total_block_stride + lane
                  : nullptr,
          kInput ? params.input_gradient + at + lane : nullptr);
    }
  }
}

// Shares all taps out evenly among the fewest passes over the pixels.
template <typename C, typename Slope, bool kInput, int kMost>
void DepthwiseGradient(const DepthwiseGradientParams<C>& params) {
  const int64_t passes = (params.tap_count + kMost - 1) / kMost;
  if (passes == 0) {
    return DepthwiseGradientUpTo<C, Slope, kInput, 0>(params, 0, 0);
  }
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t first = params.tap_count * pass / passes;
    const int64_t end = params.tap_count * (pass + 1) / passes;
    DepthwiseGradientUpTo<C, Slope, kInput, kMost>(
        params, first, static_cast<int>(end - first));
  }
}

template <typename C, int kPixels, int kTaps>
constexpr DepthwiseKernels<C> MakeDepthwiseKernels() {
  using Full = DepthwiseDifference<C>;
  return {&DepthwiseForward<C, kPixels>,
          &DepthwiseGradient<C, NoFilterGradient, true, kTaps>,
          &DepthwiseGradient<C, Full, false, kTaps>,
          &DepthwiseGradient<C, DepthwiseSign<C>, false, kTaps>,
          &DepthwiseGradient<C, Full, true, kTaps>,
          &DepthwiseGradient<C, DepthwiseSign<C>, true, kTaps>};
}

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_DEPTHWISE_KERNELS_H_
