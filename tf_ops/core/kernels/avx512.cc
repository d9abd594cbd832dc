#include "core/kernels/fused_kernels.h"
#include "core/kernels/micro_kernels.h"

namespace keras_adder {

namespace {

template <typename Pixels, typename WidePixels, bool kOperands>
constexpr KernelSet Make(const char* name) {
  return {
      name,
      {MakeKernels<float, Pixels, 16, 16, 8, kOperands>(),
       MakeKernels<double, WidePixels, 12, 16, 8, kOperands>()},
      MakeCopies(ElementTypes()),
      &kFusedAvx512,
  };
}

}  // namespace

// A broadcast that a few instructions share saves loads, which are what Zen 5
// runs out of. On Zen 4 a broadcast of its own takes the place of an arithmetic
// instruction, so there it is an operand.
const KernelSet kAvx512Kernels =
    Make<ForwardPixels<28, 13, 8, 6, 16, 8>, ForwardPixels<13, 6>, false>(
        "avx512");
const KernelSet kAvx512OperandKernels =
    Make<ForwardPixels<28, 14, 9, 7>, ForwardPixels<14, 7>, true>(
        "avx512_operand");

}  // namespace keras_adder
