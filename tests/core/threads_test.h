#ifndef KERAS_ADDER_TESTS_CORE_THREADS_TEST_H_
#define KERAS_ADDER_TESTS_CORE_THREADS_TEST_H_

namespace keras_adder {

// Tests how a caller and a pool's threads share tasks, whatever pool it is.
// Counts what it checks and what fails, and prints the latter.
void TestThreads(int* checks, int* failures);

}  // namespace keras_adder

#endif  // KERAS_ADDER_TESTS_CORE_THREADS_TEST_H_
