// The micro-kernels of the forward pass: sums of distances, of a register tile
// of some pixels by some channel blocks of filters. See ForwardParams in
// kernels.h.

#ifndef KERAS_ADDER_CORE_KERNELS_FORWARD_KERNELS_H_
#define KERAS_ADDER_CORE_KERNELS_FORWARD_KERNELS_H_

#include <limits>

#include "core/kernels/kernels.h"
#include "core/kernels/lanes.h"
#include "core/kernels/vector.h"

namespace keras_adder {
namespace {

// A term of a forward sum, subtracted. With both operands exact, the error is
// that of a plain sum.
template <typename C>
struct Direct {
  static inline Vector<C> Factor() { return Vector<C>{}; }
  static inline Vector<C> Add(Vector<C> sum, Vector<C> filter, const C* source,
                              Vector<C>) {
    return sum - AbsoluteDifference<C>(filter, Broadcast(*source));
  }
};

// Less 2 max(filter, source): one instruction, and one more on another port.
// The source is an operand of each maximum or, where several filters meet it, a
// register.
template <typename C, bool kOperand>
struct Maximum {
  static inline Vector<C> Factor() { return Opaque<C>(-2); }
  static inline Vector<C> Add(Vector<C> sum, Vector<C> filter, const C* source,
                              Vector<C> minus_two) {
    if constexpr (kOperand) {
      return Fma(MaxBroadcast(filter, source), minus_two, sum);
    } else {
      return Fma(Max(filter, BroadcastLoad(source)), minus_two, sum);
    }
  }
};

// The shape of a register tile: pixels of each run, runs, channel blocks of
// destinations; and whether sources are operands.
template <int kRun_, int kRuns_, int kBlocks_, bool kOperand_>
struct Shape {
  static constexpr int kRun = kRun_;
  static constexpr int kRuns = kRuns_;
  static constexpr int kBlocks = kBlocks_;
  static constexpr bool kOperand = kOperand_;
  static constexpr int kPixels = kRun * kRuns;
  // The first and the last pixel of a run may meet fewer taps than others.
  static constexpr bool IsFirst(int p) { return p % kRun == 0; }
  static constexpr bool IsLast(int p) { return p % kRun == kRun - 1; }
};

using OnePixel = Shape<1, 1, 1, false>;

// The vectors of all channel blocks of destinations of a register tile.
template <typename C, typename S>
constexpr int kTileVectors = S::kBlocks * kVectors<C>;

// Where vector v lies in an array whose blocks of channels are `block_stride`
// apart.
template <typename C>
inline ptrdiff_t VectorAt(int v, ptrdiff_t block_stride) {
  return v / kVectors<C> * block_stride + v % kVectors<C> * kWidth<C>;
}

// One sum for each pixel and each vector of the blocks of destinations.
template <typename C, typename S>
struct Sums {
  Vector<C> at[S::kPixels][kTileVectors<C, S>];
};

// The two runs of a register tile, or one twice.
template <typename C>
struct RunPair {
  const C* first;
  const C* second;
};

template <typename C, typename S>
inline const C* PixelOf(const RunPair<C>& runs, int p, ptrdiff_t step) {
  return p < S::kRun ? runs.first + p * step
                     : runs.second + (p - S::kRun) * step;
}

// The sources of `kCount` neighbouring pixels. Every third has a pointer of its
// own: an address takes one or two steps in its stride, but no more.
template <typename C, int kCount>
struct PixelPointers {
  const C* thirds[(kCount + 2) / 3];
  ptrdiff_t pixel_stride;

  inline __attribute__((always_inline)) PixelPointers(const C* first,
                                                      ptrdiff_t stride)
      : pixel_stride(stride) {
#pragma GCC unroll 16
    for (int i = 0; i < (kCount + 2) / 3; ++i) {
      thirds[i] = first + 3 * i * pixel_stride;
    }
  }
  inline const C* Of(int p) const {
    return thirds[p / 3] + p % 3 * pixel_stride;
  }
  inline __attribute__((always_inline)) void NextChannel() {
#pragma GCC unroll 16
    for (int i = 0; i < (kCount + 2) / 3; ++i) ++thirds[i];
  }
};

// Adds the terms of some taps, for `channels` of one block of sources, to the
// sums of pixels kFirst ... kEnd - 1 of each run. The filters of one tap follow
// those of the one before, most of the time, and stream from the second-level
// cache; unrolling makes up for the instructions that are not arithmetic.
template <typename C, typename Term, typename S, int kFirst, int kEnd>
inline __attribute__((always_inline)) void AddTaps(
    const ForwardTap* taps, int64_t count, const RunPair<C>& sources,
    ptrdiff_t pixel_stride, const C* filters, ptrdiff_t panel_stride,
    int64_t channels, Vector<C> factor, Sums<C, S>& sums) {
  if constexpr (kFirst >= kEnd) return;
  // This order needs the fewest registers at a time.
  constexpr bool kByPixels = !kBroadcastOperands || !S::kOperand;
  for (const ForwardTap* tap = taps; tap < taps + count; ++tap) {
    PixelPointers<C, S::kRun> first(sources.first + tap->source, pixel_stride);
    PixelPointers<C, S::kRun> second(sources.second + tap->source,
                                     pixel_stride);
    const C* filter = filters + tap->filter;
    const C* const end = filter + channels * kLanes;
#pragma GCC unroll 4
    for (; filter < end; filter += kLanes) {
#pragma GCC unroll 64
      for (int i = 0; i < S::kPixels * kTileVectors<C, S>; ++i) {
        const int p = kByPixels ? i / kTileVectors<C, S> : i % S::kPixels;
        const int v = kByPixels ? i % kTileVectors<C, S> : i / S::kPixels;
        if (p % S::kRun < kFirst || p % S::kRun >= kEnd) continue;
        sums.at[p][v] = Term::Add(
            sums.at[p][v], Load(filter + VectorAt<C>(v, panel_stride)),
            p < S::kRun ? first.Of(p) : second.Of(p - S::kRun), factor);
      }
      first.NextChannel();
      if constexpr (S::kRuns > 1) second.NextChannel();
    }
  }
}

// Adds all taps and channels of a reduction block to sums that stay in
// registers.
template <typename C, typename Term, typename S>
inline __attribute__((always_inline)) Sums<C, S> SumOverTaps(
    const ForwardParams<C>& params, RunPair<C> sources, Sums<C, S> sums) {
  const Vector<C> factor = Term::Factor();
  const ptrdiff_t pixel_stride = params.source_pixel_stride;
  const ForwardTap* const leading = params.taps;
  const ForwardTap* const inner = leading + params.leading;
  const ForwardTap* const trailing = inner + params.inner;
  const C* filters = params.filters;
  for (int64_t left = params.channels; left > 0; left -= kLanes) {
    const int64_t channels = left < kLanes ? left : kLanes;
    AddTaps<C, Term, S, 1, S::kRun>(leading, params.leading, sources,
                                    pixel_stride, filters, params.panel_stride,
                                    channels, factor, sums);
    AddTaps<C, Term, S, 0, S::kRun>(inner, params.inner, sources, pixel_stride,
                                    filters, params.panel_stride, channels,
                                    factor, sums);
    AddTaps<C, Term, S, 0, S::kRun - 1>(
        trailing, params.trailing, sources, pixel_stride, filters,
        params.panel_stride, channels, factor, sums);
    sources.first += params.source_block_stride;
    sources.second += params.source_block_stride;
    filters += params.filter_block_stride;
  }
  return sums;
}

// The columns of taps that RowSums takes at once.
constexpr int kRowColumns = 3;

// Adds the terms of a row of taps whose sources are neighbours, for `channels`
// of one block of sources. Each source is then the next pixel's, too.
template <typename C, typename S, bool kLeads, bool kTrails>
inline __attribute__((always_inline)) void AddRow(
    const C* source, ptrdiff_t pixel_stride, const C* filter,
    ptrdiff_t next_column, ptrdiff_t panel_stride, int64_t channels,
    Vector<C> minus_two, Sums<C, S>& sums) {
  constexpr int kSources = S::kRun + kRowColumns - 1;
  constexpr int kV = kTileVectors<C, S>;
  // With one vector of filters, parts of the run take turns: the three
  // additions to one sum would follow each other otherwise, and wait.
  constexpr int kPart = kV == 1 && S::kRun > 4 ? 4 : S::kRun;
  constexpr int kParts = (S::kRun + kPart - 1) / kPart;
  PixelPointers<C, kSources> sources(source, pixel_stride);
  for (const C* const end = filter + channels * kLanes; filter < end;
       filter += kLanes) {
    Vector<C> filters[kRowColumns][kV];
#pragma GCC unroll 16
    for (int i = 0; i < kRowColumns * kV; ++i) {
      const int t = i / kV, v = i % kV;
      filters[t][v] =
          Load(filter + t * next_column + VectorAt<C>(v, panel_stride));
    }
#pragma GCC unroll 64
    for (int i = 0; i < kParts * (kPart + kRowColumns - 1); ++i) {
      const int first = i % kParts * kPart;
      const int end = first + kPart < S::kRun ? first + kPart : S::kRun;
      const int at = first + i / kParts;
      if (at >= end + kRowColumns - 1) continue;
      // The padding: in the tensor, there is no such source.
      if ((kLeads && at == 0) || (kTrails && at == kSources - 1)) continue;
      const Vector<C> value = BroadcastLoad(sources.Of(at));
#pragma GCC unroll 16
      for (int j = 0; j < kRowColumns * kV; ++j) {
        const int t = j / kV, v = j % kV, p = at - t;
        if (p < first || p >= end) continue;
        sums.at[p][v] =
            Fma(Max(filters[t][v], value), minus_two, sums.at[p][v]);
      }
    }
    sources.NextChannel();
  }
}

template <typename C, typename S, bool kLeads, bool kTrails>
inline __attribute__((always_inline)) Sums<C, S> SumOverRows(
    const ForwardParams<C>& params, const C* source, Sums<C, S> sums) {
  const Vector<C> minus_two = Opaque<C>(-2);
  const int64_t rows =
      (params.leading + params.inner + params.trailing) / kRowColumns;
  const ptrdiff_t next_column =
      params.taps[rows].filter - params.taps[0].filter;
  const C* filters = params.filters;
  for (int64_t left = params.channels; left > 0; left -= kLanes) {
    for (int64_t row = 0; row < rows; ++row) {
      const ForwardTap& tap = params.taps[row];
      AddRow<C, S, kLeads, kTrails>(
          source + tap.source, params.source_pixel_stride, filters + tap.filter,
          next_column, params.panel_stride, left < kLanes ? left : kLanes,
          minus_two, sums);
    }
    source += params.source_block_stride;
    filters += params.filter_block_stride;
  }
  return sums;
}

// How sums come about: from a list of taps,
template <typename C, typename S>
struct TapSums {
  static inline __attribute__((always_inline)) Sums<C, S> Of(
      const ForwardParams<C>& params, const RunPair<C>& sources,
      Sums<C, S> sums) {
    return SumOverTaps<C, Maximum<C, S::kOperand>, S>(params, sources, sums);
  }
};

// or from rows of three columns, of which one at most leads and one trails.
template <typename C, typename S>
struct RowSums {
  static inline __attribute__((always_inline)) Sums<C, S> Of(
      const ForwardParams<C>& params, const RunPair<C>& sources,
      Sums<C, S> sums) {
    const C* const source = sources.first;
    if (params.inner + params.leading + params.trailing == 0) return sums;
    if (params.leading > 0 && params.trailing > 0) {
      return SumOverRows<C, S, true, true>(params, source, sums);
    }
    if (params.leading > 0) {
      return SumOverRows<C, S, true, false>(params, source, sums);
    }
    if (params.trailing > 0) {
      return SumOverRows<C, S, false, true>(params, source, sums);
    }
    return SumOverRows<C, S, false, false>(params, source, sums);
  }
};

// What `values` says of pixel p of each run.
template <typename C, typename S>
inline const C* ValuesOfPixel(const LaneValues<C>& values, int p) {
  if (S::IsFirst(p)) return values.first;
  return S::IsLast(p) ? values.last : values.inner;
}

// Starts from what sums of maxima are subtracted from: the sums of filters and
// sources. Partial sums then run from there to minus the distance, and stay
// small on the way.
template <typename C, typename S>
inline __attribute__((always_inline)) Sums<C, S> InitAccumulators(
    const ForwardParams<C>& params, const RunPair<C>& source_sums) {
  Sums<C, S> sums;
#pragma GCC unroll 32
  for (int p = 0; p < S::kPixels; ++p) {
    const C* const filters = ValuesOfPixel<C, S>(params.filter_sums, p);
    const Vector<C> source = Broadcast(*PixelOf<C, S>(source_sums, p, 1));
#pragma GCC unroll 8
    for (int v = 0; v < kTileVectors<C, S>; ++v) {
      sums.at[p][v] = Load(filters + v * kWidth<C>) + source;
    }
  }
  return sums;
}

// How many times smaller than the sum of all magnitudes a distance may be
// before it is summed directly: each doubling costs a bit of its accuracy.
constexpr int kCancellation = 4;

// The lanes whose distance cannot be taken from sums of maxima: those that
// cancel, and those in which anything overflows or is infinite or NaN.
template <typename C>
inline unsigned Inexact(Vector<C> magnitudes, Vector<C> minus_distances) {
  // Below this, no sum of two or three of them overflows.
  constexpr C kLarge = std::numeric_limits<C>::max() / 16;
  return NotLessEqual(
      magnitudes, Min(Broadcast<C>(kLarge), -kCancellation * minus_distances));
}

// The largest of the source magnitudes of a register tile; infinite if one is
// NaN. Up to kWidth<C> - 1 values behind a run are read.
template <typename C, typename S>
inline __attribute__((always_inline)) C MostMagnitude(const RunPair<C>& runs) {
  Vector<C> most = {};
  unsigned unordered = 0;
#pragma GCC unroll 2
  for (int run = 0; run < S::kRuns; ++run) {
    const C* const magnitudes = run > 0 ? runs.second : runs.first;
#pragma GCC unroll 32
    for (int p = 0; p < S::kRun; p += kWidth<C>) {
      // The last whole vector overlaps the one before.
      const bool whole = S::kRun >= kWidth<C>;
      const int at = whole && p + kWidth<C> > S::kRun ? S::kRun - kWidth<C> : p;
      Vector<C> next = Load(magnitudes + at);
      if (!whole) next = KeepLanes<C, S::kRun>(next);
      unordered |= NotLessEqual(next, next);
      most = Max(most, next);
    }
  }
  if (__builtin_expect(unordered != 0, 0)) {
    return std::numeric_limits<C>::infinity();
  }
  return LargestLane<C>(most);
}

// The largest of the sums of all pixels.
template <typename C, typename S>
inline __attribute__((always_inline)) Vector<C> Largest(const Sums<C, S>& sums,
                                                        int v) {
  constexpr int kChains = S::kPixels < 4 ? S::kPixels : 4;
  Vector<C> largest[kChains];
#pragma GCC unroll 32
  for (int p = 0; p < S::kPixels; ++p) {
    Vector<C>& chain = largest[p % kChains];
    chain = p < kChains ? sums.at[p][v] : Max(chain, sums.at[p][v]);
  }
#pragma GCC unroll 4
  for (int chain = 1; chain < kChains; ++chain) {
    largest[0] = Max(largest[0], largest[chain]);
  }
  return largest[0];
}

// Whether any sum of a register tile may have to be replaced: its largest
// magnitudes and smallest distances tell.
template <typename C, typename S>
inline __attribute__((always_inline)) bool MayBeInexact(
    const ForwardParams<C>& params, const RunPair<C>& source_magnitudes,
    const Sums<C, S>& sums) {
  const C magnitude = MostMagnitude<C, S>(source_magnitudes);
  unsigned inexact = 0;
#pragma GCC unroll 8
  for (int v = 0; v < kTileVectors<C, S>; ++v) {
    inexact |=
        Inexact<C>(Load(params.filter_magnitudes + v * kWidth<C>) + magnitude,
                   Largest<C, S>(sums, v));
  }
  return inexact != 0;
}

// The sums of one pixel, directly.
template <typename C, typename S>
Sums<C, OnePixel> DirectSums(const ForwardParams<C>& params,
                             const RunPair<C>& sources, int p, int block) {
  ForwardParams<C> pixel = params;
  pixel.filters += block * params.panel_stride;
  pixel.inner += params.leading + params.trailing;
  pixel.leading = pixel.trailing = 0;
  if (S::IsFirst(p)) {
    pixel.taps += params.leading;
    pixel.inner -= params.leading;
  }
  if (S::IsLast(p)) pixel.inner -= params.trailing;
  const C* const source = PixelOf<C, S>(sources, p, params.source_pixel_stride);
  return SumOverTaps<C, Direct<C>, OnePixel>(pixel, {source, source}, {});
}

// Replaces what cancelled in `sums`, kTileVectors vectors for each pixel.
template <typename C, typename S>
__attribute__((noinline)) void ReplaceCancelled(const ForwardParams<C>& params,
                                                const RunPair<C>& sources,
                                                const RunPair<C>& magnitudes,
                                                C* sums) {
  for (int p = 0; p < S::kPixels; ++p) {
    const C source = *PixelOf<C, S>(magnitudes, p, 1);
    for (int block = 0; block < S::kBlocks; ++block, sums += kLanes) {
      unsigned inexact[kVectors<C>], any = 0;
      for (int v = 0; v < kVectors<C>; ++v) {
        const C* const filters =
            params.filter_magnitudes + block * kLanes + v * kWidth<C>;
        inexact[v] =
            Inexact<C>(Load(filters) + source, Load(sums + v * kWidth<C>));
        any |= inexact[v];
      }
      if (!any) continue;
      const auto exact = DirectSums<C, S>(params, sources, p, block);
      for (int lane = 0; lane < kLanes; ++lane) {
        const int v = lane / kWidth<C>, i = lane % kWidth<C>;
        if (inexact[v] >> i & 1) sums[lane] = exact.at[0][v][i];
      }
    }
  }
}

// Takes sums out of registers and back, to replace some: sums whose address
// others know would not stay in registers.
template <typename C, typename S>
inline __attribute__((always_inline)) Sums<C, S> FixCancelledLanes(
    const ForwardParams<C>& params, const RunPair<C>& sources,
    const RunPair<C>& magnitudes, const Sums<C, S>& sums) {
  C values[S::kPixels * kTileVectors<C, S> * kWidth<C>];
  Sums<C, S> fixed;
  for (int p = 0; p < S::kPixels; ++p) {
    for (int v = 0; v < kTileVectors<C, S>; ++v) {
      Store(sums.at[p][v], values + (p * kTileVectors<C, S> + v) * kWidth<C>);
    }
  }
  ReplaceCancelled<C, S>(params, sources, magnitudes, values);
  for (int p = 0; p < S::kPixels; ++p) {
    for (int v = 0; v < kTileVectors<C, S>; ++v) {
      fixed.at[p][v] = Load(values + (p * kTileVectors<C, S> + v) * kWidth<C>);
    }
  }
  return fixed;
}

// Subtracts the padding of the first and the last pixels, or of those between.
template <typename C, typename S, bool kBetween>
inline __attribute__((always_inline)) void SubtractPadding(
    const LaneValues<C>& padding, Sums<C, S>& sums) {
#pragma GCC unroll 32
  for (int p = 0; p < S::kPixels; ++p) {
    if (kBetween == (S::IsFirst(p) || S::IsLast(p))) continue;
#pragma GCC unroll 8
    for (int v = 0; v < kTileVectors<C, S>; ++v) {
      sums.at[p][v] -= Load(ValuesOfPixel<C, S>(padding, p) + v * kWidth<C>);
    }
  }
}

template <typename C, typename S>
inline __attribute__((always_inline)) void AddBefore(const RunPair<C>& before,
                                                     ptrdiff_t block_stride,
                                                     Sums<C, S>& sums) {
#pragma GCC unroll 32
  for (int p = 0; p < S::kPixels; ++p) {
    const C* const from = PixelOf<C, S>(before, p, kLanes);
#pragma GCC unroll 8
    for (int v = 0; v < kTileVectors<C, S>; ++v) {
      sums.at[p][v] = Load(from + VectorAt<C>(v, block_stride)) + sums.at[p][v];
    }
  }
}

// Multiplies, offsets and bounds sums. Two roundings, as on a processor without
// fused multiply-adds; a NaN is the second operand and stays.
template <typename C, typename S>
inline __attribute__((always_inline)) void ApplyEpilogue(
    const ForwardParams<C>& params, Sums<C, S>& sums) {
  const Vector<C> lower = Broadcast(params.lower);
  const Vector<C> upper = Broadcast(params.upper);
#pragma GCC unroll 8
  for (int v = 0; v < kTileVectors<C, S>; ++v) {
    const Vector<C> multiplier = Load(params.multiplier + v * kWidth<C>);
    const Vector<C> offset = Load(params.offset + v * kWidth<C>);
#pragma GCC unroll 32
    for (int p = 0; p < S::kPixels; ++p) {
      sums.at[p][v] =
          Min(upper, Max(lower, sums.at[p][v] * multiplier + offset));
    }
  }
}

template <typename C, typename S>
inline __attribute__((always_inline)) void WriteSums(const Sums<C, S>& sums,
                                                     C* first, C* second,
                                                     ptrdiff_t pixel_stride,
                                                     ptrdiff_t block_stride) {
#pragma GCC unroll 32
  for (int p = 0; p < S::kPixels; ++p) {
    C*& output = p < S::kRun ? first : second;
#pragma GCC unroll 8
    for (int v = 0; v < kTileVectors<C, S>; ++v) {
      Store(sums.at[p][v], output + VectorAt<C>(v, block_stride));
    }
    output += pixel_stride;
  }
}

template <typename C, typename S>
inline __attribute__((always_inline)) void Finish(
    const ForwardParams<C>& params, const RunOffsets& first,
    const RunOffsets& second, int64_t done, Sums<C, S> sums) {
  SubtractPadding<C, S, false>(params.padding, sums);
  if (params.padded) SubtractPadding<C, S, true>(params.padding, sums);
  if (params.before != nullptr) {
    const C* const before = params.before + done * kLanes;
    AddBefore<C, S>({before + first.total, before + second.total},
                    params.before_block_stride, sums);
  }
  if (params.multiplier != nullptr) ApplyEpilogue<C, S>(params, sums);
  C* const output = params.output + done * params.output_pixel_stride;
  WriteSums<C, S>(sums, output + first.*params.start,
                  output + second.*params.start, params.output_pixel_stride,
                  params.output_block_stride);
}

// Fetches what a run will be written to, while its sums come about: a short sum
// would wait for memory longer than it takes.
template <typename C, typename S>
inline __attribute__((always_inline)) void PrefetchOutputs(
    const ForwardParams<C>& params, const C* output) {
#pragma GCC unroll 32
  for (int p = 0; p < S::kRun; ++p) {
#pragma GCC unroll 8
    for (int block = 0; block < S::kBlocks; ++block) {
      __builtin_prefetch(output + block * params.output_block_stride, 1);
    }
    output += params.output_pixel_stride;
  }
}

// Distances of one register tile, `done` pixels behind its starts, from sums of
// maxima. What depends on a pixel and a lane depends on nothing else of the
// tile, so that any tiling gives the same bits: its largest magnitudes and
// smallest distances only tell whether to look closer.
template <typename C, typename S, template <typename, typename> class Sum>
inline __attribute__((always_inline)) void ForwardRuns(
    const ForwardParams<C>& params, const RunOffsets& first,
    const RunOffsets& second, int64_t done) {
  const auto runs = [&](const C* values) {
    values += done;
    return RunPair<C>{values + first.pixel, values + second.pixel};
  };
  const C* const source = params.source + done * params.source_pixel_stride;
  const RunPair<C> sources{source + first.source, source + second.source};
  C* const output = params.output + done * params.output_pixel_stride;
  PrefetchOutputs<C, S>(params, output + first.*params.start);
  if (S::kRuns > 1) {
    PrefetchOutputs<C, S>(params, output + second.*params.start);
  }
  if constexpr (kDirectForward) {
    Finish<C, S>(params, first, second, done,
                 SumOverTaps<C, Direct<C>, S>(params, sources, {}));
  } else {
    const auto sums =
        Sum<C, S>::Of(params, sources,
                      InitAccumulators<C, S>(params, runs(params.source_sums)));
    const RunPair<C> magnitudes = runs(params.source_magnitudes);
    if (__builtin_expect(MayBeInexact<C, S>(params, magnitudes, sums), 0)) {
      Finish<C, S>(params, first, second, done,
                   FixCancelledLanes<C, S>(params, sources, magnitudes, sums));
    } else {
      Finish<C, S>(params, first, second, done, sums);
    }
  }
}

template <typename C, typename S, template <typename, typename> class Sum>
void Forward(const ForwardParams<C>& params, const RunOffsets* starts,
             int64_t count, int64_t times) {
  for (int64_t i = 0; i < count; i += S::kRuns) {
    for (int64_t done = 0; done < times * S::kRun; done += S::kRun) {
      ForwardRuns<C, S, Sum>(params, starts[i], starts[i + S::kRuns - 1], done);
    }
  }
}

// Calls the instance for `pixels` (of each run) out of 1 ... kMost.
template <typename C, int kMost, int kRuns, int kBlocks, bool kOperand,
          template <typename, typename> class Sum>
void ForwardUpTo(const ForwardParams<C>& params, const RunOffsets* starts,
                 int64_t count, int64_t times, int pixels) {
  if (pixels == kMost) {
    using S = Shape<kMost, kRuns, kBlocks, kOperand>;
    return Forward<C, S, Sum>(params, starts, count, times);
  }
  if constexpr (kMost > 1) {
    ForwardUpTo<C, kMost - 1, kRuns, kBlocks, kOperand, Sum>(
        params, starts, count, times, pixels);
  }
}

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_FORWARD_KERNELS_H_
