#include "core/kernels/depthwise_sums_x86.h"
#include "core/kernels/run_outputs.h"
#include "core/kernels/sums_x86.h"

namespace keras_adder {
namespace {

constexpr FusedKernels Make() {
  FusedKernels kernels = MakeFusedKernels();
  FillRunOutputs(&kernels);
  kernels.depthwise_bytes = &SumDepthwise<DistanceSums, uint8_t, kVectorBytes>;
  kernels.depthwise_words = &SumDepthwise<DistanceSums, int16_t, kVectorBytes>;
  kernels.bytes = MakeSums<SadForm<SourcesOf<2>>>();
  kernels.words = MakeSums<MaxWordsForm<SourcesOf<5, 3>>>();
  return kernels;
}

}  // namespace

const FusedKernels kFusedAvx2 = Make();

}  // namespace keras_adder
