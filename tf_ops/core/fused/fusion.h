// What a fused pass is: the forward pass of a trained network, with all that
// follows it up to the next one.
//
//   x = the input; of float inputs and integer filters
//       saturate(round(input * (1 / input.scale)) + input.zero_point)
//   y = -sum |x - filter|, padding being input.zero_point
//   y = y * multiplier + offset        of each output channel
//   y = y + (residual - residual.zero_point) * residual.scale
//   y = min(max(y, lower), upper)
//   output = saturate(round(y * (1 / output.scale)) + output.zero_point)
//
// Sums are int32, and exact, if filters are integers; else float32. Every other
// operation is one of float32, rounded by itself, so that bits are the same on
// every processor (but for subnormal numbers, which a host may flush to zero).
// `round` takes a half to the even neighbour; NaN becomes the lowest integer,
// and stays NaN in an output of floats. Floats are not scaled.
//
// Input and filters have one scale and zero point: then the difference of two
// integers, times the scale, is that of the numbers which they stand for.

#ifndef KERAS_ADDER_CORE_FUSED_FUSION_H_
#define KERAS_ADDER_CORE_FUSED_FUSION_H_

#include <cstdint>
#include <limits>

#include "core/dtype.h"
#include "core/geometry.h"

namespace keras_adder {

// The integer q stands for (q - zero_point) * scale.
struct Quantization {
  float scale = 1;
  int32_t zero_point = 0;
};

struct Fusion {
  DataType filter_type = DataType::kFloat32;
  bool has_residual = false;
  DataType residual_type = DataType::kFloat32;
  Quantization input, residual, output;
};

// The integers of a type.
struct IntegerRange {
  int32_t lowest, highest;
};

inline bool IsInteger(DataType type) {
  return type == DataType::kUint8 || type == DataType::kInt16;
}

// Of uint8 and int16.
inline IntegerRange RangeOf(DataType type) {
  if (type == DataType::kUint8) return {0, 255};
  return {std::numeric_limits<int16_t>::min(),
          std::numeric_limits<int16_t>::max()};
}

// Whether there is such a fused pass, whatever its geometry. `input_type` is
// that of the problem.
Error CheckFusion(DataType input_type, DataType output_type,
                  const Fusion& fusion);

// Whether its sums fit into int32.
Error CheckSums(const Geometry& geometry, const Fusion& fusion);

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_FUSED_FUSION_H_
