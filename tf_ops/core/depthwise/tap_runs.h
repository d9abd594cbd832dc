// Positions of an axis that meet the same taps, so that a kernel can take them
// in one go.

#ifndef KERAS_ADDER_CORE_DEPTHWISE_TAP_RUNS_H_
#define KERAS_ADDER_CORE_DEPTHWISE_TAP_RUNS_H_

#include <cstdint>
#include <vector>

#include "core/geometry.h"

namespace keras_adder {
namespace internal {

// Positions first, first + step, ... of an axis.
struct TapRun {
  int64_t first, count, step;
  std::vector<int64_t> inside;   // the taps that meet something there
  std::vector<int64_t> outside;  // those that lie in the padding
};

// Outputs, and the taps under which they meet an input.
std::vector<TapRun> OutputRuns(const Axis& axis);

// Inputs, a stride apart, and the taps under which an output meets them.
// Nothing is `outside`.
std::vector<TapRun> InputRuns(const Axis& axis);

// For each position, the index of the run that it belongs to.
std::vector<int64_t> RunOfEach(const std::vector<TapRun>& runs,
                               int64_t positions);

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_DEPTHWISE_TAP_RUNS_H_
