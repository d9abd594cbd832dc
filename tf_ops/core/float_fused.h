// The fused pass over floats: the forward pass with its epilogue, and a pass
// over its output for what that has no place for.

#ifndef KERAS_ADDER_CORE_FLOAT_FUSED_H_
#define KERAS_ADDER_CORE_FLOAT_FUSED_H_

#include <memory>

#include "core/engine.h"
#include "core/kernels/fused_kernels.h"

namespace keras_adder {
namespace internal {

std::unique_ptr<const Engine> MakeFloatFused(const Problem& problem,
                                             const FusedKernels& kernels);

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_FLOAT_FUSED_H_
