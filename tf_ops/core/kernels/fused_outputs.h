// What becomes of sums (fused/fusion.h), in vectors of kLanes that the compiler
// cuts to what the instruction set has. To be included by the files of an
// instruction set alone (see vector.h).

#ifndef KERAS_ADDER_CORE_KERNELS_FUSED_OUTPUTS_H_
#define KERAS_ADDER_CORE_KERNELS_FUSED_OUTPUTS_H_

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/kernels/fused_kernels.h"
#include "core/kernels/kernels.h"
#if defined(__x86_64__)
#include "core/kernels/narrow_x86.h"
#endif

// Vectors wider than the instruction set's are passed to functions that are
// always inlined, so that no ABI matters.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace keras_adder {
namespace {

template <typename T>
struct LanesOf {
  typedef T type __attribute__((vector_size(kLanes * sizeof(T))));
};
using Floats = float __attribute__((vector_size(kLanes * 4)));
using Ints = int32_t __attribute__((vector_size(kLanes * 4)));
using WrappingInts = uint32_t __attribute__((vector_size(kLanes * 4)));

#define KERAS_ADDER_INLINE inline __attribute__((always_inline))

// The same in all lanes: to subtract zero changes nothing, not even -0.
KERAS_ADDER_INLINE Floats Splat(float value) { return value - Floats{}; }

// Adding it rounds a float of up to 2^22 to an integer, halves to even, which
// then is what its bits are away from this one's. The lower half of these is 0.
constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23

// A quantization, for vectors.
struct Quantizer {
  template <typename Q>
  static Quantizer Of(const Quantization& quantization, Q) {
    const IntegerRange range = RangeOf(DataTypeOf<Q>());
    const int32_t zero_point = quantization.zero_point;
    return {1.0f / quantization.scale,
            static_cast<float>(range.lowest - zero_point),
            static_cast<float>(range.highest - zero_point), zero_point};
  }
  // The integer, in the lower half of each lane.
  KERAS_ADDER_INLINE Ints operator()(const Floats& unscaled) const {
    Floats value = unscaled * inverse;
    // In this order a NaN becomes the lowest.
    const Floats least = Splat(lowest), most = Splat(highest);
    value = value > least ? value : least;
    value = value < most ? value : most;
    return (Ints)(value + kRounder) + zero_point;
  }

  float inverse, lowest, highest;
  int32_t zero_point;
};

// The first `count` of kLanes elements.
template <typename T>
KERAS_ADDER_INLINE typename LanesOf<T>::type LoadLanes(const void* from,
                                                       int64_t count) {
  typename LanesOf<T>::type lanes = {};
  if (count == kLanes) {
    std::memcpy(&lanes, from, sizeof(lanes));
  } else {
    std::memcpy(&lanes, from, count * sizeof(T));
  }
  return lanes;
}

template <typename T>
KERAS_ADDER_INLINE void StoreLanes(const typename LanesOf<T>::type& value,
                                   int64_t count, void* to) {
  if (count == kLanes) {
    std::memcpy(to, &value, sizeof(value));
  } else {
    std::memcpy(to, &value, count * sizeof(T));
  }
}

// Integers, made wider, or narrower: their lower bits. GCC 12 would take lanes
// of `__builtin_convertvector` one by one, except in AVX-512.
template <typename R>
KERAS_ADDER_INLINE Ints LoadWidened(const void* from, int64_t count) {
#if defined(__x86_64__)
  R lanes[kLanes] = {};
  std::memcpy(lanes, from, (count == kLanes ? kLanes : count) * sizeof(R));
  Ints wide;
#pragma GCC unroll 4
  for (int lane = 0; lane < kLanes; lane += kWidth<float>) {
    const Integers some = Widened(lanes + lane);
    std::memcpy(reinterpret_cast<char*>(&wide) + lane * sizeof(int32_t), &some,
                sizeof(some));
  }
  return wide;
#else
  return __builtin_convertvector(LoadLanes<R>(from, count), Ints);
#endif
}

template <typename O>
KERAS_ADDER_INLINE void StoreNarrowed(const Ints& value, int64_t count,
                                      void* to) {
#if defined(__x86_64__) && !defined(__AVX512F__)
  constexpr int kOfLanes = kLanes / kWidth<float>;
  constexpr int kUnused = 32 - 8 * sizeof(O);
  // So that none is saturated.
  const Ints low = std::is_signed_v<O>
                       ? value << kUnused >> kUnused
                       : (Ints)((WrappingInts)value << kUnused >> kUnused);
  Integers ints[kOfLanes];
  std::memcpy(ints, &low, sizeof(ints));
  O narrow[kLanes];
  if constexpr (sizeof(O) == 1) {
    const Integers words = PackInts(ints[0], ints[1]);
    const Integers others =
        kOfLanes > 2 ? PackInts(ints[kOfLanes - 2], ints[kOfLanes - 1]) : words;
    const Integers bytes = BytesInOrder(PackWords(words, others));
    std::memcpy(narrow, &bytes, kLanes);
  } else {
#pragma GCC unroll 2
    for (int i = 0; i < kOfLanes; i += 2) {
      const Integers words = WordsInOrder(PackInts(ints[i], ints[i + 1]));
      std::memcpy(narrow + i * kWidth<float>, &words, sizeof(words));
    }
  }
  std::memcpy(to, narrow, (count == kLanes ? kLanes : count) * sizeof(O));
#else
  StoreLanes<O>(__builtin_convertvector(value, typename LanesOf<O>::type),
                count, to);
#endif
}

struct NoResidual {};

// From a sum that is offset on: residual, bounds, the output's quantization.
template <typename R, typename O>
struct Finish {
  KERAS_ADDER_INLINE void operator()(const Floats& sum, const void* residual,
                                     void* output, int64_t count) const {
    Floats y = sum;
    if constexpr (std::is_same_v<R, float>) {
      y += LoadLanes<float>(residual, count);
    } else if constexpr (!std::is_same_v<R, NoResidual>) {
      const Ints value = LoadWidened<R>(residual, count);
      y += __builtin_convertvector(value - residual_zero_point, Floats) *
           residual_scale;
    }
    // In this order a NaN stays one.
    const Floats least = Splat(lower), most = Splat(upper);
    y = least > y ? least : y;
    y = most < y ? most : y;
    if constexpr (std::is_same_v<O, float>) {
      StoreLanes<float>(y, count, output);
    } else {
      StoreNarrowed<O>(quantizer(y), count, output);
    }
  }

  template <typename Params>
  static Finish Of(const Params& params) {
    Quantizer quantizer{};
    if constexpr (!std::is_same_v<O, float>) {
      quantizer = Quantizer::Of(params.output, O{});
    }
    return {params.lower, params.upper, params.residual.scale,
            params.residual.zero_point, quantizer};
  }

  float lower, upper;
  float residual_scale;
  int32_t residual_zero_point;
  Quantizer quantizer;
};

// Bytes of an element; of no residual, none.
template <typename R>
constexpr int64_t kBytes = sizeof(R);
template <>
constexpr int64_t kBytes<NoResidual> = 0;

template <typename R, typename O, bool kAllLanes>
KERAS_ADDER_INLINE void OutputsOfLanes(const OutputParams& params) {
  const int64_t count = kAllLanes ? kLanes : params.lanes;
  const WrappingInts filter_sums =
      (WrappingInts)LoadLanes<int32_t>(params.filter_sums, kLanes);
  const Floats multiplier = LoadLanes<float>(params.multiplier, kLanes);
  const Floats offset = LoadLanes<float>(params.offset, kLanes);
  const char* residual = static_cast<const char*>(params.residuals);
  char* output = static_cast<char*>(params.outputs);
  const int32_t* totals = params.totals;
  [[maybe_unused]] Finish<
      R, std::conditional_t<std::is_same_v<O, int32_t>, float, O>> finish;
  if constexpr (!std::is_same_v<O, int32_t>) {
    finish = Finish<R, O>::Of(params);
  }
  for (int64_t i = 0; i < params.pixels; ++i) {
    const Ints total = LoadLanes<int32_t>(totals, kLanes);
    WrappingInts wrapped = filter_sums - ((WrappingInts)total << params.shift);
    if (params.pixel_sums != nullptr) {
      wrapped += static_cast<uint32_t>(params.pixel_sums[i]);
    }
    const Ints sum = (Ints)wrapped;  // of maxima or not, a distance fits
    if constexpr (std::is_same_v<O, int32_t>) {
      StoreLanes<int32_t>(sum, count, output);
    } else {
      const Floats y =
          __builtin_convertvector(sum, Floats) * multiplier + offset;
      finish(y, residual, output, count);
    }
    totals += kLanes;
    residual += params.pixel_stride * kBytes<R>;
    output += params.pixel_stride * sizeof(O);
  }
}

#if defined(__x86_64__)
// Whether there are lanes that become narrow by a few instructions: those of
// integers, without a residual of floats, about which nothing is known.
template <typename R, typename O>
constexpr bool kHasNarrowLanes =
    std::is_integral_v<O> && sizeof(O) < 4 && !std::is_same_v<R, float>;

// Values that fit, so many pixels at once as make up a vector of integers.
// Returns how many it has done. Outputs that come some calls later are fetched
// meanwhile, since stores would wait for them.
template <typename R, typename O, bool kMaxima>
int64_t NarrowPixels(const OutputParams& params) {
  typedef uint32_t LaneInts __attribute__((vector_size(kVectorBytes)));
  typedef int32_t SignedInts __attribute__((vector_size(kVectorBytes)));
  constexpr int kWide = kWidth<float>, kOfPixel = kLanes / kWide;
  constexpr int64_t kPixels = kNarrowed / kOfPixel, kAhead = 64;
  static_assert(kPixels * kLanes == kNarrowedLanes);
  const Narrow<O> narrow(params.output, params.fitting.bounds);
  LaneInts filter_sums[kOfPixel];
  Vector<float> multiplier[kOfPixel], offset[kOfPixel];
  for (int v = 0; v < kOfPixel; ++v) {
    std::memcpy(&filter_sums[v], params.filter_sums + v * kWide, kVectorBytes);
    multiplier[v] = Load(params.multiplier + v * kWide);
    offset[v] = Load(params.offset + v * kWide);
  }
  const auto* residual = static_cast<const R*>(params.residuals);
  auto* output = static_cast<O*>(params.outputs);
  int64_t pixel = 0;
  for (; pixel + kPixels <= params.pixels; pixel += kPixels) {
    const int32_t* const totals = params.totals + pixel * kLanes;
    Vector<float> values[kNarrowed];
#pragma GCC unroll 4
    for (int i = 0; i < kNarrowed; ++i) {
      const int p = i / kOfPixel, v = i % kOfPixel;
      LaneInts total;
      std::memcpy(&total, totals + i * kWide, kVectorBytes);
      LaneInts sum = filter_sums[v] - total;
      if constexpr (kMaxima) sum -= total;
      if (params.pixel_sums != nullptr) {
        sum += static_cast<uint32_t>(params.pixel_sums[pixel + p]);
      }
      values[i] = __builtin_convertvector((SignedInts)sum, Vector<float>) *
                      multiplier[v] +
                  offset[v];
      if constexpr (!std::is_same_v<R, NoResidual>) {
        const R* const from = residual + p * params.pixel_stride + v * kWide;
        const auto ints =
            (SignedInts)Widened(from) - params.residual.zero_point;
        values[i] += __builtin_convertvector(ints, Vector<float>) *
                     params.residual.scale;
      }
    }
    O narrowed[kNarrowedLanes];
    narrow(values, narrowed);
#pragma GCC unroll 4
    for (int p = 0; p < kPixels; ++p) {
      std::memcpy(output, narrowed + p * kLanes, kLanes * sizeof(O));
      __builtin_prefetch(output + kAhead * params.pixel_stride, 1);
      output += params.pixel_stride;
    }
    if constexpr (!std::is_same_v<R, NoResidual>) {
      residual += kPixels * params.pixel_stride;
    }
  }
  return pixel;
}
#endif

// The parameters of what is left behind so many pixels.
template <typename R, typename O>
OutputParams Behind(OutputParams params, int64_t pixels) {
  params.totals += pixels * kLanes;
  params.pixels -= pixels;
  if (params.pixel_sums != nullptr) params.pixel_sums += pixels;
  const int64_t elements = pixels * params.pixel_stride;
  if (params.residuals != nullptr) {
    params.residuals =
        static_cast<const char*>(params.residuals) + elements * kBytes<R>;
  }
  params.outputs = static_cast<char*>(params.outputs) + elements * sizeof(O);
  return params;
}

template <typename R, typename O>
void Outputs(const OutputParams& params) {
  if (params.lanes < kLanes) return OutputsOfLanes<R, O, false>(params);
  int64_t done = 0;
#if defined(__x86_64__)
  if constexpr (kHasNarrowLanes<R, O>) {
    if (params.fitting.fit) {
      done = params.shift > 0 ? NarrowPixels<R, O, true>(params)
                              : NarrowPixels<R, O, false>(params);
    }
  }
#endif
  if (done < params.pixels) {
    OutputsOfLanes<R, O, true>(Behind<R, O>(params, done));
  }
}

template <typename R, typename O>
void FloatOutputs(const FloatOutputParams& params) {
  const auto finish = Finish<R, O>::Of(params);
  const char* residual = static_cast<const char*>(params.residuals);
  char* output = static_cast<char*>(params.outputs);
  const float* values = params.values;
  int64_t left = params.count;
  for (; left >= kLanes; left -= kLanes) {
    finish(LoadLanes<float>(values, kLanes), residual, output, kLanes);
    values += kLanes;
    residual += kLanes * kBytes<R>;
    output += kLanes * sizeof(O);
  }
  if (left > 0) {
    finish(LoadLanes<float>(values, left), residual, output, left);
  }
}

template <typename Q>
void QuantizeFloats(const float* values, int64_t count,
                    const Quantization& quantization, Q* result) {
  const Quantizer quantizer = Quantizer::Of(quantization, Q{});
  const auto quantize = [&](int64_t i, int64_t lanes) {
    StoreNarrowed<Q>(quantizer(LoadLanes<float>(values + i, lanes)), lanes,
                     result + i);
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) quantize(i, kLanes);
  if (i < count) quantize(i, count - i);
}

inline void SumWords(const uint8_t* pixels, int64_t count, ptrdiff_t stride,
                     int64_t channels, int32_t* sums) {
  for (int64_t i = 0; i < count; ++i, pixels += stride) {
    const auto* words = reinterpret_cast<const int16_t*>(pixels);
    int32_t sum = 0;
    for (int64_t c = 0; c < channels; ++c) sum += words[c];
    sums[i] = sum;
  }
}

template <typename R>
constexpr void FillOutputs(FusedKernels* kernels, int residual) {
  kernels->outputs[residual][0] = &Outputs<R, float>;
  kernels->outputs[residual][1] = &Outputs<R, uint8_t>;
  kernels->outputs[residual][2] = &Outputs<R, int16_t>;
  kernels->float_outputs[residual][0] = &FloatOutputs<R, float>;
  kernels->float_outputs[residual][1] = &FloatOutputs<R, uint8_t>;
  kernels->float_outputs[residual][2] = &FloatOutputs<R, int16_t>;
}

// All but the sums of bytes, and what these alone need.
constexpr FusedKernels MakeFusedKernels() {
  FusedKernels kernels{};
  FillOutputs<float>(&kernels, 0);
  FillOutputs<uint8_t>(&kernels, 1);
  FillOutputs<int16_t>(&kernels, 2);
  FillOutputs<NoResidual>(&kernels, kNoResidual);
  kernels.outputs[kNoResidual][3] = &Outputs<NoResidual, int32_t>;
  kernels.quantize_bytes = &QuantizeFloats<uint8_t>;
  kernels.quantize_words = &QuantizeFloats<int16_t>;
  kernels.sum_words = &SumWords;
  return kernels;
}

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_FUSED_OUTPUTS_H_
