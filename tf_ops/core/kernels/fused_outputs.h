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
      const Ints value =
          __builtin_convertvector(LoadLanes<R>(residual, count), Ints);
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
      const Ints value = quantizer(y);
      StoreLanes<O>(__builtin_convertvector(value, typename LanesOf<O>::type),
                    count, output);
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

template <typename R, typename O>
void Outputs(const OutputParams& params) {
  if (params.lanes == kLanes) {
    OutputsOfLanes<R, O, true>(params);
  } else {
    OutputsOfLanes<R, O, false>(params);
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
    const Ints value = quantizer(LoadLanes<float>(values + i, lanes));
    StoreLanes<Q>(__builtin_convertvector(value, typename LanesOf<Q>::type),
                  lanes, result + i);
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
