#include "core/fused/fitting.h"

#include <algorithm>
#include <cmath>

namespace keras_adder {
namespace {

// The integer of a bound, which any float may be but NaN.
int32_t Quantized(float bound, DataType type,
                  const Quantization& quantization) {
  const IntegerRange range = RangeOf(type);
  const float lowest = range.lowest - quantization.zero_point;
  const float highest = range.highest - quantization.zero_point;
  const float scaled = bound * (1.0f / quantization.scale);
  const float inside = std::clamp(scaled, lowest, highest);
  return static_cast<int32_t>(std::nearbyint(inside)) + quantization.zero_point;
}

// Whether multipliers and offsets of channels take no distance up to `farthest`
// as far as `most`.
bool StaysBelow(float most, float farthest, const Epilogue& epilogue,
                int64_t channels) {
  bool below = true;
  for (int64_t i = 0; i < channels; ++i) {
    const float multiplier = epilogue.multiplier ? epilogue.multiplier[i] : 1;
    const float offset = epilogue.offset ? epilogue.offset[i] : 0;
    // NaN is not less.
    below &= std::abs(multiplier) * farthest + std::abs(offset) < most;
  }
  return below;
}

}  // namespace

Fitting FittingOf(const Geometry& geometry, const Fusion& fusion,
                  DataType output_type, const Epilogue& epilogue) {
  if (!IsInteger(output_type)) return {};
  if (std::isnan(epilogue.lower) || std::isnan(epilogue.upper)) return {};
  float most = static_cast<float>(1 << 30) * fusion.output.scale;
  if (fusion.has_residual) {
    if (!IsInteger(fusion.residual_type)) return {};
    most -= (1 << 17) * fusion.residual.scale;
  }
  if (!std::isfinite(most)) return {};  // values may become infinite
  const IntegerRange range = RangeOf(fusion.filter_type);
  const float farthest =
      static_cast<float>(geometry.kernel_taps() * geometry.group_in() *
                         (int64_t{range.highest} - range.lowest));
  if (!StaysBelow(most, farthest, epilogue, geometry.out_channels)) return {};
  return {true,
          {Quantized(epilogue.lower, output_type, fusion.output),
           Quantized(epilogue.upper, output_type, fusion.output)}};
}

}  // namespace keras_adder
