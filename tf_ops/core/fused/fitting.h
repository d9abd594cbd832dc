// Outputs of integers that need none of the care which floats need.

#ifndef KERAS_ADDER_CORE_FUSED_FITTING_H_
#define KERAS_ADDER_CORE_FUSED_FITTING_H_

#include <cstdint>

#include "core/epilogue.h"
#include "core/fused/fusion.h"
#include "core/geometry.h"

namespace keras_adder {

// Most outputs of integers are those of values that `fit`, whatever inputs are:
// none is NaN and, scaled to integers, all are far from what int32 has not.
// Then bounds are those of integers, too, since rounding does not change which
// of two numbers is larger.
struct Fitting {
  bool fit = false;
  IntegerRange bounds{};
};

Fitting FittingOf(const Geometry& geometry, const Fusion& fusion,
                  DataType output_type, const Epilogue& epilogue);

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_FUSED_FITTING_H_
