// Sums of distances where every filter sees one input channel. To be included
// by the files of an instruction set alone (see vector.h).
//
// Sums<T, kBytes> is what instruction sets say of it: a vector of channels,
// whose elements are of type T. It has
//
//   kElements, kElementBytes
//   kMaxTaps             after so many, sums may not fit into their bits
//   Load(from)           so many elements
//   Add(x, f)            adds their distances
//   Store(totals, add)   sums become, or are added to, totals

#ifndef KERAS_ADDER_CORE_KERNELS_DEPTHWISE_SUMS_H_
#define KERAS_ADDER_CORE_KERNELS_DEPTHWISE_SUMS_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "core/kernels/fused_kernels.h"
#include "core/kernels/kernels.h"

namespace keras_adder {
namespace {

// Sums that are made at once, to hide how long an addition takes: of outputs,
// which share filters, and where these are few, of vectors of channels.
constexpr int kDepthwiseSums = 4;

// Asks for what is met next by kOutputs outputs from `first` on, so many bytes
// of each pixel from `at` on.
template <int kOutputs, int kBytes>
inline void Prefetch(const DepthwiseParams& params, int64_t first,
                     ptrdiff_t at) {
  constexpr int kLine = 64;
  for (int64_t i = 0; i < params.next_count; ++i) {
    const ptrdiff_t step = params.next[i].step;
    const uint8_t* next = params.next[i].input + first * step + at;
#pragma GCC unroll 16
    for (int j = 0; j < kOutputs; ++j, next += step) {
#pragma GCC unroll 16
      for (int k = 0; k < kBytes; k += kLine)
        __builtin_prefetch(next + k, 0, 2);
    }
  }
}

// The sums of `count` vectors of channels from `channel` on, kVectors at once,
// and of kOutputs outputs from `first` on.
template <typename Sums, int kOutputs, int kVectors>
__attribute__((noinline)) void SumVectors(const DepthwiseParams& params,
                                          int64_t first, int64_t channel,
                                          int64_t count) {
  constexpr int kBytes = Sums::kElements * Sums::kElementBytes;
  const int64_t filter_step = params.channels * Sums::kElementBytes;
  for (; count > 0; count -= kVectors, channel += kVectors * Sums::kElements) {
    const ptrdiff_t at = channel * Sums::kElementBytes;
    Prefetch<kOutputs, kVectors * kBytes>(params, first, at);
    const uint8_t* filters = params.filters + at;
    int32_t* totals = params.totals + first * params.channels + channel;
    for (int64_t tap = 0; tap < params.tap_count;) {
      const bool add = tap > 0;
      const int64_t left = params.tap_count - tap;
      const int64_t end = tap + (left < Sums::kMaxTaps ? left : Sums::kMaxTaps);
      Sums sums[kVectors][kOutputs];
      for (; tap < end; ++tap, filters += filter_step) {
        const ptrdiff_t step = params.taps[tap].step;
        const uint8_t* x = params.taps[tap].input + first * step + at;
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) {
          const auto f = Sums::Load(filters + v * kBytes);
#pragma GCC unroll 16
          for (int i = 0; i < kOutputs; ++i) {
            sums[v][i].Add(x + i * step + v * kBytes, f);
          }
        }
      }
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 16
        for (int i = 0; i < kOutputs; ++i) {
          sums[v][i].Store(totals + i * params.channels + v * Sums::kElements,
                           add);
        }
      }
    }
  }
}

// Calls visit(bytes of a vector, channel, count) for vectors that have all
// channels from `channel` on: of kBytes, or less for what they leave. The last
// vector moves back so that it ends where channels do, which others sum, too.
template <typename T, int kBytes, typename Visit>
void ForEachVector(int64_t channels, int64_t channel, const Visit& visit) {
  constexpr int64_t kElements = kBytes / sizeof(T);
  constexpr std::integral_constant<int, kBytes> kWidth{};
  const int64_t count = (channels - channel) / kElements;
  if (count > 0) visit(kWidth, channel, count);
  channel += count * kElements;
  if (channel == channels) return;
  if constexpr (kBytes > 16) {
    if (channels < kElements || channels - channel <= kElements / 2) {
      return ForEachVector<T, kBytes / 2>(channels, channel, visit);
    }
  }
  visit(kWidth, channels - kElements, 1);
}

template <template <typename, int> class Sums, typename T, int kBytes,
          int kOutputs>
void SumChannels(const DepthwiseParams& params, int64_t first) {
  // As many sums at once, whatever they are of.
  constexpr int kVectors = kDepthwiseSums / kOutputs;
  ForEachVector<T, kBytes>(
      params.channels, 0, [&](auto bytes, int64_t channel, int64_t count) {
        using Vector = Sums<T, bytes()>;
        const int64_t whole = count / kVectors * kVectors;
        SumVectors<Vector, kOutputs, kVectors>(params, first, channel, whole);
        if constexpr (kVectors > 1) {
          SumVectors<Vector, kOutputs, 1>(params, first,
                                          channel + whole * Vector::kElements,
                                          count - whole);
        }
      });
}

template <template <typename, int> class Sums, typename T, int kBytes,
          int... kIndices>
void SumOutputs(const DepthwiseParams& params,
                std::integer_sequence<int, kIndices...>) {
  static constexpr void (*kInstances[])(const DepthwiseParams&, int64_t) = {
      &SumChannels<Sums, T, kBytes, kIndices + 1>...};
  constexpr int64_t kMost = sizeof...(kIndices);
  const int64_t parts = (params.outputs + kMost - 1) / kMost;
  for (int64_t part = 0, first = 0; part < parts; ++part) {
    // Parts are as equal as they can be.
    const int64_t left = params.outputs - first, of = parts - part;
    const int64_t count = (left + of - 1) / of;
    kInstances[count - 1](params, first);
    first += count;
  }
}

// See DepthwiseParams; kBytes is what the widest vectors hold.
template <template <typename, int> class Sums, typename T, int kBytes>
void SumDepthwise(const DepthwiseParams& params) {
  SumOutputs<Sums, T, kBytes>(
      params, std::make_integer_sequence<int, kDepthwiseSums>());
}

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_DEPTHWISE_SUMS_H_
