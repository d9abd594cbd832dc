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

}  // namespace keras_adder
