// Which positions of a source axis (rows or columns of a tile) a block of
// destinations touches, and where the tile keeps them.
//
// Destination d (0 .. length-1, counted from the block's start) meets tap t at
// the source position  (start + d) * step + shift(t).  Positions are kept so
// that d -> d + 1 is always the next slot, whatever step and dilation are: taps
// whose shifts agree modulo the step share one run of slots, and runs that
// would mostly hold positions nobody asks for (large dilations) are split, one
// a tap. A tile therefore never holds more than taps * length positions.

#ifndef KERAS_ADDER_CORE_AXIS_PLAN_H_
#define KERAS_ADDER_CORE_AXIS_PLAN_H_

#include <cstdint>
#include <vector>

#include "core/geometry.h"
#include "core/kernels/kernels.h"

namespace keras_adder {

// Slots first .. first + count - 1 hold the source positions
// start * step + shift + i * step.
struct SlotRun {
  int64_t first;
  int64_t count;
  int64_t shift;
};

struct AxisTap {
  int64_t tap;    // index into the kernel
  int64_t shift;  // source position seen from destination 0
};

struct AxisPlan {
  int64_t step = 1;
  int64_t length = 0;
  int64_t slots = 0;
  std::vector<SlotRun> slot_runs;
  std::vector<AxisTap> taps;
  std::vector<TapSlot> tap_slots;  // of destination 0, parallel to taps
};

AxisPlan PlanAxis(std::vector<AxisTap> taps, int64_t step, int64_t length);

// The taps that output positions meet in the input.
std::vector<AxisTap> ForwardTaps(const Axis& axis);

// Some neighbours.
struct Range {
  int64_t first;
  int64_t count;
};

// Of `count` positions that lie `step` apart, from `first` on, those (counted
// from there) that lie in 0 ... size - 1.
Range PositionsInside(int64_t first, int64_t step, int64_t count, int64_t size);

// Of `count` output positions from `start` on, those (counted from there) whose
// input under a tap lies inside the image.
Range RangeInside(const Axis& axis, int64_t tap, int64_t start, int64_t count);

// Input positions that are equal modulo the stride meet the same taps, so the
// input gradient runs phase by phase: destinations are the input positions
// residue, residue + stride, ..., sources are output positions, step 1.
struct Phase {
  int64_t residue;
  int64_t count;  // how many input positions it has
  std::vector<AxisTap> taps;
};

// The phases that meet any tap at all; the gradient is zero elsewhere.
std::vector<Phase> BackwardPhases(const Axis& axis);

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_AXIS_PLAN_H_
