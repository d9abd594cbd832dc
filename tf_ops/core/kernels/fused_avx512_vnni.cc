#include "core/kernels/sums_x86.h"

namespace keras_adder {

const IntegerSums kVnniWords = MakeSums<MaxWordsForm<12>>();

}  // namespace keras_adder
