#include "core/kernels/micro_kernels.h"

namespace keras_adder {

namespace {

template <int kPair, bool kOperands>
constexpr KernelSet Make(const char* name) {
  return {
      name,
      MakeKernels<float, 28, kPair, 16, 16, 8, kOperands>(),
      MakeKernels<double, 14, 0, 12, 16, 8, kOperands>(),
      MakeCopies<Half>(),
      MakeCopies<BFloat16>(),
      MakeCopies<float>(),
      MakeCopies<double>(),
  };
}

}  // namespace

// A broadcast that two instructions share halves the loads, which are what Zen
// 5 runs out of: up to 10 % faster there. On Zen 4 a broadcast of its own takes
// the place of an arithmetic instruction, so there it is an operand.
const KernelSet kAvx512Kernels = Make<14, false>("avx512");
const KernelSet kAvx512OperandKernels = Make<0, true>("avx512_operand");

}  // namespace keras_adder
