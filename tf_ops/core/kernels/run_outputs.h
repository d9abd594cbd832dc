// What becomes of distances that follow each other as outputs do (see
// RunOutputParams). To be included by the files of an instruction set alone
// (see vector.h).

#ifndef KERAS_ADDER_CORE_KERNELS_RUN_OUTPUTS_H_
#define KERAS_ADDER_CORE_KERNELS_RUN_OUTPUTS_H_

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/kernels/fused_outputs.h"

namespace keras_adder {
namespace {

#if defined(__x86_64__)
// Integers of distances whose values fit, kNarrowedLanes of them.
template <typename R, typename O>
struct NarrowLanes {
  typedef int32_t LaneInts __attribute__((vector_size(kVectorBytes)));

  explicit NarrowLanes(const RunOutputParams& params)
      : narrow(params.output, params.fitting.bounds),
        residual_scale(params.residual.scale),
        residual_zero_point(params.residual.zero_point) {}

  KERAS_ADDER_INLINE void operator()(const int32_t* distances,
                                     const float* multiplier,
                                     const float* offset, const char* residual,
                                     char* output) const {
    Vector<float> values[kNarrowed];
#pragma GCC unroll 4
    for (int v = 0; v < kNarrowed; ++v) {
      const int lane = v * kWidth<float>;
      LaneInts ints;
      std::memcpy(&ints, distances + lane, sizeof(ints));
      // -distance * multiplier + offset, but for the sign of a zero, which no
      // integer has.
      values[v] =
          Load(offset + lane) - __builtin_convertvector(ints, Vector<float>) *
                                    Load(multiplier + lane);
      if constexpr (!std::is_same_v<R, NoResidual>) {
        const auto* from = reinterpret_cast<const R*>(residual) + lane;
        ints = (LaneInts)Widened(from) - residual_zero_point;
        values[v] +=
            __builtin_convertvector(ints, Vector<float>) * residual_scale;
      }
    }
    narrow(values, reinterpret_cast<O*>(output));
  }

  const Narrow<O> narrow;
  const float residual_scale;
  const int32_t residual_zero_point;
};
#endif

// `count` lanes, at most kLanes.
template <typename R, typename O>
struct FinishLanes {
  using Finished =
      Finish<R, std::conditional_t<std::is_same_v<O, int32_t>, float, O>>;

  explicit FinishLanes(const RunOutputParams& params)
      : finish(Finished::Of(params)) {}

  KERAS_ADDER_INLINE void operator()(const int32_t* distances,
                                     const float* multiplier,
                                     const float* offset, const char* residual,
                                     void* output, int64_t count) const {
    const Ints sum = -LoadLanes<int32_t>(distances, count);
    if constexpr (std::is_same_v<O, int32_t>) {
      StoreLanes<int32_t>(sum, count, output);
    } else {
      const Floats y = __builtin_convertvector(sum, Floats) *
                           LoadLanes<float>(multiplier, kLanes) +
                       LoadLanes<float>(offset, kLanes);
      finish(y, residual, output, count);
    }
  }

  Finished finish;
};

template <typename R, typename O>
void RunOutputs(const RunOutputParams& params) {
  const char* residual = static_cast<const char*>(params.residuals);
  char* output = static_cast<char*>(params.outputs);
  int64_t i = 0, channel = 0;
  const auto pass = [&](int64_t lanes) {
    i += lanes;
    for (channel += lanes; channel >= params.channels;) {
      channel -= params.channels;
    }
  };
#if defined(__x86_64__)
  if constexpr (kHasNarrowLanes<R, O>) {
    const NarrowLanes<R, O> narrow(params);
    for (; params.fitting.fit && params.count - i >= kNarrowedLanes;
         pass(kNarrowedLanes)) {
      narrow(params.distances + i, params.multiplier + channel,
             params.offset + channel, residual + i * kBytes<R>,
             output + i * sizeof(O));
    }
  }
#endif
  const FinishLanes<R, O> finish(params);
  while (i < params.count) {
    const int64_t left = params.count - i;
    const int64_t lanes = left < kLanes ? left : kLanes;
    finish(params.distances + i, params.multiplier + channel,
           params.offset + channel, residual + i * kBytes<R>,
           output + i * sizeof(O), lanes);
    pass(lanes);
  }
}

template <typename R>
constexpr void FillRunOutputs(FusedKernels* kernels, int residual) {
  kernels->run_outputs[residual][0] = &RunOutputs<R, float>;
  kernels->run_outputs[residual][1] = &RunOutputs<R, uint8_t>;
  kernels->run_outputs[residual][2] = &RunOutputs<R, int16_t>;
}

constexpr void FillRunOutputs(FusedKernels* kernels) {
  FillRunOutputs<float>(kernels, 0);
  FillRunOutputs<uint8_t>(kernels, 1);
  FillRunOutputs<int16_t>(kernels, 2);
  FillRunOutputs<NoResidual>(kernels, kNoResidual);
  kernels->run_outputs[kNoResidual][3] = &RunOutputs<NoResidual, int32_t>;
}

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_RUN_OUTPUTS_H_
