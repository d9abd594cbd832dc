// The loop over steps that all ways to sum integer distances share. To be
// included by the files of an instruction set alone (see vector.h).
//
// A form is what differs. It has
//
//   Vector, kVectors  sums of some lanes, and how many make up a panel's
//   kMaxSourcesOf     sources that registers allow with one panel, two and so
//   on kStepElements     elements that a lane has of a step kFilterBytes bytes
//   of a step of a panel kOutputs          outputs of a source kMaxima what is
//   summed, see IntegerSums kMaxSteps         after so many, sums may not fit
//   into their bits PositionOf(lane)  where a lane's elements lie in a step
//   Filters(f)[v]     the filters of a step, for vector v
//   Broadcast(x)      the inputs of a step
//   Zero(), Add(sum, x, f)      0, and sum + what the form sums
//   Flush(sums, totals, add)    kVectors sums become, or are added to, totals

#ifndef KERAS_ADDER_CORE_KERNELS_INTEGER_SUMS_H_
#define KERAS_ADDER_CORE_KERNELS_INTEGER_SUMS_H_

#include <cstdint>
#include <utility>

#include "core/kernels/fused_kernels.h"

namespace keras_adder {
namespace {

template <typename Form, int kSources, int kPanels>
struct Summing {
  using Vector = typename Form::Vector;
  static constexpr int kVectors = Form::kVectors;

  Vector sums[kPanels][kSources][kVectors];

  inline __attribute__((always_inline)) void Clear() {
#pragma GCC unroll 16
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 16
      for (int i = 0; i < kSources; ++i) {
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) sums[p][i][v] = Form::Zero();
      }
    }
  }
  inline __attribute__((always_inline)) void Flush(const StepParams& params,
                                                   bool add) const {
#pragma GCC unroll 16
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 16
      for (int i = 0; i < kSources; ++i) {
        Form::Flush(
            sums[p][i],
            params.totals + p * params.total_stride + i * Form::kOutputs * 16,
            add);
      }
    }
  }
  inline __attribute__((always_inline)) void Step(const uint8_t* const* sources,
                                                  ptrdiff_t offset,
                                                  const uint8_t* filters,
                                                  ptrdiff_t panel_stride) {
    if constexpr (kPanels == 1) {
      const typename Form::Filters f(filters);
      AddFilters(sources, offset, &f);
    } else {
      typename Form::Filters f[kPanels];
#pragma GCC unroll 16
      for (int p = 0; p < kPanels; ++p) {
        f[p] = typename Form::Filters(filters + p * panel_stride);
      }
      AddFilters(sources, offset, f);
    }
  }
  inline __attribute__((always_inline)) void AddFilters(
      const uint8_t* const* sources, ptrdiff_t offset,
      const typename Form::Filters* f) {
#pragma GCC unroll 16
    for (int i = 0; i < kSources; ++i) {
      const auto x = Form::Broadcast(sources[i] + offset);
#pragma GCC unroll 16
      for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) {
          sums[p][i][v] = Form::Add(sums[p][i][v], x, f[p][v]);
        }
      }
    }
  }
};

template <typename Form, int kSources, int kPanels>
__attribute__((noinline)) void SumSources(const uint8_t* const* all,
                                          const StepParams& params) {
  const uint8_t* sources[kSources];
#pragma GCC unroll 16
  for (int i = 0; i < kSources; ++i) sources[i] = all[i];
  const uint8_t* filters = params.filters;
  const ptrdiff_t step = params.step, panel_stride = params.panel_stride;
  Summing<Form, kSources, kPanels> summing;
  summing.Clear();
  bool add = false;  // to totals
  int64_t fit = Form::kMaxSteps;
  for (int64_t run = 0; run < params.run_count; ++run) {
    ptrdiff_t offset = params.runs[run].shift;
    for (int64_t left = params.runs[run].steps; left > 0;) {
      if (fit == 0) {
        summing.Flush(params, add);
        summing.Clear();
        add = true;
        fit = Form::kMaxSteps;
      }
      const int64_t some = left < fit ? left : fit;
      for (int64_t s = some; s > 0; --s) {
        summing.Step(sources, offset, filters, panel_stride);
        filters += Form::kFilterBytes;
        offset += step;
      }
      left -= some;
      fit -= some;
    }
  }
  summing.Flush(params, add);
}

// The instances of a form: for 1 ... n sources, of so many panels.
template <typename Form, int kPanels, int... kIndices>
void SumPanels(int count, const uint8_t* const* sources,
               const StepParams& params,
               std::integer_sequence<int, kIndices...>) {
  static constexpr void (*kInstances[])(
      const uint8_t* const*,
      const StepParams&) = {&SumSources<Form, kIndices + 1, kPanels>...};
  kInstances[count - 1](sources, params);
}

template <typename Form, int kPanels = kMaxPanels>
void SumUpTo(int count, int panels, const uint8_t* const* sources,
             const StepParams& params) {
  if constexpr (kPanels > 1) {
    if (panels < kPanels) {
      return SumUpTo<Form, kPanels - 1>(count, panels, sources, params);
    }
  }
  constexpr int kSources = Form::kMaxSourcesOf[kPanels - 1];
  if constexpr (kSources > 0) {
    SumPanels<Form, kPanels>(count, sources, params,
                             std::make_integer_sequence<int, kSources>());
  }
}

// See IntegerRowSums. Of forms with one vector of lanes, whose sums always fit.
template <typename Form, int kPanels, int kOutputs>
__attribute__((noinline)) void SumRow(const uint8_t* first,
                                      ptrdiff_t pixel_stride,
                                      const StepParams& params) {
  static_assert(Form::kVectors == 1 && Form::kMaxSteps > int64_t{1} << 32);
  typename Form::Vector sums[kPanels][kOutputs];
#pragma GCC unroll 8
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 32
    for (int i = 0; i < kOutputs; ++i) sums[p][i] = Form::Zero();
  }
  const uint8_t* filters = params.filters;
  for (int64_t run = 0; run < params.run_count; ++run) {
    const uint8_t* source = first + params.runs[run].shift;
    for (int64_t left = params.runs[run].steps; left > 0; --left) {
      typename Form::Vector f[kPanels][kRowTaps];
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
        for (int tap = 0; tap < kRowTaps; ++tap) {
          f[p][tap] = typename Form::Filters(filters + p * params.panel_stride +
                                             tap * Form::kFilterBytes)[0];
        }
      }
      filters += kRowTaps * Form::kFilterBytes;
      const uint8_t* from = source;
#pragma GCC unroll 32
      for (int column = 0; column < kOutputs + kRowTaps - 1; ++column) {
        const auto x = Form::Broadcast(from);
        from += pixel_stride;
#pragma GCC unroll 8
        for (int tap = 0; tap < kRowTaps; ++tap) {
          const int i = column - tap;
          if (i < 0 || i >= kOutputs) continue;
#pragma GCC unroll 8
          for (int p = 0; p < kPanels; ++p) {
            sums[p][i] = Form::Add(sums[p][i], x, f[p][tap]);
          }
        }
      }
      source += params.step;
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 32
    for (int i = 0; i < kOutputs; ++i) {
      Form::Flush(&sums[p][i], params.totals + p * params.total_stride + i * 16,
                  false);
    }
  }
}

template <typename Form, int kPanels, int... kIndices>
void SumRowOf(int outputs, const uint8_t* source, ptrdiff_t pixel_stride,
              const StepParams& params,
              std::integer_sequence<int, kIndices...>) {
  static constexpr void (*kInstances[])(
      const uint8_t*, ptrdiff_t,
      const StepParams&) = {&SumRow<Form, kPanels, kIndices + 1>...};
  kInstances[outputs - 1](source, pixel_stride, params);
}

// Up to so many outputs with one panel, and with two.
template <typename Form, int kOfOne, int kOfTwo>
constexpr IntegerRowSums MakeRowSums() {
  return {{kOfOne, kOfTwo},
          [](int outputs, int panels, const uint8_t* source,
             ptrdiff_t pixel_stride, const StepParams& params) {
            if (panels == 1) {
              SumRowOf<Form, 1>(outputs, source, pixel_stride, params,
                                std::make_integer_sequence<int, kOfOne>());
            } else {
              SumRowOf<Form, 2>(outputs, source, pixel_stride, params,
                                std::make_integer_sequence<int, kOfTwo>());
            }
          }};
}

template <typename Form>
constexpr IntegerSums MakeSums() {
  IntegerSums sums{};
  for (int i = 0; i < kMaxPanels; ++i) {
    sums.max_sources[i] = Form::kMaxSourcesOf[i];
  }
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
