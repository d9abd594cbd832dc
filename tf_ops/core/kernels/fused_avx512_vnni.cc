#include "core/kernels/depthwise_windows_vnni.h"
#include "core/kernels/sums_x86.h"

namespace keras_adder {

const IntegerSums kVnniBytes =
    MakeSums<MaxBytesForm<SourcesOf<12, 12, 8, 6>>>();
const IntegerRowSums kVnniByteRows =
    MakeRowSums<MaxBytesForm<SourcesOf<0>>, 20, 10>();
const IntegerRowSums kVnniWordRows =
    MakeRowSums<MaxWordsForm<SourcesOf<0>>, 20, 10>();
const IntegerSums kVnniWords =
    MakeSums<MaxWordsForm<SourcesOf<12, 12, 8, 6>>>();
void (*const kVnniWindowBytes)(const DepthwiseWindowParams&) =
    &SumAllWindows<uint8_t, kVectorBytes>;
void (*const kVnniWindowWords)(const DepthwiseWindowParams&) =
    &SumAllWindows<int16_t, kVectorBytes>;

}  // namespace keras_adder
