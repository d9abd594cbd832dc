// The fused pass over floats: the forward pass with its epilogue; what that has
// no place for is done to each run of outputs as it comes.

#ifndef KERAS_ADDER_CORE_FUSED_FLOAT_FUSED_H_
#define KERAS_ADDER_CORE_FUSED_FLOAT_FUSED_H_

#include <memory>

#include "core/engine.h"
#include "core/kernels/fused_kernels.h"

namespace keras_adder {
namespace internal {

std::unique_ptr<const Engine> MakeFloatFused(const Problem& problem,
                                             const FusedKernels& kernels);

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_FUSED_FLOAT_FUSED_H_
