#include "core/axis_plan.h"

#include <algorithm>
#include <map>

namespace keras_adder {
namespace {

int64_t FloorMod(int64_t value, int64_t modulus) {
  const int64_t rest = value % modulus;
  return rest < 0 ? rest + modulus : rest;
}

}  // namespace

AxisPlan PlanAxis(std::vector<AxisTap> taps, int64_t step, int64_t length) {
  AxisPlan plan;
  plan.step = step;
  plan.length = length;
  plan.taps = std::move(taps);
  for (const AxisTap& tap : plan.taps) plan.tap_slots.push_back({0, tap.tap});

  // Taps by residue, and within one in the order of their shifts, so that a
  // run of slots grows only forwards.
  std::map<int64_t, std::vector<size_t>> classes;
  for (size_t i = 0; i < plan.taps.size(); ++i) {
    classes[FloorMod(plan.taps[i].shift, step)].push_back(i);
  }
  for (auto& [residue, members] : classes) {
    std::sort(members.begin(), members.end(), [&](size_t a, size_t b) {
      return plan.taps[a].shift < plan.taps[b].shift;
    });
    for (size_t i = 0; i < members.size(); ++i) {
      const int64_t shift = plan.taps[members[i]].shift;
      if (i > 0) {
        Segment& run = plan.segments.back();
        const int64_t ahead = (shift - run.shift) / step;
        if (ahead <= run.count) {  // overlaps the run or continues it
          run.count = std::max(run.count, ahead + length);
          plan.tap_slots[members[i]].slot = run.first + ahead;
          plan.slots = run.first + run.count;
          continue;
        }
      }
      plan.tap_slots[members[i]].slot = plan.slots;
      plan.segments.push_back({plan.slots, length, shift});
      plan.slots += length;
    }
  }
  return plan;
}

std::vector<AxisTap> ForwardTaps(const Axis& axis) {
  std::vector<AxisTap> taps(axis.kernel);
  for (int64_t tap = 0; tap < axis.kernel; ++tap) {
    taps[tap] = {tap, tap * axis.dilation - axis.pad_before};
  }
  return taps;
}

Range PositionsInside(int64_t first, int64_t step, int64_t count,
                      int64_t size) {
  const auto before = [&](int64_t position) {
    const int64_t distance = position - first;
    if (distance <= 0) return int64_t{0};
    // A division takes longer than the rest of this.
    return std::min(step == 1 ? distance : (distance - 1) / step + 1, count);
  };
  const int64_t begin = before(0);
  return {begin, before(size) - begin};
}

Range RangeInside(const Axis& axis, int64_t tap, int64_t start, int64_t count) {
  return PositionsInside(axis.Position(start, tap), axis.stride, count,
                         axis.input);
}

std::vector<Phase> BackwardPhases(const Axis& axis) {
  std::map<int64_t, Phase> phases;
  for (const AxisTap& tap : ForwardTaps(axis)) {
    // Output o meets input o * stride + shift.
    const int64_t residue = FloorMod(tap.shift, axis.stride);
    if (residue >= axis.input) continue;
    Phase& phase = phases[residue];
    phase.residue = residue;
    phase.count = (axis.input - residue - 1) / axis.stride + 1;
    phase.taps.push_back({tap.tap, (residue - tap.shift) / axis.stride});
  }
  std::vector<Phase> list;
  for (auto& [residue, phase] : phases) list.push_back(std::move(phase));
  return list;
}

}  // namespace keras_adder
