// Which engine computes a fused pass of integers.

#ifndef KERAS_ADDER_CORE_FUSED_MAKE_FUSED_H_
#define KERAS_ADDER_CORE_FUSED_MAKE_FUSED_H_

#include <memory>

#include "core/engine.h"
#include "core/kernels/fused_kernels.h"

namespace keras_adder {
namespace internal {

// For NHWC, with kernels that need not be those of the problem's set: tests
// run all that there are.
std::unique_ptr<const Engine> MakeInteger(const Problem& problem,
                                          const FusedKernels& kernels);

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_FUSED_MAKE_FUSED_H_
