// What every processor of the architecture has: SSE2, or portable code.

#include "core/kernels/run_outputs.h"
#if defined(__x86_64__)
#include "core/kernels/depthwise_sums_x86.h"
#include "core/kernels/sums_x86.h"
#else
#include "core/kernels/depthwise_sums_portable.h"
#include "core/kernels/sums_portable.h"
#endif

namespace keras_adder {
namespace {

constexpr FusedKernels Make() {
  FusedKernels kernels = MakeFusedKernels();
  FillRunOutputs(&kernels);
#if defined(__x86_64__)
  kernels.depthwise_bytes = &SumDepthwise<DistanceSums, uint8_t, kVectorBytes>;
  kernels.depthwise_words = &SumDepthwise<DistanceSums, int16_t, kVectorBytes>;
  kernels.bytes = MakeSums<SadForm<SourcesOf<1>>>();
  kernels.words = MakeSums<MaxWordsForm<SourcesOf<2>>>();
#else
  kernels.depthwise_bytes = &SumDepthwise<PortableDistances, uint8_t, 16>;
  kernels.depthwise_words = &SumDepthwise<PortableDistances, int16_t, 16>;
  kernels.bytes = MakeSums<PortableForm<uint8_t>>();
  kernels.words = MakeSums<PortableForm<int16_t>>();
#endif
  return kernels;
}

}  // namespace

const FusedKernels kFusedBaseline = Make();

}  // namespace keras_adder
