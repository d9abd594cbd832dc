#include "core/axis_plan.h"

#include <algorithm>
#include <map>

#include "core/stride_phase.h"

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
        SlotRun& run = plan.slot_runs.back();
        const int64_t ahead = (shift - run.shift) / step;
        if (ahead <= run.count) {  // overlaps the run or continues it
          run.count = std::max(run.count, ahead + length);
          plan.tap_slots[members[i]].slot = run.first + ahead;
          plan.slots = run.first + run.count;
          continue;
        }
      }
      plan.tap_slots[members[i]].slot = plan.slots;
      plan.slot_runs.push_back({plan.slots, length, shift});
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
  std::vector<Phase> phases;
  const int64_t first_taps = std::min(axis.kernel, TapStep(axis));
  for (int64_t tap = 0; tap < first_taps; ++tap) {
    const int64_t residue =
        FloorMod(tap * axis.dilation - axis.pad_before, axis.stride);
    if (residue >= axis.input) continue;
    const StridePhase phase = PhaseOfTap(axis, residue, tap);
    phases.push_back({residue, phase.count, {}});
    for (int64_t j = 0; j < phase.taps; ++j) {
      phases.back().taps.push_back(
          {tap + j * phase.tap_step,
           phase.first_output + j * phase.output_step});
    }
  }
  std::sort(phases.begin(), phases.end(), [](const Phase& a, const Phase& b) {
    return a.residue < b.residue;
  });
  return phases;
}

}  // namespace keras_adder
