// Which instruction set to use: chosen once, when first asked for.

#ifndef KERAS_ADDER_CORE_SELECT_KERNELS_H_
#define KERAS_ADDER_CORE_SELECT_KERNELS_H_

#include <vector>

#include "core/geometry.h"
#include "core/kernels/fused_kernels.h"
#include "core/kernels/kernels.h"

namespace keras_adder {

// All that this library was compiled with, whatever this processor runs.
std::vector<const KernelSet*> CompiledKernels();

// What this processor runs, slowest first.
std::vector<const KernelSet*> SupportedKernels();

// The best kernels for this processor, or those that the environment variable
// KERAS_ADDER_ISA names ("baseline", "avx2", "avx512", "avx512_operand",
// "neon"). Null, with an error, if it names none that this processor runs.
const KernelSet* SelectKernels(Error* error);

// Those of a set, with what suits this processor of several that do the same.
const FusedKernels& FusedKernelsOf(const KernelSet& set);

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_SELECT_KERNELS_H_
