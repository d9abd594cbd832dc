#include "core/kernels/micro_kernels.h"

namespace keras_adder {

const KernelSet kAvx2Kernels = {
    "avx2",
    MakeKernels<float, 6, 0, 6, 0, 6, 4>(),
    MakeKernels<double, 3, 0, 3, 0, 6, 4>(),
    MakeCopies<Half>(),
    MakeCopies<BFloat16>(),
    MakeCopies<float>(),
    MakeCopies<double>(),
};

}  // namespace keras_adder
