// Depthwise micro-kernels: lanes are output channels, each of which meets one
// input channel under a tap. See DepthwiseParams and the rest in kernels.h.

#ifndef KERAS_ADDER_CORE_KERNELS_DEPTHWISE_KERNELS_H_
#define KERAS_ADDER_CORE_KERNELS_DEPTHWISE_KERNELS_H_

#include <cstdint>
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

// Some pixels and some vectors of lanes, from `lane` on.
template <typename C, int kPixels, int kVectors>
inline __attribute__((always_inline)) void DepthwiseForwardPixels(
    const DepthwiseForwardParams<C>& params, const C* input, int64_t lane,
    C* output) {
  const Vector<C> minus_one = Opaque<C>(-1);
  const C* const filters = params.filters + lane;
  Vector<C> sums[kVectors][kPixels] = {};
  const ForwardTap* tap = params.taps;
  const ForwardTap* const inside = tap + params.inside;
  for (; tap < inside; ++tap) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      const Vector<C> filter = Load(filters + tap->filter + v * kWidth<C>);
      const C* source = input + tap->source + v * kWidth<C>;
#pragma GCC unroll 16
      for (int p = 0; p < kPixels; ++p) {
        const Vector<C> distance = AbsoluteDifference<C>(Load(source), filter);
        // Step by step: the compiler would keep all multiples of the stride,
        // for which there are too few registers.
        source += params.input_pixel_stride;
        asm("" : "+r"(source));
        sums[v][p] = SubtractMagnitude<C>(sums[v][p], distance, minus_one);
      }
    }
  }
  for (const ForwardTap* const end = inside + params.outside; tap < end;
       ++tap) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      const Vector<C> magnitude =
          Abs<C>(Load(filters + tap->filter + v * kWidth<C>));
#pragma GCC unroll 16
      for (int p = 0; p < kPixels; ++p) sums[v][p] -= magnitude;
    }
  }
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; ++v) {
    if (params.multiplier != nullptr) {
      const int64_t at = lane + v * kWidth<C>;
      const Vector<C> multiplier = Load(params.multiplier + at);
      const Vector<C> offset = Load(params.offset + at);
      const Vector<C> lower = Broadcast(params.lower);
      const Vector<C> upper = Broadcast(params.upper);
#pragma GCC unroll 16
      for (int p = 0; p < kPixels; ++p) {
        sums[v][p] = Min(upper, Max(lower, sums[v][p] * multiplier + offset));
      }
    }
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p) {
      Store(sums[v][p],
            output + p * params.output_pixel_stride + v * kWidth<C>);
    }
  }
}

// Asks for memory that lies ahead, line by line.
class Prefetch {
 public:
  // What lies `ahead` of `from`, in bytes; nothing if it is so much that most
  // of it would not be met, as between pixels that are far apart.
  Prefetch(const void* from, int64_t ahead, int64_t bytes, int64_t steps)
      : next_(reinterpret_cast<uintptr_t>(from) + ahead),
        lines_(bytes > kMost ? 0 : (bytes / kLine + steps - 1) / steps) {}
  // One of the steps.
  void Step() {
    for (int64_t i = 0; i < lines_; ++i, next_ += kLine) {
      __builtin_prefetch(reinterpret_cast<const void*>(next_), 0,
                         kSecondLevelCache);
    }
  }

 private:
  static constexpr int64_t kLine = 64;
  static constexpr int64_t kMost = 128 << 10;
  static constexpr int kSecondLevelCache = 2;

  uintptr_t next_;  // no pointer, since it may lie beyond what there is
  const int64_t lines_;
};

// All lanes of so many pixels: what these read stays in the first-level cache
// for the pixels behind them. Few pixels take several vectors of lanes at once,
// for there to be enough sums that need not wait for each other.
//
// Only the last row of taps meets inputs that no row before has met. They come
// from memory, and not in the order of addresses, so the processor does not see
// what comes next: it is told to fetch as much as these pixels take of what
// lies behind them and those after them.
template <typename C, int kPixels>
void DepthwiseForwardLanes(const DepthwiseForwardParams<C>& params,
                           int64_t first) {
  constexpr int64_t kAhead = 4096;
  constexpr int kAtOnce = kDepthwisePixels / kPixels;
  constexpr int kStep = kAtOnce * kWidth<C>;
  const C* const input = params.input + first * params.input_pixel_stride;
  C* const output = params.output + first * params.output_pixel_stride;
  const int64_t bytes = kPixels * params.input_pixel_stride * sizeof(C);
  const ptrdiff_t last =
      params.inside > 0 ? params.taps[params.inside - 1].source : 0;
  const int64_t lanes = params.blocks * kLanes;
  Prefetch prefetch(input + last, bytes + kAhead, bytes,
                    (lanes + kStep - 1) / kStep);
  // Outputs that no cache holds have to be fetched, too.
  const int64_t pixel = params.output_pixel_stride * sizeof(C);
  Prefetch outputs(output, kDepthwisePixels * pixel,
                   params.fetches_outputs ? kPixels * pixel : 0,
                   (lanes + kStep - 1) / kStep);
  int64_t lane = 0;
  for (; lane + kStep <= lanes; lane += kStep) {
    prefetch.Step();
    outputs.Step();
    DepthwiseForwardPixels<C, kPixels, kAtOnce>(params, input + lane, lane,
                                                output + lane);
  }
  for (; lane < lanes; lane += kWidth<C>) {
    DepthwiseForwardPixels<C, kPixels, 1>(params, input + lane, lane,
                                          output + lane);
  }
}

template <typename C, int kMost>
void DepthwiseForwardUpTo(const DepthwiseForwardParams<C>& params,
                          int64_t first, int64_t pixels) {
  if (pixels == kMost) return DepthwiseForwardLanes<C, kMost>(params, first);
  if constexpr (kMost > 1) {
    DepthwiseForwardUpTo<C, kMost - 1>(params, first, pixels);
  }
}

template <typename C, int kMost>
void DepthwiseForward(const DepthwiseForwardParams<C>& params) {
  int64_t first = 0;
  for (; first + kMost <= params.pixels; first += kMost) {
    DepthwiseForwardLanes<C, kMost>(params, first);
  }
  if (first < params.pixels) {
    DepthwiseForwardUpTo<C, kMost>(params, first, params.pixels - first);
  }
}

// What a difference x - f becomes in the filter gradient, if there is one.
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
