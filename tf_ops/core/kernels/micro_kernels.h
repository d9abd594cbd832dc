// The innermost loops, written once over the vectors of vector.h. To be
// included by the one file of each instruction set (see vector.h), which sets
// the block sizes that its registers hold.

#ifndef KERAS_ADDER_CORE_KERNELS_MICRO_KERNELS_H_
#define KERAS_ADDER_CORE_KERNELS_MICRO_KERNELS_H_

#include <limits>
#include <type_traits>

#include "core/kernels/convert.h"
#include "core/kernels/kernels.h"
#include "core/kernels/vector.h"

namespace keras_adder {
namespace {

// Vectors in a plane of a tile.
template <typename C>
constexpr int kVectors = kLanes / kWidth<C>;

// a - b, as a fused multiply-add if so asked: loops that also clip have more
// work for the ports of additions than for those of multiply-adds.
template <typename C>
inline Vector<C> Difference(Vector<C> a, Vector<C> b, Vector<C> one,
                            bool fused) {
#if defined(__FMA__)
  if (fused) return Fma(a, one, -b);
#endif
  return a - b;
}

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

// The shape of a block: pixels of each run, runs, planes of destinations; and
// whether sources are operands.
template <int kRun_, int kRuns_, int kPlanes_, bool kOperand_>
struct Shape {
  static constexpr int kRun = kRun_;
  static constexpr int kRuns = kRuns_;
  static constexpr int kPlanes = kPlanes_;
  static constexpr bool kOperand = kOperand_;
  static constexpr int kPixels = kRun * kRuns;
  // The first and the last pixel of a run may meet fewer taps than others.
  static constexpr bool IsFirst(int p) { return p % kRun == 0; }
  static constexpr bool IsLast(int p) { return p % kRun == kRun - 1; }
};

using OnePixel = Shape<1, 1, 1, false>;

// The vectors of all planes of destinations of a block.
template <typename C, typename S>
constexpr int kSpan = S::kPlanes * kVectors<C>;

// Where vector v lies in an array that has the next plane `plane` elements on.
template <typename C>
inline ptrdiff_t VectorAt(int v, ptrdiff_t plane) {
  return v / kVectors<C> * plane + v % kVectors<C> * kWidth<C>;
}

// One sum for each pixel and each vector of the planes of destinations.
template <typename C, typename S>
struct Sums {
  Vector<C> at[S::kPixels][kSpan<C, S>];
};

// The two runs of a block, or one twice.
template <typename C>
struct TwoRuns {
  const C* first;
  const C* second;
};

template <typename C, typename S>
inline const C* PixelOf(const TwoRuns<C>& runs, int p, ptrdiff_t step) {
  return p < S::kRun ? runs.first + p * step
                     : runs.second + (p - S::kRun) * step;
}

// The sources of `kCount` neighbouring pixels. Every third has a pointer of its
// own: an address takes one or two steps in its stride, but no more.
template <typename C, int kCount>
struct Sources {
  const C* thirds[(kCount + 2) / 3];
  ptrdiff_t step;

  inline __attribute__((always_inline)) Sources(const C* first, ptrdiff_t step)
      : step(step) {
#pragma GCC unroll 16
    for (int i = 0; i < (kCount + 2) / 3; ++i) {
      thirds[i] = first + 3 * i * step;
    }
  }
  inline const C* Of(int p) const { return thirds[p / 3] + p % 3 * step; }
  inline __attribute__((always_inline)) void NextChannel() {
#pragma GCC unroll 16
    for (int i = 0; i < (kCount + 2) / 3; ++i) ++thirds[i];
  }
};

// Adds the terms of some taps, for `channels` of one plane of sources, to the
// sums of pixels kFirst ... kEnd - 1 of each run. The filters of one tap follow
// those of the one before, most of the time, and stream from the second-level
// cache; unrolling makes up for the instructions that are not arithmetic.
template <typename C, typename Step, typename S, int kFirst, int kEnd>
inline __attribute__((always_inline)) void AddTaps(
    const ForwardTap* taps, int64_t count, const TwoRuns<C>& sources,
    ptrdiff_t pixel, const C* filters, ptrdiff_t next_filters, int64_t channels,
    Vector<C> factor, Sums<C, S>& sums) {
  if constexpr (kFirst >= kEnd) return;
  // In the order that needs the fewest registers at a time.
  constexpr bool kByPixels = !kBroadcastOperands || !S::kOperand;
  for (const ForwardTap* tap = taps; tap < taps + count; ++tap) {
    Sources<C, S::kRun> first(sources.first + tap->source, pixel);
    Sources<C, S::kRun> second(sources.second + tap->source, pixel);
    const C* filter = filters + tap->filter;
    const C* const end = filter + channels * kLanes;
#pragma GCC unroll 4
    for (; filter < end; filter += kLanes) {
#pragma GCC unroll 64
      for (int i = 0; i < S::kPixels * kSpan<C, S>; ++i) {
        const int p = kByPixels ? i / kSpan<C, S> : i % S::kPixels;
        const int v = kByPixels ? i % kSpan<C, S> : i / S::kPixels;
        if (p % S::kRun < kFirst || p % S::kRun >= kEnd) continue;
        sums.at[p][v] = Step::Add(
            sums.at[p][v], Load(filter + VectorAt<C>(v, next_filters)),
            p < S::kRun ? first.Of(p) : second.Of(p - S::kRun), factor);
      }
      first.NextChannel();
      if constexpr (S::kRuns > 1) second.NextChannel();
    }
  }
}

// Adds all taps and channels of the block to sums that stay in registers.
template <typename C, typename Step, typename S>
inline __attribute__((always_inline)) Sums<C, S> SumOverTaps(
    const ForwardBlock<C>& block, TwoRuns<C> sources, Sums<C, S> sums) {
  const Vector<C> factor = Step::Factor();
  const ptrdiff_t pixel = block.source_pixel;
  const ForwardTap* const leading = block.taps;
  const ForwardTap* const inner = leading + block.leading;
  const ForwardTap* const trailing = inner + block.inner;
  const C* filters = block.filters;
  for (int64_t left = block.channels; left > 0; left -= kLanes) {
    const int64_t channels = left < kLanes ? left : kLanes;
    AddTaps<C, Step, S, 1, S::kRun>(leading, block.leading, sources, pixel,
                                    filters, block.next_filters, channels,
                                    factor, sums);
    AddTaps<C, Step, S, 0, S::kRun>(inner, block.inner, sources, pixel, filters,
                                    block.next_filters, channels, factor, sums);
    AddTaps<C, Step, S, 0, S::kRun - 1>(trailing, block.trailing, sources,
                                        pixel, filters, block.next_filters,
                                        channels, factor, sums);
    sources.first += block.source_plane;
    sources.second += block.source_plane;
    filters += block.filter_plane;
  }
  return sums;
}

// The columns of taps that RowSums takes at once.
constexpr int kRowColumns = 3;

// Adds the terms of a row of taps whose sources are neighbours, for `channels`
// of one plane of sources. Each source is then the next pixel's, too.
template <typename C, typename S, bool kLeads, bool kTrails>
inline __attribute__((always_inline)) void AddRow(
    const C* source, ptrdiff_t pixel, const C* filter, ptrdiff_t next_column,
    ptrdiff_t next_filters, int64_t channels, Vector<C> minus_two,
    Sums<C, S>& sums) {
  constexpr int kSources = S::kRun + kRowColumns - 1;
  constexpr int kV = kSpan<C, S>;
  // One plane goes on from several pixels in turns: its three additions to a
  // sum, one behind the other, would wait for each other.
  constexpr int kPart = kV == 1 && S::kRun > 4 ? 4 : S::kRun;
  constexpr int kParts = (S::kRun + kPart - 1) / kPart;
  Sources<C, kSources> sources(source, pixel);
  for (const C* const end = filter + channels * kLanes; filter < end;
       filter += kLanes) {
    Vector<C> filters[kRowColumns][kV];
#pragma GCC unroll 16
    for (int i = 0; i < kRowColumns * kV; ++i) {
      const int t = i / kV, v = i % kV;
      filters[t][v] =
          Load(filter + t * next_column + VectorAt<C>(v, next_filters));
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
    const ForwardBlock<C>& block, const C* source, Sums<C, S> sums) {
  const Vector<C> minus_two = Opaque<C>(-2);
  const int64_t rows =
      (block.leading + block.inner + block.trailing) / kRowColumns;
  const ptrdiff_t next_column = block.taps[rows].filter - block.taps[0].filter;
  const C* filters = block.filters;
  for (int64_t left = block.channels; left > 0; left -= kLanes) {
    for (int64_t row = 0; row < rows; ++row) {
      const ForwardTap& tap = block.taps[row];
      AddRow<C, S, kLeads, kTrails>(
          source + tap.source, block.source_pixel, filters + tap.filter,
          next_column, block.next_filters, left < kLanes ? left : kLanes,
          minus_two, sums);
    }
    source += block.source_plane;
    filters += block.filter_plane;
  }
  return sums;
}

// How sums come about: from the block's list of taps,
template <typename C, typename S>
struct TapSums {
  static inline __attribute__((always_inline)) Sums<C, S> Of(
      const ForwardBlock<C>& block, const TwoRuns<C>& sources,
      Sums<C, S> sums) {
    return SumOverTaps<C, Maximum<C, S::kOperand>, S>(block, sources, sums);
  }
};

// or from rows of three columns, of which one at most leads and one trails.
template <typename C, typename S>
struct RowSums {
  static inline __attribute__((always_inline)) Sums<C, S> Of(
      const ForwardBlock<C>& block, const TwoRuns<C>& sources,
      Sums<C, S> sums) {
    const C* const source = sources.first;
    if (block.inner + block.leading + block.trailing == 0) return sums;
    if (block.leading > 0 && block.trailing > 0) {
      return SumOverRows<C, S, true, true>(block, source, sums);
    }
    if (block.leading > 0) {
      return SumOverRows<C, S, true, false>(block, source, sums);
    }
    if (block.trailing > 0) {
      return SumOverRows<C, S, false, true>(block, source, sums);
    }
    return SumOverRows<C, S, false, false>(block, source, sums);
  }
};

// What `values` says of pixel p of each run.
template <typename C, typename S>
inline const C* ValuesOf(const LaneValues<C>& values, int p) {
  if (S::IsFirst(p)) return values.first;
  return S::IsLast(p) ? values.last : values.inner;
}

// What sums of maxima are subtracted from: the sums of filters and sources.
// Partial sums then run from there to minus the distance, and stay small on the
// way.
template <typename C, typename S>
inline __attribute__((always_inline)) Sums<C, S> Reach(
    const ForwardBlock<C>& block, const TwoRuns<C>& source_sums) {
  Sums<C, S> sums;
#pragma GCC unroll 32
  for (int p = 0; p < S::kPixels; ++p) {
    const C* const filters = ValuesOf<C, S>(block.filter_sums, p);
    const Vector<C> source = Broadcast(*PixelOf<C, S>(source_sums, p, 1));
#pragma GCC unroll 8
    for (int v = 0; v < kSpan<C, S>; ++v) {
      sums.at[p][v] = Load(filters + v * kWidth<C>) + source;
    }
  }
  return sums;
}

// How many times smaller than the sum of all magnitudes a distance may be
// before it is summed directly: each doubling costs a bit of its accuracy.
constexpr int kCancellation = 4;

// The lanes whose distance sums of maxima do not give: those that cancel, and
// those in which anything overflows or is infinite or NaN.
template <typename C>
inline unsigned Inexact(Vector<C> magnitudes, Vector<C> minus_distances) {
  // Below this, no sum of two or three of them overflows.
  constexpr C kLarge = std::numeric_limits<C>::max() / 16;
  return NotLessEqual(
      magnitudes, Min(Broadcast<C>(kLarge), -kCancellation * minus_distances));
}

// The largest of the source magnitudes of a block; infinite if one is NaN. Up
// to kWidth<C> - 1 values behind a run are read.
template <typename C, typename S>
inline __attribute__((always_inline)) C MostMagnitude(const TwoRuns<C>& runs) {
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

// Whether any sum of a block may have to be replaced: its largest magnitudes
// and smallest distances tell.
template <typename C, typename S>
inline __attribute__((always_inline)) bool MayBeInexact(
    const ForwardBlock<C>& block, const TwoRuns<C>& source_magnitudes,
    const Sums<C, S>& sums) {
  const C magnitude = MostMagnitude<C, S>(source_magnitudes);
  unsigned inexact = 0;
#pragma GCC unroll 8
  for (int v = 0; v < kSpan<C, S>; ++v) {
    inexact |=
        Inexact<C>(Load(block.filter_magnitudes + v * kWidth<C>) + magnitude,
                   Largest<C, S>(sums, v));
  }
  return inexact != 0;
}

// The sums of one pixel, directly.
template <typename C, typename S>
Sums<C, OnePixel> DirectSums(const ForwardBlock<C>& block,
                             const TwoRuns<C>& sources, int p, int plane) {
  ForwardBlock<C> pixel = block;
  pixel.filters += plane * block.next_filters;
  pixel.inner += block.leading + block.trailing;
  pixel.leading = pixel.trailing = 0;
  if (S::IsFirst(p)) {
    pixel.taps += block.leading;
    pixel.inner -= block.leading;
  }
  if (S::IsLast(p)) pixel.inner -= block.trailing;
  const C* const source = PixelOf<C, S>(sources, p, block.source_pixel);
  return SumOverTaps<C, Direct<C>, OnePixel>(pixel, {source, source}, {});
}

// Replaces what cancelled in `sums`, kSpan vectors for each pixel.
template <typename C, typename S>
__attribute__((noinline)) void ReplaceInexact(const ForwardBlock<C>& block,
                                              const TwoRuns<C>& sources,
                                              const TwoRuns<C>& magnitudes,
                                              C* sums) {
  for (int p = 0; p < S::kPixels; ++p) {
    const C source = *PixelOf<C, S>(magnitudes, p, 1);
    for (int plane = 0; plane < S::kPlanes; ++plane, sums += kLanes) {
      unsigned inexact[kVectors<C>], any = 0;
      for (int v = 0; v < kVectors<C>; ++v) {
        const C* const filters =
            block.filter_magnitudes + plane * kLanes + v * kWidth<C>;
        inexact[v] =
            Inexact<C>(Load(filters) + source, Load(sums + v * kWidth<C>));
        any |= inexact[v];
      }
      if (!any) continue;
      const auto exact = DirectSums<C, S>(block, sources, p, plane);
      for (int lane = 0; lane < kLanes; ++lane) {
        const int v = lane / kWidth<C>, i = lane % kWidth<C>;
        if (inexact[v] >> i & 1) sums[lane] = exact.at[0][v][i];
      }
    }
  }
}

// Out of registers and back: sums whose address others know would not stay in
// them.
template <typename C, typename S>
inline __attribute__((always_inline)) Sums<C, S> Mended(
    const ForwardBlock<C>& block, const TwoRuns<C>& sources,
    const TwoRuns<C>& magnitudes, const Sums<C, S>& sums) {
  C values[S::kPixels * kSpan<C, S> * kWidth<C>];
  Sums<C, S> mended;
  for (int p = 0; p < S::kPixels; ++p) {
    for (int v = 0; v < kSpan<C, S>; ++v) {
      Store(sums.at[p][v], values + (p * kSpan<C, S> + v) * kWidth<C>);
    }
  }
  ReplaceInexact<C, S>(block, sources, magnitudes, values);
  for (int p = 0; p < S::kPixels; ++p) {
    for (int v = 0; v < kSpan<C, S>; ++v) {
      mended.at[p][v] = Load(values + (p * kSpan<C, S> + v) * kWidth<C>);
    }
  }
  return mended;
}

// Subtracts the padding of the first and the last pixels, or of those between.
template <typename C, typename S, bool kBetween>
inline __attribute__((always_inline)) void SubtractPadding(
    const LaneValues<C>& padding, Sums<C, S>& sums) {
#pragma GCC unroll 32
  for (int p = 0; p < S::kPixels; ++p) {
    if (kBetween == (S::IsFirst(p) || S::IsLast(p))) continue;
#pragma GCC unroll 8
    for (int v = 0; v < kSpan<C, S>; ++v) {
      sums.at[p][v] -= Load(ValuesOf<C, S>(padding, p) + v * kWidth<C>);
    }
  }
}

template <typename C, typename S>
inline __attribute__((always_inline)) void AddBefore(const TwoRuns<C>& before,
                                                     ptrdiff_t plane,
                                                     Sums<C, S>& sums) {
#pragma GCC unroll 32
  for (int p = 0; p < S::kPixels; ++p) {
    const C* const from = PixelOf<C, S>(before, p, kLanes);
#pragma GCC unroll 8
    for (int v = 0; v < kSpan<C, S>; ++v) {
      sums.at[p][v] = Load(from + VectorAt<C>(v, plane)) + sums.at[p][v];
    }
  }
}

template <typename C, typename S>
inline __attribute__((always_inline)) void WriteSums(const Sums<C, S>& sums,
                                                     C* first, C* second,
                                                     ptrdiff_t pixel,
                                                     ptrdiff_t plane) {
#pragma GCC unroll 32
  for (int p = 0; p < S::kPixels; ++p) {
    C*& output = p < S::kRun ? first : second;
#pragma GCC unroll 8
    for (int v = 0; v < kSpan<C, S>; ++v) {
      Store(sums.at[p][v], output + VectorAt<C>(v, plane));
    }
    output += pixel;
  }
}

template <typename C, typename S>
inline __attribute__((always_inline)) void Finish(const ForwardBlock<C>& block,
                                                  const RunStart& first,
                                                  const RunStart& second,
                                                  int64_t done,
                                                  Sums<C, S> sums) {
  SubtractPadding<C, S, false>(block.padding, sums);
  if (block.padded) SubtractPadding<C, S, true>(block.padding, sums);
  if (block.before != nullptr) {
    const C* const before = block.before + done * kLanes;
    AddBefore<C, S>({before + first.total, before + second.total},
                    block.before_plane, sums);
  }
  C* const output = block.output + done * block.output_pixel;
  WriteSums<C, S>(sums, output + first.*block.start,
                  output + second.*block.start, block.output_pixel,
                  block.output_plane);
}

// Distances of one block, `done` pixels behind its starts, from sums of maxima.
// What depends on a pixel and a lane depends on nothing else of the block, so
// that any tiling gives the same bits: the block's largest magnitudes and
// smallest distances only tell whether to look closer.
template <typename C, typename S, template <typename, typename> class Sum>
inline __attribute__((always_inline)) void ForwardRuns(
    const ForwardBlock<C>& block, const RunStart& first, const RunStart& second,
    int64_t done) {
  const auto runs = [&](const C* values) {
    values += done;
    return TwoRuns<C>{values + first.pixel, values + second.pixel};
  };
  const C* const source = block.source + done * block.source_pixel;
  const TwoRuns<C> sources{source + first.source, source + second.source};
  if constexpr (kDirectForward) {
    Finish<C, S>(block, first, second, done,
                 SumOverTaps<C, Direct<C>, S>(block, sources, {}));
  } else {
    const auto sums = Sum<C, S>::Of(
        block, sources, Reach<C, S>(block, runs(block.source_sums)));
    const TwoRuns<C> magnitudes = runs(block.source_magnitudes);
    if (__builtin_expect(MayBeInexact<C, S>(block, magnitudes, sums), 0)) {
      Finish<C, S>(block, first, second, done,
                   Mended<C, S>(block, sources, magnitudes, sums));
    } else {
      Finish<C, S>(block, first, second, done, sums);
    }
  }
}

template <typename C, typename S, template <typename, typename> class Sum>
void Forward(const ForwardBlock<C>& block, const RunStart* starts,
             int64_t count, int64_t times) {
  for (int64_t i = 0; i < count; i += S::kRuns) {
    for (int64_t done = 0; done < times * S::kRun; done += S::kRun) {
      ForwardRuns<C, S, Sum>(block, starts[i], starts[i + S::kRuns - 1], done);
    }
  }
}

// Calls the instance for `pixels` (of each run) out of 1 ... kMost.
template <typename C, int kMost, int kRuns, int kPlanes, bool kOperand,
          template <typename, typename> class Sum>
void ForwardUpTo(const ForwardBlock<C>& block, const RunStart* starts,
                 int64_t count, int64_t times, int pixels) {
  if (pixels == kMost) {
    using S = Shape<kMost, kRuns, kPlanes, kOperand>;
    return Forward<C, S, Sum>(block, starts, count, times);
  }
  if constexpr (kMost > 1) {
    ForwardUpTo<C, kMost - 1, kRuns, kPlanes, kOperand, Sum>(
        block, starts, count, times, pixels);
  }
}

// Sums are added to the totals at the end of a block: shorter chains of
// additions, smaller errors.
template <typename C, int kPixels>
void AddInputGradients(const InputGradientBlock<C>& block) {
  constexpr int kV = kVectors<C>;
  const Vector<C> one = Opaque<C>(1);
  Vector<C> sums[kPixels][kV] = {};
  const C* source_plane = block.source;
  const C* filter_plane = block.filters;
  for (int64_t left = block.channels; left > 0; left -= kLanes) {
    const int64_t channels = left < kLanes ? left : kLanes;
    for (int64_t row = 0; row < block.row_tap_count; ++row) {
      const TapSlot& row_tap = block.row_taps[row];
      for (int64_t column = 0; column < block.column_tap_count; ++column) {
        const TapSlot& column_tap = block.column_taps[column];
        const C* source = source_plane + row_tap.slot * block.source_row +
                          column_tap.slot * kLanes;
        const C* filter = filter_plane + row_tap.tap * block.filter_row +
                          column_tap.tap * block.filter_column;
        for (int64_t channel = 0; channel < channels; ++channel) {
#pragma GCC unroll 64
          for (int i = 0; i < kPixels * kV; ++i) {
            const int p = kBroadcastOperands ? i % kPixels : i / kV;
            const int v = kBroadcastOperands ? i / kPixels : i % kV;
            const int at = v * kWidth<C>;
            const Vector<C> difference =
                Difference<C>(Load(filter + at),
                              Load(block.centre + p * kLanes + at), one, true);
            sums[p][v] = FmaBroadcast(HardTanh<C>(difference),
                                      source + p * kLanes, sums[p][v]);
          }
          source += 1;
          filter += kLanes;
        }
      }
    }
    source_plane += block.source_plane;
    filter_plane += block.filter_plane;
  }
#pragma GCC unroll 32
  for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 8
    for (int v = 0; v < kV; ++v) {
      C* const to = block.total + p * kLanes + v * kWidth<C>;
      Store(Load(to) + sums[p][v], to);
    }
  }
}

template <typename C, int kMost>
void InputGradientUpTo(const InputGradientBlock<C>& block, int pixels) {
  if (pixels == kMost) return AddInputGradients<C, kMost>(block);
  if constexpr (kMost > 1) InputGradientUpTo<C, kMost - 1>(block, pixels);
}

// One vector of the filters of a backward block, and of the sums that are their
// gradients: what stays in registers while the pixels go by. `kOperands`:
// scalars are operands of every instruction, not registers that two share.
template <typename C, bool kFinite, bool kOperands, int kFilters>
struct BackwardStep {
  Vector<C> filters[kFilters];
  Vector<C> sums[kFilters];
  Vector<C> one;

  // Takes some neighbouring pixels at once, each of which has a chain of
  // additions of its own.
  template <int kPixels>
  inline __attribute__((always_inline)) void Take(const C* input,
                                                  const C* gradient,
                                                  C* input_gradient) {
    Vector<C> x[kPixels], rest[kPixels];
#pragma GCC unroll 4
    for (int p = 0; p < kPixels; ++p) {
      x[p] = Load(input + p * kLanes);
      rest[p] = Load(input_gradient + p * kLanes);
    }
#pragma GCC unroll 64
    for (int i = 0; i < kFilters * kPixels; ++i) {
      const int t = i / kPixels, p = i % kPixels;
      const C* const scalar = gradient + p * kLanes + t;
      const Vector<C> difference =
          Difference<C>(x[p], filters[t], one, kFuseHalf && t % 2 == 1);
      const Vector<C> slope =
          kFinite ? FiniteHardTanh<C>(difference) : HardTanh<C>(difference);
      if constexpr (kOperands) {
        rest[p] = FnmaBroadcast(slope, scalar, rest[p]);
        sums[t] = FmaBroadcast(difference, scalar, sums[t]);
      } else {
        const Vector<C> weight = BroadcastLoad(scalar);
        rest[p] = Fma(-slope, weight, rest[p]);
        sums[t] = Fma(difference, weight, sums[t]);
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < kPixels; ++p) {
      Store(rest[p], input_gradient + p * kLanes);
    }
  }
};

// Some filters of one tap, from `first` on. Sums run over pixels one by one, so
// how many are taken at once is a matter of speed alone.
template <typename C, bool kFinite, bool kOperands, int kFilters>
inline __attribute__((always_inline)) void BackwardFilters(
    const BackwardBlock<C>& block, const BackwardTap& tap, int first) {
  constexpr int kPixels = kBackwardPixels;
  const C* const filters = block.filters + tap.filter + first * kLanes;
  C* const total = block.total + tap.filter + first * kLanes;
  for (int v = 0; v < kVectors<C>; ++v) {
    const int lane = v * kWidth<C>;
    BackwardStep<C, kFinite, kOperands, kFilters> step;
    step.one = Opaque<C>(1);
#pragma GCC unroll 16
    for (int t = 0; t < kFilters; ++t) {
      step.filters[t] = Load(filters + t * kLanes + lane);
      step.sums[t] = Vector<C>{};
    }
    for (int64_t image = 0; image < block.images; ++image) {
      for (int64_t row = 0; row < tap.rows; ++row) {
        const int64_t start = tap.input + image * block.input_image +
                              row * block.input_row + lane;
        const C* input = block.input + start;
        C* input_gradient = block.input_gradient + start;
        const C* gradient = block.gradient + tap.gradient +
                            image * block.gradient_image +
                            row * block.gradient_row + first;
        int64_t column = 0;
        for (; column + kPixels <= tap.columns; column += kPixels) {
          const int64_t at = column * kLanes;
          step.template Take<kPixels>(input + at, gradient + at,
                                      input_gradient + at);
        }
        for (; column < tap.columns; ++column) {
          const int64_t at = column * kLanes;
          step.template Take<1>(input + at, gradient + at, input_gradient + at);
        }
      }
    }
#pragma GCC unroll 16
    for (int t = 0; t < kFilters; ++t) {
      C* const to = total + t * kLanes + lane;
      Store(Load(to) + step.sums[t], to);
    }
  }
}

template <typename C, bool kFinite, bool kOperands, int kMost>
void BackwardUpTo(const BackwardBlock<C>& block, const BackwardTap& tap,
                  int first, int count) {
  if (count == kMost) {
    return BackwardFilters<C, kFinite, kOperands, kMost>(block, tap, first);
  }
  if constexpr (kMost > 1) {
    BackwardUpTo<C, kFinite, kOperands, kMost - 1>(block, tap, first, count);
  }
}

template <typename C, bool kFinite, bool kOperands, int kFilters>
void Backward(const BackwardBlock<C>& block) {
  for (int64_t i = 0; i < block.tap_count; ++i) {
    // Dealt out evenly: 9 channels are 5 and 4, not 8 and 1.
    const int parts = (block.channels + kFilters - 1) / kFilters;
    for (int part = 0; part < parts; ++part) {
      const int first = block.channels * part / parts;
      const int end = block.channels * (part + 1) / parts;
      BackwardUpTo<C, kFinite, kOperands, kFilters>(block, block.taps[i], first,
                                                    end - first);
    }
  }
}

template <typename C>
struct FullPrecision {
  static inline Vector<C> Slope(Vector<C> difference) { return difference; }
};

template <typename C>
struct SignOnly {
  static inline Vector<C> Slope(Vector<C> difference) {
    return Sign<C>(difference);
  }
};

template <typename C, typename Mode, int kFilters>
void CorrelateFilters(const FilterGradientBlock<C>& block) {
  for (int v = 0; v < kVectors<C>; ++v) {
    const int lane = v * kWidth<C>;
    Vector<C> filters[kFilters];
    Vector<C> sums[kFilters] = {};
#pragma GCC unroll 16
    for (int t = 0; t < kFilters; ++t) {
      filters[t] = Load(block.filters + t * kLanes + lane);
    }
    for (int64_t image = 0; image < block.images; ++image) {
      for (int64_t row = 0; row < block.rows; ++row) {
        const C* input = block.input + image * block.input_image +
                         row * block.input_row + lane;
        const C* gradient = block.gradient + image * block.gradient_image +
                            row * block.gradient_row;
        for (int64_t column = 0; column < block.columns; ++column) {
          const Vector<C> x = Load(input);
#pragma GCC unroll 16
          for (int t = 0; t < kFilters; ++t) {
            sums[t] = Fma(Mode::Slope(x - filters[t]), Broadcast(gradient[t]),
                          sums[t]);
          }
          input += kLanes;
          gradient += kLanes;
        }
      }
    }
#pragma GCC unroll 16
    for (int t = 0; t < kFilters; ++t) {
      C* to = block.total + t * kLanes + lane;
      Store(Load(to) + sums[t], to);
    }
  }
}

template <typename C, typename Mode, int kMost>
void CorrelateFiltersUpTo(const FilterGradientBlock<C>& block, int count) {
  if (count == kMost) return CorrelateFilters<C, Mode, kMost>(block);
  if constexpr (kMost > 1) {
    CorrelateFiltersUpTo<C, Mode, kMost - 1>(block, count);
  }
}

// Calls add(slot, vector) for all vectors of the next `count` slots from
// `first` on, or of as many as there are.
template <typename C, int kCount, typename Add>
inline __attribute__((always_inline)) void ForEachSlot(
    const SlotBlock<C>& block, int64_t first, const Add& add) {
  const C* plane = block.first + first * block.slot;
  const int64_t slots = block.slots - first;
  for (int64_t left = block.channels; left > 0; left -= kLanes) {
    if (slots >= kCount && left >= kLanes) {
#pragma GCC unroll 16
      for (int slot = 0; slot < kCount; ++slot) {
#pragma GCC unroll 8
        for (int lane = 0; lane < kLanes; lane += kWidth<C>) {
          add(slot, Load(plane + slot * block.slot + lane));
        }
      }
    } else {
#pragma GCC unroll 16
      for (int slot = 0; slot < kCount; ++slot) {
        if (slot >= slots) break;
#pragma GCC unroll 8
        for (int lane = 0; lane < kLanes; lane += kWidth<C>) {
          add(slot,
              LoadLanes<C>(plane + slot * block.slot + lane, 0, left - lane));
        }
      }
    }
    plane += block.plane;
  }
}

// Of each of kWidth<C> slots, the sum of all channels. Returns whether any
// channel is negative or a NaN.
template <typename C>
inline bool SumOfSlots(const SlotBlock<C>& block, int64_t first, C* sums) {
  Vector<C> slots[kWidth<C>] = {};
  unsigned negative = 0;
  ForEachSlot<C, kWidth<C>>(block, first, [&](int slot, Vector<C> value) {
    slots[slot] += value;
    negative |= NotLessEqual(Vector<C>{}, value);
  });
  Store(SumEach<C>(slots), sums);
  return negative != 0;
}

// Sums, and then sums of magnitudes, of half as many slots.
template <typename C>
inline Vector<C> BothSumsOfSlots(const SlotBlock<C>& block, int64_t first) {
  constexpr int kHalf = kWidth<C> / 2;
  Vector<C> slots[kWidth<C>] = {};
  ForEachSlot<C, kHalf>(block, first, [&](int slot, Vector<C> value) {
    slots[slot] += value;
    slots[kHalf + slot] += Abs<C>(value);
  });
  return SumEach<C>(slots);
}

// After a ReLU nothing is negative; once something is, more will be.
template <typename C>
void SlotSums(const SlotBlock<C>& block, C* sums, C* magnitudes, bool* differ) {
  for (int64_t slot = 0; slot < block.slots; slot += kWidth<C>) {
    if (!*differ) {
      *differ = SumOfSlots<C>(block, slot, sums + slot);
      Store(Load(sums + slot), magnitudes + slot);
    }
    if (!*differ) continue;
    const Vector<C> low = BothSumsOfSlots<C>(block, slot);
    const Vector<C> high = BothSumsOfSlots<C>(block, slot + kWidth<C> / 2);
    Store(Halves<C, false>(low, high), sums + slot);
    Store(Halves<C, true>(low, high), magnitudes + slot);
  }
}

template <typename C>
void SumTaps(const C* slot_sums, const ForwardTap* taps, int64_t count,
             int64_t columns, C* sums) {
  for (int64_t first = 0; first < columns; first += kWidth<C>) {
    Vector<C> sum = {};
    for (int64_t i = 0; i < count; ++i) {
      sum += Load(slot_sums + taps[i].source / kLanes + first);
    }
    Store(sum, sums + first);
  }
}

// The sum of so many slots, and that of their magnitudes, of one vector each.
template <typename C>
struct SlotsSum {
  Vector<C> sum = {};
  Vector<C> magnitude = {};

  SlotsSum(const C* tile, int64_t slots) {
    for (int64_t slot = 0; slot < slots; ++slot) {
      const Vector<C> value = Load(tile + slot * kLanes);
      sum += value;
      magnitude += Abs<C>(value);
    }
  }
};

// Adds up one tap's channels first: shorter chains, smaller errors.
template <typename C>
void SumFilters(const C* filters, const FilterWindow& window,
                const FilterSums<C>& sums) {
  for (int64_t v = 0; v < window.rows * kVectors<C>; ++v) {
    const int64_t row = v / kVectors<C>;
    const int64_t lane = v % kVectors<C> * kWidth<C>;
    Vector<C> all = {}, magnitudes = {}, first = {}, last = {};
    Vector<C> leading = {}, trailing = {};
    const C* plane = filters + row * window.row + lane;
    for (int64_t left = window.channels; left > 0; left -= kLanes) {
      for (int64_t column = 0; column < window.columns; ++column) {
        const SlotsSum<C> tap(plane + column * window.column,
                              left < kLanes ? left : kLanes);
        const bool leads = column < window.leading;
        const bool trails = column >= window.columns - window.trailing;
        all += tap.sum;
        magnitudes += tap.magnitude;
        if (!leads) first += tap.sum;
        if (!trails) last += tap.sum;
        if (leads) leading += tap.magnitude;
        if (trails) trailing += tap.magnitude;
      }
      plane += window.plane;
    }
    const int64_t to = row * kLanes + lane;
    Store(all, sums.sums + to);
    Store(magnitudes, sums.magnitudes + to);
    Store(first, sums.first_sums + to);
    Store(last, sums.last_sums + to);
    Store(leading, sums.leading_magnitudes + to);
    Store(trailing, sums.trailing_magnitudes + to);
  }
}

template <typename C>
void FilterPartsOf(const FilterSums<C>& sums, int64_t planes,
                   ptrdiff_t next_plane, int64_t first, int64_t end,
                   int64_t rows, FilterParts<C>* parts) {
  for (int64_t v = 0; v < planes * kVectors<C>; ++v) {
    const ptrdiff_t lane = VectorAt<C>(v, next_plane);
    Vector<C> magnitudes = {}, seen = {}, first_seen = {}, last_seen = {};
    Vector<C> outside = {}, leading = {}, trailing = {};
    for (int64_t row = 0; row < rows; ++row) {
      const ptrdiff_t at = lane + row * kLanes;
      if (row < first || row >= end) {
        outside += Load(sums.magnitudes + at);
        continue;
      }
      magnitudes += Load(sums.magnitudes + at);
      seen += Load(sums.sums + at);
      first_seen += Load(sums.first_sums + at);
      last_seen += Load(sums.last_sums + at);
      leading += Load(sums.leading_magnitudes + at);
      trailing += Load(sums.trailing_magnitudes + at);
    }
    const int64_t to = v * kWidth<C>;
    leading += outside;
    trailing += outside;
    Store(magnitudes, parts->magnitudes + to);
    Store(outside, parts->padding + to);
    Store(leading, parts->first_padding + to);
    Store(trailing, parts->last_padding + to);
    Store(seen, parts->sums + to);
    Store(first_seen, parts->first_sums + to);
    Store(last_seen, parts->last_sums + to);
  }
}

// Nothing times zero is zero, but for infinities and NaNs.
template <typename C>
bool AllFinite(const C* tile, int64_t slots) {
  const Vector<C> zero = Opaque<C>(0);
  Vector<C> sums[2 * kVectors<C>] = {};
  int64_t slot = 0;
  for (; slot + 2 <= slots; slot += 2) {
#pragma GCC unroll 16
    for (int v = 0; v < 2 * kVectors<C>; ++v) {
      const C* const from = tile + slot * kLanes + v * kWidth<C>;
      sums[v] = Fma(Load(from), zero, sums[v]);
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors<C>; ++v) {
    if (slot < slots) {
      const C* const from = tile + slot * kLanes + v * kWidth<C>;
      sums[v] = Fma(Load(from), zero, sums[v]);
    }
    sums[0] += sums[v] + sums[v + kVectors<C>];
  }
  return NotLessEqual(sums[0], zero) == 0;
}

template <typename C>
void AddSlots(const C* from, int64_t slots, C* to) {
  for (int64_t i = 0; i < slots * kLanes; i += kWidth<C>) {
    Store(Load(to + i) + Load(from + i), to + i);
  }
}

// Of so many lanes, or of any number. Two at a time where there are two: it is
// stores that limit this.
template <typename C, int kCount>
inline void AddLanesOf(const C* from, int64_t slots, int lanes, ptrdiff_t step,
                       C* to) {
  typedef C Pair __attribute__((vector_size(2 * sizeof(C))));
  if (kCount > 0) lanes = kCount;
  for (int64_t slot = 0; slot < slots; ++slot) {
    int lane = 0;
#pragma GCC unroll 2
    for (; lane + 2 <= lanes; lane += 2) {
      Pair value, sum;
      std::memcpy(&value, from + lane, sizeof(Pair));
      std::memcpy(&sum, to + lane, sizeof(Pair));
      sum += value;
      std::memcpy(to + lane, &sum, sizeof(Pair));
    }
    if (lane < lanes) to[lane] += from[lane];
    from += kLanes;
    to += step;
  }
}

template <typename C>
void AddLanes(const C* from, int64_t slots, int lanes, ptrdiff_t step, C* to) {
  switch (lanes) {
    case 1:
      return AddLanesOf<C, 1>(from, slots, lanes, step, to);
    case 2:
      return AddLanesOf<C, 2>(from, slots, lanes, step, to);
    case 3:
      return AddLanesOf<C, 3>(from, slots, lanes, step, to);
    default:
      return AddLanesOf<C, 0>(from, slots, lanes, step, to);
  }
}

// Of one plane of output channels: the sum of some pixels of a row.
template <typename C>
inline void AddPixels(const C* row, int64_t first, int64_t end,
                      Vector<C>* sums) {
  for (int64_t pixel = first; pixel < end; ++pixel) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors<C>; ++v) {
      sums[v] += Load(row + pixel * kLanes + v * kWidth<C>);
    }
  }
}

template <typename C>
void SumOutside(const OutsideBlock<C>& block, C* total) {
  Vector<C> sums[kVectors<C>];
  for (int v = 0; v < kVectors<C>; ++v) sums[v] = Load(total + v * kWidth<C>);
  for (int64_t image = 0; image < block.images; ++image) {
    const C* row = block.tile + image * block.next_image;
    for (int64_t i = 0; i < block.rows; ++i, row += block.next_row) {
      if (i < block.first_row || i >= block.end_row) {
        AddPixels(row, 0, block.columns, sums);
      } else {
        AddPixels(row, 0, block.first_column, sums);
        AddPixels(row, block.end_column, block.columns, sums);
      }
    }
  }
  for (int v = 0; v < kVectors<C>; ++v) Store(sums[v], total + v * kWidth<C>);
}

template <typename C>
void SubtractScaled(const C* factors, const C* from, int64_t slots, C* to) {
  for (int64_t slot = 0; slot < slots; ++slot) {
    if (factors[slot] == 0) continue;
    const Vector<C> minus = Broadcast(-factors[slot]);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors<C>; ++v) {
      const int64_t at = slot * kLanes + v * kWidth<C>;
      Store(Fma(minus, Load(from + at), Load(to + at)), to + at);
    }
  }
}

// The most pixels or filters of a block, each number of which is an instance of
// its own. Builds that are for tests alone, whose sanitizers take minutes over
// all of them, have smaller blocks, of the same code.
constexpr int Most(int count) {
#ifdef KERAS_ADDER_SMALL_BLOCKS
  return count < KERAS_ADDER_SMALL_BLOCKS ? count : KERAS_ADDER_SMALL_BLOCKS;
#else
  return count;
#endif
}

// The most pixels of forward blocks with one, two, three and four planes of
// destinations, and with one and two planes by rows of taps (0 if there are
// none).
template <int kOne, int kTwo = 0, int kThree = 0, int kFour = 0,
          int kRowsOfOne = 0, int kRowsOfTwo = 0>
struct ForwardPixels {
  // One vector has no other to share a register with.
  template <typename C, bool kOperands, int kRuns, int kPixels, int kPlanes>
  static constexpr ForwardKernel<C> Make() {
    if constexpr (kPixels == 0) {
      return {0, nullptr};
    } else {
      constexpr int kRun = Most(kPixels < kRuns ? 1 : kPixels / kRuns);
      constexpr bool kOperand = kOperands || kPlanes * kVectors<C> == 1;
      return {kRun, &ForwardUpTo<C, kRun, kRuns, kPlanes, kOperand, TapSums>};
    }
  }
  template <typename C, bool kOperands, int kRuns>
  static constexpr void Fill(ForwardKernel<C>* kernels) {
    kernels[0] = Make<C, kOperands, kRuns, kOne, 1>();
    kernels[1] = Make<C, kOperands, kRuns, kTwo, 2>();
    kernels[2] = Make<C, kOperands, kRuns, kThree, 3>();
    kernels[3] = Make<C, kOperands, kRuns, kFour, 4>();
  }
  template <typename C, int kPixels, int kPlanes>
  static constexpr ForwardKernel<C> MakeRows() {
    if constexpr (kPixels == 0) {
      return {0, nullptr};
    } else {
      constexpr int kRun = Most(kPixels);
      return {kRun, &ForwardUpTo<C, kRun, 1, kPlanes, false, RowSums>};
    }
  }
  template <typename C>
  static constexpr void FillRows(ForwardKernel<C>* kernels) {
    kernels[0] = MakeRows<C, kRowsOfOne, 1>();
    kernels[1] = MakeRows<C, kRowsOfTwo, 2>();
  }
};

// The most pixels of an input gradient, filters of a filter gradient, and
// filters of a backward block.
template <typename C, typename Pixels, int kInputGradient, int kFilters,
          int kBackward, bool kOperands>
constexpr Kernels<C> MakeKernels() {
  Kernels<C> kernels{};
  Pixels::template Fill<C, kOperands, 1>(kernels.forward);
  Pixels::template Fill<C, kOperands, 2>(kernels.forward_twice);
  Pixels::template FillRows<C>(kernels.forward_rows);
  constexpr int kMostFilters = Most(kFilters);
  kernels.max_input_gradient = Most(kInputGradient);
  kernels.max_filters = kMostFilters;
  kernels.input_gradient = &InputGradientUpTo<C, Most(kInputGradient)>;
  kernels.filter_gradient =
      &CorrelateFiltersUpTo<C, FullPrecision<C>, kMostFilters>;
  kernels.filter_gradient_sign =
      &CorrelateFiltersUpTo<C, SignOnly<C>, kMostFilters>;
  kernels.backward = &Backward<C, true, kOperands, Most(kBackward)>;
  kernels.backward_careful = &Backward<C, false, kOperands, Most(kBackward)>;
  kernels.slot_sums = &SlotSums<C>;
  kernels.tap_sums = &SumTaps<C>;
  kernels.filter_sums = &SumFilters<C>;
  kernels.filter_parts = &FilterPartsOf<C>;
  kernels.all_finite = &AllFinite<C>;
  kernels.add_slots = &AddSlots<C>;
  kernels.add_lanes = &AddLanes<C>;
  kernels.subtract_scaled = &SubtractScaled<C>;
  kernels.sum_outside = &SumOutside<C>;
  return kernels;
}

template <typename T, typename C>
inline void ReadLanes(const T* from, C* to) {
#pragma GCC unroll 16
  for (int lane = 0; lane < kLanes; ++lane) to[lane] = Read(from[lane]);
}

template <typename C, typename T>
inline void WriteLanes(const C* from, T* to) {
#pragma GCC unroll 16
  for (int lane = 0; lane < kLanes; ++lane) to[lane] = Write<T>(from[lane]);
}

template <typename C, typename T>
inline Vector<C> LoadAs(const T* from) {
  if constexpr (std::is_same_v<C, T>) {
    return Load(from);
  } else {
    C values[kWidth<C>];
    for (int i = 0; i < kWidth<C>; ++i) values[i] = Read(from[i]);
    return Load(values);
  }
}

template <typename C, typename T>
inline Vector<C> LoadLanesAs(const T* from, int first, int end) {
  if constexpr (std::is_same_v<C, T>) {
    return LoadLanes(from, first, end);
  } else {
    C values[kWidth<C>];
    for (int i = 0; i < kWidth<C>; ++i) {
      values[i] = i >= first && i < end ? Read(from[i]) : C{0};
    }
    return Load(values);
  }
}

template <typename C, typename T>
inline void StoreAs(Vector<C> value, T* to) {
  if constexpr (std::is_same_v<C, T>) {
    Store(value, to);
  } else {
    C values[kWidth<C>];
    Store(value, values);
    for (int i = 0; i < kWidth<C>; ++i) to[i] = Write<T>(values[i]);
  }
}

// Where the pixels of a channel are neighbours, rather than the channels of a
// pixel: kWidth<C> of either at a time. These return how many pixels they took.
template <typename T, typename C>
int64_t PackTransposed(const T* tensor, const Run& run, C* tile) {
  int64_t pixel = 0;
  for (; pixel + kWidth<C> <= run.count; pixel += kWidth<C>) {
    for (int lane = 0; lane < kLanes; lane += kWidth<C>) {
      Vector<C> rows[kWidth<C>];
#pragma GCC unroll 16
      for (int i = 0; i < kWidth<C>; ++i) {
        const T* const from = tensor + (lane + i) * run.channel_stride + pixel;
        rows[i] = lane + i < run.channels ? LoadAs<C>(from) : Vector<C>{};
      }
      Transpose<C>(rows);
#pragma GCC unroll 16
      for (int i = 0; i < kWidth<C>; ++i) {
        Store(rows[i], tile + (pixel + i) * kLanes + lane);
      }
    }
  }
  return pixel;
}

template <typename T, typename C>
int64_t UnpackTransposed(const C* tile, const Run& run, T* tensor) {
  int64_t pixel = 0;
  for (; pixel + kWidth<C> <= run.count; pixel += kWidth<C>) {
    for (int lane = 0; lane < run.channels; lane += kWidth<C>) {
      Vector<C> rows[kWidth<C>];
#pragma GCC unroll 16
      for (int i = 0; i < kWidth<C>; ++i) {
        rows[i] = Load(tile + (pixel + i) * kLanes + lane);
      }
      Transpose<C>(rows);
#pragma GCC unroll 16
      for (int i = 0; i < kWidth<C>; ++i) {
        if (lane + i >= run.channels) break;
        StoreAs<C>(rows[i], tensor + (lane + i) * run.channel_stride + pixel);
      }
    }
  }
  return pixel;
}

// Some lanes of each pixel. Those behind them become zero, and add nothing when
// others come to lie there.
template <typename T, typename C>
void PackLanes(const T* tensor, const Run& run, C* tile) {
  const int first = run.first_lane, end = first + run.channels;
  for (int64_t i = 0; i < run.count; ++i) {
#pragma GCC unroll 8
    for (int lane = 0; lane < kLanes; lane += kWidth<C>) {
      Vector<C> value =
          LoadLanesAs<C>(tensor - first + lane, first - lane, end - lane);
      if (first > 0) value += Load(tile + lane);
      Store(value, tile + lane);
    }
    tensor += run.pixel_stride;
    tile += kLanes;
  }
}

template <typename T, typename C>
void Pack(const T* tensor, const Run& run, C* tile) {
  if (run.channel_stride == 1 && run.channels == kLanes) {
    for (int64_t i = 0; i < run.count; ++i) {
      for (int64_t plane = 0; plane < run.planes; ++plane) {
        ReadLanes(tensor + plane * kLanes, tile + plane * run.next_plane);
      }
      tensor += run.pixel_stride;
      tile += kLanes;
    }
    return;
  }
  if (run.channel_stride == 1) return PackLanes(tensor, run, tile);
  const int64_t done =
      run.pixel_stride == 1 ? PackTransposed(tensor, run, tile) : 0;
  if (run.channels < kLanes) {
    std::memset(tile + done * kLanes, 0,
                (run.count - done) * kLanes * sizeof(C));
  }
  for (int lane = 0; lane < run.channels; ++lane) {
    const T* from = tensor + lane * run.channel_stride;
    for (int64_t i = done; i < run.count; ++i) {
      tile[i * kLanes + lane] = Read(from[i * run.pixel_stride]);
    }
  }
}

template <typename T, typename C>
void Unpack(const C* tile, const Run& run, T* tensor) {
  if (run.channel_stride == 1 && run.channels == kLanes) {
    for (int64_t i = 0; i < run.count; ++i) {
      for (int64_t plane = 0; plane < run.planes; ++plane) {
        WriteLanes(tile + plane * run.next_plane, tensor + plane * kLanes);
      }
      tensor += run.pixel_stride;
      tile += kLanes;
    }
    return;
  }
  const int64_t done =
      run.pixel_stride == 1 ? UnpackTransposed(tile, run, tensor) : 0;
  for (int lane = 0; lane < run.channels; ++lane) {
    T* to = tensor + lane * run.channel_stride;
    for (int64_t i = done; i < run.count; ++i) {
      to[i * run.pixel_stride] = Write<T>(tile[i * kLanes + lane]);
    }
  }
}

template <typename T>
constexpr Copies<T> MakeCopies() {
  using C = typename ComputeType<T>::type;
  return {&Pack<T, C>, &Unpack<T, C>};
}

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_MICRO_KERNELS_H_
