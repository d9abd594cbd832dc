// Every aarch64 processor has these instructions, so no flag asks for them; the
// baseline does without, which makes it the test of the portable code.
#define KERAS_ADDER_NEON 1

#include "core/kernels/fused_kernels.h"
#include "core/kernels/micro_kernels.h"

namespace keras_adder {

const KernelSet kNeonKernels = {
    "neon",
    {MakeKernels<float, ForwardPixels<6>, 6, 8, 8, true>(),
     MakeKernels<double, ForwardPixels<2>, 2, 8, 8, true>()},
    MakeCopies(ElementTypes()),
    &kFusedNeon,
};

}  // namespace keras_adder
