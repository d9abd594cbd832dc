#include "core/depthwise/tap_runs.h"

#include <algorithm>

#include "core/axis_plan.h"

namespace keras_adder {
namespace internal {
namespace {

// A tap, and those of so many positions that it meets something at.
struct MetRange {
  int64_t tap;
  Range range;
};

bool Meets(const MetRange& met, int64_t position) {
  return position >= met.range.first &&
         position < met.range.first + met.range.count;
}

// Cuts positions 0 ... count - 1 wherever a tap begins or ceases to meet
// something, and appends what is between the cuts.
void AppendRuns(const std::vector<MetRange>& taps, int64_t count,
                int64_t position, int64_t step, std::vector<TapRun>* runs) {
  std::vector<int64_t> cuts = {0, count};
  for (const MetRange& met : taps) {
    if (met.range.count == 0) continue;
    cuts.push_back(met.range.first);
    cuts.push_back(met.range.first + met.range.count);
  }
  std::sort(cuts.begin(), cuts.end());
  for (size_t i = 1; i < cuts.size(); ++i) {
    if (cuts[i] == cuts[i - 1]) continue;
    TapRun run{
        position + cuts[i - 1] * step, cuts[i] - cuts[i - 1], step, {}, {}};
    for (const MetRange& met : taps) {
      (Meets(met, cuts[i - 1]) ? run.inside : run.outside).push_back(met.tap);
    }
    runs->push_back(run);
  }
}

}  // namespace

std::vector<TapRun> OutputRuns(const Axis& axis) {
  std::vector<MetRange> taps;
  for (int64_t tap = 0; tap < axis.kernel; ++tap) {
    taps.push_back({tap, PositionsInside(axis.Position(0, tap), axis.stride,
                                         axis.output, axis.input)});
  }
  std::vector<TapRun> runs;
  AppendRuns(taps, axis.output, 0, 1, &runs);
  return runs;
}

std::vector<TapRun> InputRuns(const Axis& axis) {
  std::vector<TapRun> runs;
  for (int64_t first = 0; first < std::min(axis.stride, axis.input); ++first) {
    const int64_t count = (axis.input - 1 - first) / axis.stride + 1;
    std::vector<MetRange> taps;
    for (int64_t tap = 0; tap < axis.kernel; ++tap) {
      const int64_t padded = first + axis.pad_before - tap * axis.dilation;
      if (padded % axis.stride != 0) continue;
      taps.push_back(
          {tap, PositionsInside(padded / axis.stride, 1, count, axis.output)});
    }
    const size_t before = runs.size();
    AppendRuns(taps, count, first, axis.stride, &runs);
    for (size_t i = before; i < runs.size(); ++i) runs[i].outside.clear();
  }
  return runs;
}

std::vector<int64_t> RunOfEach(const std::vector<TapRun>& runs,
                               int64_t positions) {
  std::vector<int64_t> found(positions);
  for (size_t index = 0; index < runs.size(); ++index) {
    const TapRun& run = runs[index];
    for (int64_t i = 0; i < run.count; ++i) {
      found[run.first + i * run.step] = static_cast<int64_t>(index);
    }
  }
  return found;
}

}  // namespace internal
}  // namespace keras_adder
