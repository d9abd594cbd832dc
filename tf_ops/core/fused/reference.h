// The fused pass as fusion.h says it: one loop an index, no blocking, no
// vectors, one thread. This is where to read what the fast kernels compute, and
// what they are tested against, to the last bit.
//
// Its files are compiled without contraction: each operation is rounded by
// itself.

#ifndef KERAS_ADDER_CORE_FUSED_REFERENCE_H_
#define KERAS_ADDER_CORE_FUSED_REFERENCE_H_

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <type_traits>

#include "core/engine.h"
#include "core/reference.h"

namespace keras_adder {
namespace reference {

// saturate(round(value * (1 / scale)) + zero_point), NaN being the lowest.
template <typename Q>
Q Quantize(float value, const Quantization& quantization) {
  const IntegerRange range = RangeOf(DataTypeOf<Q>());
  const float scaled = value * (1.0f / quantization.scale);
  // In a range that fits into an integer.
  const float lowest = range.lowest - quantization.zero_point;
  const float highest = range.highest - quantization.zero_point;
  float bounded = scaled > lowest ? scaled : lowest;
  bounded = bounded < highest ? bounded : highest;
  return static_cast<Q>(static_cast<int32_t>(std::nearbyint(bounded)) +
                        quantization.zero_point);
}

template <typename T>
float Dequantize(T value, const Quantization& quantization) {
  if constexpr (std::is_floating_point_v<T>) return value;
  return static_cast<float>(static_cast<int32_t>(value) -
                            quantization.zero_point) *
         quantization.scale;
}

// output = -sum |x - f|, x and padding being quantized if f is.
template <typename X, typename F, typename Sum>
void FusedSums(const Geometry& geometry, const Quantization& quantization,
               const X* x, const F* f, Sum* output) {
  const auto quantized = [&](X value) -> Sum {
    if constexpr (std::is_same_v<X, F>) {
      return value;
    } else {
      return Quantize<F>(value, quantization);
    }
  };
  for (int64_t i = 0; i < geometry.output_size(); ++i) output[i] = 0;
  ForEachPair(geometry, [&](int64_t n, int64_t oh, int64_t ow, int64_t t,
                            int64_t ih, int64_t iw, int64_t c, int64_t filter) {
    const Sum value =
        InPadding(geometry, ih, iw)
            ? static_cast<Sum>(quantization.zero_point)
            : quantized(x[At(geometry.input_strides, n, ih, iw, c)]);
    output[At(geometry.output_strides, n, oh, ow, t)] -=
        std::abs(value - static_cast<Sum>(f[filter]));
  });
}

// What becomes of a sum. `channel` is the output's, `residual` that of this
// very output, or null.
template <typename R, typename O, typename Sum>
O FusedOutput(Sum sum, int64_t channel, const R* residual, const Fusion& fusion,
              const Epilogue& epilogue) {
  if constexpr (std::is_same_v<O, int32_t>) return sum;
  float y = static_cast<float>(sum);
  if (epilogue.multiplier != nullptr) y = y * epilogue.multiplier[channel];
  if (epilogue.offset != nullptr) y = y + epilogue.offset[channel];
  if (residual != nullptr) y = y + Dequantize(*residual, fusion.residual);
  y = epilogue.lower > y ? epilogue.lower : y;
  y = epilogue.upper < y ? epilogue.upper : y;
  if constexpr (std::is_same_v<O, float>) {
    return y;
  } else {
    return Quantize<O>(y, fusion.output);
  }
}

}  // namespace reference
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_FUSED_REFERENCE_H_
