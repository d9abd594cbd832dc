// The loop over steps that all ways to sum integer distances share. To be
// included by the files of an instruction set alone (see vector.h).
//
// A form is what differs. It has
//
//   Vector            sums of some lanes
//   Source            what a source's step is broadcast to
//   kVectors          vectors of a panel's lanes
//   kMaxSteps         after so many, sums may not fit into their bits
//   kFilterBytes      bytes of a step of a panel
//   Filter(f, v)      the filters of a step, for vector v
//   Broadcast(x)      the inputs of a step
//   Add(sum, x, f)    sum + what the form sums
//   Flush(sums, totals, add)    kVectors sums become, or are added to, totals

#ifndef KERAS_ADDER_CORE_KERNELS_INTEGER_SUMS_H_
#define KERAS_ADDER_CORE_KERNELS_INTEGER_SUMS_H_

#include <algorithm>
#include <cstdint>

#include "core/kernels/fused_kernels.h"

namespace keras_adder {
namespace {

template <typename Form, int kSources>
__attribute__((noinline)) void SumSources(const SumParams& params) {
  using Vector = typename Form::Vector;
  constexpr int kVectors = Form::kVectors;
  const uint8_t* sources[kSources];
  for (int i = 0; i < kSources; ++i) {
    sources[i] = params.sources[i] + params.shift;
  }
  const uint8_t* filters = params.filters;
  const ptrdiff_t step = params.step;
  ptrdiff_t offset = 0;
  bool add = params.add;
  for (int64_t left = params.steps; left > 0; left -= Form::kMaxSteps) {
    Vector sums[kSources][kVectors];
#pragma GCC unroll 16
    for (int i = 0; i < kSources; ++i) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sums[i][v] = Form::Zero();
    }
    for (int64_t s = std::min<int64_t>(left, Form::kMaxSteps); s > 0; --s) {
      typename Form::Filters f(filters);
      filters += Form::kFilterBytes;
#pragma GCC unroll 16
      for (int i = 0; i < kSources; ++i) {
        const auto x = Form::Broadcast(sources[i] + offset);
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) {
          sums[i][v] = Form::Add(sums[i][v], x, f[v]);
        }
      }
      offset += step;
    }
#pragma GCC unroll 16
    for (int i = 0; i < kSources; ++i) {
      Form::Flush(sums[i], params.totals + i * Form::kOutputs * 16, add);
    }
    add = true;
  }
}

// The instance for so many sources.
template <typename Form, int kSources = Form::kMaxSourcesOfForm>
void SumUpTo(int sources, const SumParams& params) {
  if constexpr (kSources > 1) {
    if (sources < kSources) return SumUpTo<Form, kSources - 1>(sources, params);
  }
  SumSources<Form, kSources>(params);
}

template <typename Form>
constexpr IntegerSums MakeSums() {
  IntegerSums sums{};
  sums.max_sources = Form::kMaxSourcesOfForm;
  sums.step_elements = Form::kStepElements;
  sums.maxima = Form::kMaxima;
  for (int lane = 0; lane < 16; ++lane) {
    sums.positions[lane] = Form::PositionOf(lane);
  }
  sums.run = &SumUpTo<Form>;
  return sums;
}

// Where lanes lie whose sums are 64 bits wide, `wide` of them in a vector: the
// even ones of a pair of vectors first, then the odd ones, so that both come in
// order where their lower halves are put together.
constexpr int InterleavedPosition(int lane, int wide) {
  const int pair = lane / (2 * wide), within = lane % (2 * wide);
  return pair * 2 * wide + within % 2 * wide + within / 2;
}

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_INTEGER_SUMS_H_
