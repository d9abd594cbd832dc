#ifndef KERAS_ADDER_TESTS_CORE_FUSED_TEST_H_
#define KERAS_ADDER_TESTS_CORE_FUSED_TEST_H_

#include <string>

#include "core/geometry.h"

namespace keras_adder {

// Compares the fused pass of every instruction set with its reference, to the
// last bit. `turn` picks types, of which each geometry meets a few. Counts what
// it checks and what fails, and prints the latter.
void CheckFused(const Geometry& geometry, int turn, const std::string& where,
                int* checks, int* failures);

}  // namespace keras_adder

#endif  // KERAS_ADDER_TESTS_CORE_FUSED_TEST_H_
