// The phases of a stride along one axis: inputs that are equal modulo the
// stride meet the same taps, and the outputs that they meet under one of these
// are neighbours. Both the CPU's and the GPU's input gradient run phase by
// phase.

#ifndef KERAS_ADDER_CORE_STRIDE_PHASE_H_
#define KERAS_ADDER_CORE_STRIDE_PHASE_H_

#include <cstdint>
#include <numeric>

namespace keras_adder {

// Input `residue + i * stride`, i from 0 to count - 1, meets under tap
// `first_tap + j * tap_step`, j from 0 to taps - 1, the output
// `first_output + i + j * output_step`, if there is such an output.
struct StridePhase {
  int64_t count;
  int64_t taps;  // 0: no output meets these inputs
  int64_t first_tap;
  int64_t tap_step;
  int64_t first_output;
  int64_t output_step;
};

// Taps so far apart meet the same inputs.
template <typename Axis>
int64_t TapStep(const Axis& axis) {
  return axis.stride / std::gcd(axis.stride, axis.dilation);
}

// The inputs that tap `first_tap`, of those less than TapStep, meets. `axis`
// has the fields of Axis in geometry.h. Output o meets under tap k the input
// o * stride + k * dilation - pad_before; this is solved for o.
template <typename Axis>
StridePhase PhaseOfTap(const Axis& axis, int64_t residue, int64_t first_tap) {
  const int64_t left = axis.input - residue;
  StridePhase phase{};
  phase.count = left > 0 ? (left - 1) / axis.stride + 1 : 0;
  phase.tap_step = TapStep(axis);
  phase.first_tap = first_tap;
  if (first_tap >= axis.kernel) return phase;
  phase.taps = (axis.kernel - 1 - first_tap) / phase.tap_step + 1;
  phase.first_output =
      (residue + axis.pad_before - first_tap * axis.dilation) / axis.stride;
  phase.output_step = -phase.tap_step * axis.dilation / axis.stride;
  return phase;
}

// The inputs that are `residue` modulo the stride.
template <typename Axis>
StridePhase PhaseOfResidue(const Axis& axis, int64_t residue) {
  const int64_t padded = residue + axis.pad_before;
  int64_t tap = 0;
  while (tap < axis.kernel &&
         (padded - tap * axis.dilation) % axis.stride != 0) {
    ++tap;
  }
  return PhaseOfTap(axis, residue, tap);
}

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_STRIDE_PHASE_H_
