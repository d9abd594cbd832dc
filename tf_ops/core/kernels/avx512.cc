#include "core/kernels/micro_kernels.h"

namespace keras_adder {

const KernelSet kAvx512Kernels = {
    "avx512",
    MakeKernels<float, 28, 16, 16, 8>(),
    MakeKernels<double, 14, 12, 16, 8>(),
    MakeCopies<Half>(),
    MakeCopies<BFloat16>(),
    MakeCopies<float>(),
    MakeCopies<double>(),
};

}  // namespace keras_adder
