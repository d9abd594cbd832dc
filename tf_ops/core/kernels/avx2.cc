#include "core/kernels/fused_kernels.h"
#include "core/kernels/micro_kernels.h"

namespace keras_adder {

const KernelSet kAvx2Kernels = {
    "avx2",
    {MakeKernels<float, ForwardPixels<5>, 4, 8, 4, false>(),
     MakeKernels<double, ForwardPixels<3>, 2, 8, 4, false>()},
    MakeCopies(ElementTypes()),
    &kFusedAvx2,
};

}  // namespace keras_adder
