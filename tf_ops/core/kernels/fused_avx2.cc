#include "core/kernels/fused_outputs.h"
#include "core/kernels/sums_x86.h"

namespace keras_adder {
namespace {

constexpr FusedKernels Make() {
  FusedKernels kernels = MakeFusedKernels();
  kernels.bytes = MakeSums<SadForm<SourcesOf<2>>>();
  kernels.words = MakeSums<MaxWordsForm<SourcesOf<5, 3>>>();
  return kernels;
}

}  // namespace

const FusedKernels kFusedAvx2 = Make();

}  // namespace keras_adder
