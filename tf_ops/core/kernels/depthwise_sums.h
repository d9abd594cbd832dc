// Sums of distances where every filter sees one input channel. To be included
// by the files of an instruction set alone (see vector.h).
//
// Sums<T, kBytes> is what instruction sets say of it: a vector of channels,
// whose elements are of type T. It has
//
//   kMaxTaps             after so many, sums may not fit into their bits
//   Load(from)           so many elements
//   Add(x, f)            adds their distances
//   Store(totals, add)   sums become, or are added to, totals

#ifndef KERAS_ADDER_CORE_KERNELS_DEPTHWISE_SUMS_H_
#define KERAS_ADDER_CORE_KERNELS_DEPTHWISE_SUMS_H_

#include <cstdint>
#include <utility>

#include "core/kernels/fused_kernels.h"
#include "core/kernels/kernels.h"

namespace keras_adder {
namespace {

// Outputs whose sums of a vector of channels are made at once: they share its
// filters, and hide how long an addition takes.
constexpr int kDepthwiseOutputs = 4;

// The sums of a vector of channels from `channel` on, of kOutputs outputs from
// `first` on.
template <typename Sums, int kOutputs>
__attribute__((noinline)) void SumVector(const DepthwiseParams& params,
                                         int64_t first, int64_t channel) {
  const ptrdiff_t at = channel * Sums::kElementBytes;
  const ptrdiff_t filter_step = params.channels * Sums::kElementBytes;
  const uint8_t* filters = params.filters + at;
  int32_t* totals = params.totals + first * params.channels + channel;
  for (int64_t tap = 0; tap < params.tap_count;) {
    const bool add = tap > 0;
    const int64_t left = params.tap_count - tap;
    const int64_t end = tap + (left < Sums::kMaxTaps ? left : Sums::kMaxTaps);
    Sums sums[kOutputs];
    for (; tap < end; ++tap, filters += filter_step) {
      const ptrdiff_t step = params.taps[tap].step;
      const uint8_t* x = params.taps[tap].input + first * step + at;
      const auto f = Sums::Load(filters);
#pragma GCC unroll 16
      for (int i = 0; i < kOutputs; ++i) {
        sums[i].Add(Sums::Load(x + i * step), f);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kOutputs; ++i) {
      sums[i].Store(totals + i * params.channels, add);
    }
  }
}

// All channels from `channel` on, by vectors of kBytes or, for what they leave,
// less. The last vector moves back so that it ends where channels do: what it
// sums again, it sums alike.
template <template <typename, int> class Sums, typename T, int kOutputs,
          int kBytes>
void SumChannels(const DepthwiseParams& params, int64_t first,
                 int64_t channel) {
  constexpr int64_t kElements = kBytes / sizeof(T);
  const auto sum = &SumVector<Sums<T, kBytes>, kOutputs>;
  const int64_t channels = params.channels;
  for (; channels - channel >= kElements; channel += kElements) {
    sum(params, first, channel);
  }
  if (channel == channels) return;
  if constexpr (kBytes > 16) {
    if (channels < kElements || channels - channel <= kElements / 2) {
      return SumChannels<Sums, T, kOutputs, kBytes / 2>(params, first, channel);
    }
  }
  sum(params, first, channels - kElements);
}

template <template <typename, int> class Sums, typename T, int kBytes,
          int... kIndices>
void SumOutputs(const DepthwiseParams& params,
                std::integer_sequence<int, kIndices...>) {
  static constexpr void (*kInstances[])(
      const DepthwiseParams&, int64_t,
      int64_t) = {&SumChannels<Sums, T, kIndices + 1, kBytes>...};
  constexpr int64_t kMost = sizeof...(kIndices);
  const int64_t parts = (params.outputs + kMost - 1) / kMost;
  for (int64_t part = 0, first = 0; part < parts; ++part) {
    // Parts are as equal as they can be.
    const int64_t left = params.outputs - first, of = parts - part;
    const int64_t count = (left + of - 1) / of;
    kInstances[count - 1](params, first, 0);
    first += count;
  }
}

// See DepthwiseParams; kBytes is what the widest vectors hold.
template <template <typename, int> class Sums, typename T, int kBytes>
void SumDepthwise(const DepthwiseParams& params) {
  SumOutputs<Sums, T, kBytes>(
      params, std::make_integer_sequence<int, kDepthwiseOutputs>());
}

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_DEPTHWISE_SUMS_H_
