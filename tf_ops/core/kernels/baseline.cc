#include "core/kernels/fused_kernels.h"
#include "core/kernels/micro_kernels.h"

namespace keras_adder {

const KernelSet kBaselineKernels = {
    "baseline",
    {MakeKernels<float, ForwardPixels<3>, 3, 2, 4, false>(),
     MakeKernels<double, ForwardPixels<1>, 1, 4, 4, false>()},
    MakeCopies(ElementTypes()),
    &kFusedBaseline,
};

}  // namespace keras_adder
