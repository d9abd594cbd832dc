#include "core/kernels/micro_kernels.h"

namespace keras_adder {

namespace {

constexpr KernelSet Make(const char* name, bool pairs) {
  KernelSet set = {
      name,
      MakeKernels<float, 28, 14, 16, 16, 8>(),
      MakeKernels<double, 14, 0, 12, 16, 8>(),
      MakeCopies<Half>(),
      MakeCopies<BFloat16>(),
      MakeCopies<float>(),
      MakeCopies<double>(),
  };
  if (!pairs) set.f32.max_forward_pair = 0;
  return set;
}

}  // namespace

const KernelSet kAvx512Kernels = Make("avx512", true);

// With two planes of filters a broadcast is shared by two maxima, which halves
// the loads: +10 % on Zen 5. On Zen 4 a broadcast of its own takes the place of
// an arithmetic instruction, so there every maximum has it as its operand.
const KernelSet kAvx512OperandKernels = Make("avx512_operand", false);

}  // namespace keras_adder
