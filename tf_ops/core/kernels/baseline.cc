#include "core/kernels/micro_kernels.h"

namespace keras_adder {

const KernelSet kBaselineKernels = {
    "baseline",
    MakeKernels<float, 3, 0, 3, 2, 4, false>(),
    MakeKernels<double, 1, 0, 1, 4, 4, false>(),
    MakeCopies<Half>(),
    MakeCopies<BFloat16>(),
    MakeCopies<float>(),
    MakeCopies<double>(),
};

}  // namespace keras_adder
