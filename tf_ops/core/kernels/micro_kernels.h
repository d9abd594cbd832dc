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

// |filter - source|, both operands exact: the error is that of a plain sum.
template <typename C>
struct Direct {
  static constexpr bool kSkipsPadding = true;
  static inline Vector<C> Factor() { return Opaque<C>(1); }
  static inline Vector<C> Add(Vector<C> sum, Vector<C> filter, const C* source,
                              const C*, Vector<C>) {
    return sum + AbsoluteDifference<C>(filter, Broadcast(*source));
  }
};

// 2 max(filter, source): one instruction, and one more on another port. The
// source is an operand of each maximum or, where several filters meet it, a
// register.
template <typename C, bool kOperand>
struct Maximum {
  static constexpr bool kSkipsPadding = true;
  static inline Vector<C> Factor() { return Opaque<C>(2); }
  static inline Vector<C> Add(Vector<C> sum, Vector<C> filter, const C* source,
                              const C*, Vector<C> two) {
    if constexpr (kOperand) {
      return Fma(MaxBroadcast(filter, source), two, sum);
    } else {
      return Fma(Max(filter, BroadcastLoad(source)), two, sum);
    }
  }
};

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

template <typename C>
struct InputGradient {
  static constexpr bool kSkipsPadding = false;
  static inline Vector<C> Factor() { return Opaque<C>(1); }
  static inline Vector<C> Add(Vector<C> sum, Vector<C> filter, const C* source,
                              const C* centre, Vector<C> one) {
    const Vector<C> difference = Difference<C>(filter, Load(centre), one, true);
    return FmaBroadcast(HardTanh<C>(difference), source, sum);
  }
};

// The shape of a block: pixels in all of its runs, runs, planes of
// destinations.
template <int kPixels_, int kRuns_ = 1, int kPlanes_ = 1>
struct Shape {
  static constexpr int kPixels = kPixels_;
  static constexpr int kRuns = kRuns_;
  static constexpr int kPlanes = kPlanes_;
  static constexpr int kRun = kPixels / kRuns;
};

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

// Pixel p of a block, counted from the first of the block.
template <typename C, typename S>
struct Pixel {
  static constexpr int kRun = S::kRun;
  static inline ptrdiff_t Source(const CorrelationBlock<C>& block, int p) {
    return p < kRun ? p * kLanes : block.second_source + (p - kRun) * kLanes;
  }
  static inline ptrdiff_t Slot(const CorrelationBlock<C>& block, int p) {
    return p < kRun ? p : block.second_slot + (p - kRun);
  }
};

// How many channels ahead filters are fetched.
constexpr int kPrefetched = 8;

// Where a tap's next channel lies: of both runs of pixels, and of the filters
// of both planes of destinations.
template <typename C, typename S>
struct Channel {
  const C* source;
  const C* second;
  const C* filter;
  const C* next_plane;

  inline void Advance() {
    source += 1;
    second += 1;
    filter += kLanes;
    next_plane += kLanes;
  }
};

// Adds one channel's terms to the sums of pixels kFirst ... kEnd - 1 of each
// run.
template <typename C, typename Step, typename S, int kFirst, int kEnd>
inline __attribute__((always_inline)) void AddChannel(const Channel<C, S>& at,
                                                      const C* centre,
                                                      Vector<C> factor,
                                                      Sums<C, S>& sums) {
  constexpr int kRun = S::kRun;
  constexpr bool kByPixels = !kBroadcastOperands || S::kPlanes > 1;
  // In the order that needs the fewest registers at a time.
#pragma GCC unroll 64
  for (int i = 0; i < S::kPixels * kSpan<C, S>; ++i) {
    const int p = kByPixels ? i / kSpan<C, S> : i % S::kPixels;
    const int v = kByPixels ? i % kSpan<C, S> : i / S::kPixels;
    if (p % kRun < kFirst || p % kRun >= kEnd) continue;
    const C* from =
        p < kRun ? at.source + p * kLanes : at.second + (p - kRun) * kLanes;
    const C* vector = (v < kVectors<C> ? at.filter : at.next_plane) +
                      v % kVectors<C> * kWidth<C>;
    sums.at[p][v] = Step::Add(sums.at[p][v], Load(vector), from,
                              centre + p * kLanes + v * kWidth<C>, factor);
  }
}

// Adds one tap's terms. Filters of deep layers stream from the second-level
// cache, which large blocks leave time for; these gain by unrolling, too.
template <typename C, typename Step, typename S, int kFirst, int kEnd>
inline __attribute__((always_inline)) void AddTap(
    const CorrelationBlock<C>& block, const C* source, const C* filter,
    int64_t channels, Vector<C> factor, Sums<C, S>& sums) {
  Channel<C, S> at{source, source + (S::kRuns > 1 ? block.second_source : 0),
                   filter, filter + (S::kPlanes > 1 ? block.next_filters : 0)};
  const auto add = [&]() __attribute__((always_inline)) {
    AddChannel<C, Step, S, kFirst, kEnd>(at, block.centre, factor, sums);
    at.Advance();
    __builtin_prefetch(at.filter + kPrefetched * kLanes);
    if (S::kPlanes > 1) {
      __builtin_prefetch(at.next_plane + kPrefetched * kLanes);
    }
  };
  if constexpr (S::kPlanes > 1 && S::kPixels >= 12) {
#pragma GCC unroll 4
    for (int64_t channel = 0; channel < channels; ++channel) add();
  } else {
    for (int64_t channel = 0; channel < channels; ++channel) add();
  }
}

// Adds all taps and channels of the block to sums that stay in registers.
template <typename C, typename Step, typename S>
inline __attribute__((always_inline)) Sums<C, S> SumOverTaps(
    const CorrelationBlock<C>& block, Sums<C, S> sums = {}) {
  constexpr int kRun = S::kRun;
  const Vector<C> factor = Step::Factor();
  const C* source_plane = block.source;
  const C* filter_plane = block.filters;
  const int64_t inside_last = block.column_tap_count - block.outside_last;
  for (int64_t left = block.channels; left > 0; left -= kLanes) {
    const int64_t channels = left < kLanes ? left : kLanes;
    int64_t row = 0, column = 0;
    for (; row < block.row_tap_count;) {
      const TapSlot& row_tap = block.row_taps[row];
      const TapSlot& column_tap = block.column_taps[column];
      const C* source = source_plane + row_tap.slot * block.source_row +
                        column_tap.slot * kLanes;
      const C* filter = filter_plane + row_tap.tap * block.filter_row +
                        column_tap.tap * block.filter_tap;
      if (Step::kSkipsPadding && column < block.outside_first) {
        AddTap<C, Step, S, 1, kRun>(block, source, filter, channels, factor,
                                    sums);
      } else if (Step::kSkipsPadding && column >= inside_last) {
        AddTap<C, Step, S, 0, kRun - 1>(block, source, filter, channels, factor,
                                        sums);
      } else {
        AddTap<C, Step, S, 0, kRun>(block, source, filter, channels, factor,
                                    sums);
      }
      if (++column == block.column_tap_count) {
        column = 0;
        ++row;
      }
    }
    source_plane += block.source_plane;
    filter_plane += block.filter_plane;
  }
  return sums;
}

// Sums are added to the totals at the end of a block: shorter chains of
// additions, smaller errors.
template <typename C, int kPixels>
void AddInputGradients(const CorrelationBlock<C>& block) {
  using S = Shape<kPixels>;
  const Sums<C, S> sums = SumOverTaps<C, InputGradient<C>, S>(block);
#pragma GCC unroll 32
  for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 8
    for (int v = 0; v < kSpan<C, S>; ++v) {
      C* const to = block.total + p * kLanes + v * kWidth<C>;
      Store(Load(to) + sums.at[p][v], to);
    }
  }
}

template <typename C, typename S, bool kFresh>
inline __attribute__((always_inline)) void AddToTotals(
    const CorrelationBlock<C>& block, const Sums<C, S>& sums) {
  constexpr int kRun = S::kRun;
  C* const second = block.total + block.second_slot * kLanes;
#pragma GCC unroll 32
  for (int p = 0; p < S::kPixels; ++p) {
    C* const total =
        p < kRun ? block.total + p * kLanes : second + (p - kRun) * kLanes;
#pragma GCC unroll 8
    for (int v = 0; v < kSpan<C, S>; ++v) {
      C* const to = total + VectorAt<C>(v, block.next_totals);
      Store(kFresh ? sums.at[p][v] : Load(to) + sums.at[p][v], to);
    }
  }
}

template <typename C, typename S>
inline __attribute__((always_inline)) void WriteResults(
    const CorrelationBlock<C>& block, const Sums<C, S>& sums) {
  C* result = block.result;
#pragma GCC unroll 32
  for (int p = 0; p < S::kPixels; ++p) {
    if (S::kRuns > 1 && p == S::kRun) {
      result = block.result + block.second_result;
    }
#pragma GCC unroll 8
    for (int v = 0; v < kSpan<C, S>; ++v) {
      Store(-sums.at[p][v], result + v * kWidth<C>);
    }
    result += block.result_pixel;
  }
}

// What `values` says of pixel p of each run.
template <typename C, typename S>
inline const C* ValuesOf(const LaneValues<C>& values, int p) {
  if (p % S::kRun == 0) return values.first;
  return p % S::kRun == S::kRun - 1 ? values.last : values.inner;
}

template <typename C, typename S, bool kInner>
inline __attribute__((always_inline)) Sums<C, S> WithPadding(
    const CorrelationBlock<C>& block, Sums<C, S> sums) {
#pragma GCC unroll 32
  for (int p = 0; p < S::kPixels; ++p) {
    if (!kInner && p % S::kRun != 0 && p % S::kRun != S::kRun - 1) continue;
#pragma GCC unroll 8
    for (int v = 0; v < kSpan<C, S>; ++v) {
      sums.at[p][v] += Load(ValuesOf<C, S>(block.padding, p) + v * kWidth<C>);
    }
  }
  return sums;
}

template <typename C, typename S>
inline __attribute__((always_inline)) void Finish(
    const CorrelationBlock<C>& block, const Sums<C, S>& inside) {
  const Sums<C, S> sums = block.padded
                              ? WithPadding<C, S, true>(block, inside)
                              : WithPadding<C, S, false>(block, inside);
  if (block.result != nullptr) return WriteResults<C, S>(block, sums);
  if (block.fresh) return AddToTotals<C, S, true>(block, sums);
  AddToTotals<C, S, false>(block, sums);
}

// How many times smaller than the sum of all magnitudes a distance may be
// before it is summed directly: each doubling costs a bit of its accuracy.
constexpr int kCancellation = 4;

// The lanes whose distance sums of maxima do not give: those that cancel, and
// those in which anything overflows or is infinite or NaN.
template <typename C>
inline unsigned Inexact(Vector<C> magnitudes, Vector<C> distances) {
  // Below this, no sum of two or three of them overflows.
  constexpr C kLarge = std::numeric_limits<C>::max() / 16;
  return NotLessEqual(magnitudes,
                      Min(Broadcast<C>(kLarge), kCancellation * distances));
}

// The largest of the source magnitudes of a block; infinite if one is NaN. Up
// to kWidth<C> - 1 values behind a run are read.
template <typename C, typename S>
inline C MostMagnitude(const CorrelationBlock<C>& block) {
  constexpr int kRun = S::kRun;
  Vector<C> most = {};
  unsigned unordered = 0;
#pragma GCC unroll 2
  for (int run = 0; run < S::kRuns; ++run) {
    const C* magnitudes =
        block.source_magnitudes + (run > 0 ? block.second_slot : 0);
#pragma GCC unroll 32
    for (int p = 0; p < kRun; p += kWidth<C>) {
      // The last whole vector overlaps the one before.
      const bool whole = kRun >= kWidth<C>;
      const int at = whole && p + kWidth<C> > kRun ? kRun - kWidth<C> : p;
      Vector<C> next = Load(magnitudes + at);
      if (!whole) next = KeepLanes<C, kRun>(next);
      unordered |= NotLessEqual(next, next);
      most = Max(most, next);
    }
  }
  if (__builtin_expect(unordered != 0, 0)) {
    return std::numeric_limits<C>::infinity();
  }
  return LargestLane<C>(most);
}

// Replaces what cancelled in `sums` by direct sums.
template <typename C, typename S>
__attribute__((noinline)) void ReplaceInexact(const CorrelationBlock<C>& block,
                                              Sums<C, S>* sums) {
  using At = Pixel<C, S>;
  using One = Shape<1>;
  for (int p = 0; p < S::kPixels; ++p) {
    for (int plane = 0; plane < S::kPlanes; ++plane) {
      Vector<C>* const here = sums->at[p] + plane * kVectors<C>;
      const C source = block.source_magnitudes[At::Slot(block, p)];
      unsigned inexact[kVectors<C>], any = 0;
      for (int v = 0; v < kVectors<C>; ++v) {
        const C* filters =
            block.filter_magnitudes + plane * kLanes + v * kWidth<C>;
        inexact[v] = Inexact<C>(Load(filters) + source, here[v]);
        any |= inexact[v];
      }
      if (!any) continue;
      CorrelationBlock<C> pixel = block;
      pixel.source += At::Source(block, p);
      pixel.filters += plane * block.next_filters;
      pixel.outside_first = pixel.outside_last = 0;
      if (p % S::kRun == 0) {
        pixel.column_taps += block.outside_first;
        pixel.column_tap_count -= block.outside_first;
      }
      if (p % S::kRun == S::kRun - 1) {
        pixel.column_tap_count -= block.outside_last;
      }
      const auto exact = pixel.column_tap_count > 0
                             ? SumOverTaps<C, Direct<C>, One>(pixel)
                             : Sums<C, One>{};
      for (int v = 0; v < kVectors<C>; ++v) {
        for (int lane = 0; lane < kWidth<C>; ++lane) {
          if (inexact[v] >> lane & 1) here[v][lane] = exact.at[0][v][lane];
        }
      }
    }
  }
}

// What sums of maxima start from: minus the sums of filters and sources.
// Partial sums then run from there to the distance, and stay small on the way.
template <typename C, typename S>
inline __attribute__((always_inline)) Sums<C, S> MinusReach(
    const CorrelationBlock<C>& block) {
  constexpr int kRun = S::kRun;
  const C* const source_sums = block.source_sums;
  const C* const second_sums = source_sums + block.second_slot;
  Sums<C, S> sums;
#pragma GCC unroll 8
  for (int v = 0; v < kSpan<C, S>; ++v) {
    const int at = v * kWidth<C>;
#pragma GCC unroll 32
    for (int p = 0; p < S::kPixels; ++p) {
      const C* filters = ValuesOf<C, S>(block.filter_sums, p) + at;
      const C* source = p < kRun ? source_sums + p : second_sums + (p - kRun);
      sums.at[p][v] = -Load(filters) - Broadcast(*source);
    }
  }
  return sums;
}

// The smallest of the sums of some pixels.
template <typename C, typename S>
inline __attribute__((always_inline)) Vector<C> Least(const Sums<C, S>& sums,
                                                      int v, int first,
                                                      int end) {
  constexpr int kChains = 4;
  Vector<C> least[kChains];
#pragma GCC unroll 32
  for (int p = first; p < end; ++p) {
    const int chain = p % kChains;
    least[chain] =
        p < kChains ? sums.at[p][v] : Min(least[chain], sums.at[p][v]);
  }
#pragma GCC unroll 8
  for (int chain = 1; chain < kChains && chain < end; ++chain) {
    least[0] = Min(least[0], least[chain]);
  }
  return least[0];
}

// Distances from sums of maxima. What depends on a pixel and a lane depends on
// nothing else of the block, so that any tiling gives the same bits: the
// block's largest magnitudes and smallest distances only tell whether to look
// closer.
template <typename C, typename S>
void ForwardBlock(const CorrelationBlock<C>& block) {
  const auto sums = SumOverTaps<C, Maximum<C, S::kPlanes == 1>, S>(
      block, MinusReach<C, S>(block));
  const C magnitude = MostMagnitude<C, S>(block);
  unsigned inexact = 0;
#pragma GCC unroll 8
  for (int v = 0; v < kSpan<C, S>; ++v) {
    inexact |=
        Inexact<C>(Load(block.filter_magnitudes + v * kWidth<C>) + magnitude,
                   Least<C, S>(sums, v, 0, S::kPixels));
  }
  if (__builtin_expect(inexact != 0, 0)) {
    // A copy, since sums whose address is known to others leave registers.
    auto mended = sums;
    ReplaceInexact<C, S>(block, &mended);
    return Finish<C, S>(block, mended);
  }
  Finish<C, S>(block, sums);
}

template <typename C, typename S>
void DirectForwardBlock(const CorrelationBlock<C>& block) {
  Finish<C, S>(block, SumOverTaps<C, Direct<C>, S>(block));
}

// Calls the instance for `pixels` (of each run) out of 1 ... kMost.
template <typename C, int kMost, int kRuns, int kPlanes>
void ForwardUpTo(const CorrelationBlock<C>& block, int pixels) {
  if (pixels == kMost) {
    using S = Shape<kMost * kRuns, kRuns, kPlanes>;
    if constexpr (kDirectForward) return DirectForwardBlock<C, S>(block);
    return ForwardBlock<C, S>(block);
  }
  if constexpr (kMost > 1) {
    ForwardUpTo<C, kMost - 1, kRuns, kPlanes>(block, pixels);
  }
}

template <typename C, int kMost>
void InputGradientUpTo(const CorrelationBlock<C>& block, int pixels) {
  if (pixels == kMost) return AddInputGradients<C, kMost>(block);
  if constexpr (kMost > 1) InputGradientUpTo<C, kMost - 1>(block, pixels);
}

// `kOperands`: scalars are operands of every instruction, not registers that
// two share.
template <typename C, bool kFinite, bool kOperands, int kFilters>
void Backward(const BackwardBlock<C>& both) {
  const FilterGradientBlock<C>& block = both.filter;
  const Vector<C> one = Opaque<C>(1);
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
        const int64_t start =
            image * block.input_image + row * block.input_row + lane;
        const C* input = block.input + start;
        C* input_gradient = both.input_gradient + start;
        const C* gradient = block.gradient + image * block.gradient_image +
                            row * block.gradient_row;
        for (int64_t column = 0; column < block.columns; ++column) {
          const Vector<C> x = Load(input);
          Vector<C> rest = Load(input_gradient);
#pragma GCC unroll 16
          for (int t = 0; t < kFilters; ++t) {
            const Vector<C> difference =
                Difference<C>(x, filters[t], one, kFuseHalf && t % 2 == 1);
            const Vector<C> slope = kFinite ? FiniteHardTanh<C>(difference)
                                            : HardTanh<C>(difference);
            if constexpr (kOperands) {
              rest = FnmaBroadcast(slope, gradient + t, rest);
              sums[t] = FmaBroadcast(difference, gradient + t, sums[t]);
            } else {
              const Vector<C> weight = BroadcastLoad(gradient + t);
              rest = Fma(-slope, weight, rest);
              sums[t] = Fma(difference, weight, sums[t]);
            }
          }
          Store(rest, input_gradient);
          input += kLanes;
          input_gradient += kLanes;
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

template <typename C, bool kFinite, bool kOperands, int kMost>
void BackwardUpTo(const BackwardBlock<C>& block, int count) {
  if (count == kMost) return Backward<C, kFinite, kOperands, kMost>(block);
  if constexpr (kMost > 1) {
    BackwardUpTo<C, kFinite, kOperands, kMost - 1>(block, count);
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

// The sum of all channels (or of their magnitudes) of each of the next
// kWidth<C> slots. Sets bits of `negative` if a channel is negative or a NaN.
template <typename C, bool kMagnitudes>
inline Vector<C> SumOfSlots(const C* tile, ptrdiff_t plane_stride,
                            int64_t planes, unsigned* negative) {
  Vector<C> sums[kWidth<C>] = {};
  for (int64_t plane = 0; plane < planes; ++plane) {
#pragma GCC unroll 16
    for (int slot = 0; slot < kWidth<C>; ++slot) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors<C>; ++v) {
        const Vector<C> value = Load(tile + slot * kLanes + v * kWidth<C>);
        sums[slot] += kMagnitudes ? Abs<C>(value) : value;
        if (!kMagnitudes) *negative |= NotLessEqual(Vector<C>{}, value);
      }
    }
    tile += plane_stride;
  }
  return SumEach<C>(sums);
}

template <typename C>
bool SlotSums(const C* tile, ptrdiff_t plane_stride, int64_t planes,
              int64_t slots, C* sums, C* magnitudes) {
  bool differ = false;
  for (int64_t slot = 0; slot < slots; slot += kWidth<C>) {
    const C* from = tile + slot * kLanes;
    unsigned negative = 0;
    Vector<C> sum = SumOfSlots<C, false>(from, plane_stride, planes, &negative);
    Store(sum, sums + slot);
    if (negative) {
      differ = true;
      sum = SumOfSlots<C, true>(from, plane_stride, planes, &negative);
    }
    Store(sum, magnitudes + slot);
  }
  return differ;
}

template <typename C>
void TapSums(const C* slot_sums, ptrdiff_t row_stride,
             const CorrelationBlock<C>& block, int64_t columns, C* sums) {
  for (int64_t first = 0; first < columns; first += kWidth<C>) {
    Vector<C> sum = {};
    for (int64_t i = 0; i < block.row_tap_count; ++i) {
      const C* row = slot_sums + block.row_taps[i].slot * row_stride + first;
      for (int64_t j = 0; j < block.column_tap_count; ++j) {
        sum += Load(row + block.column_taps[j].slot);
      }
    }
    Store(sum, sums + first);
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

template <typename C>
bool AllFinite(const C* tile, int64_t slots) {
  const Vector<C> most = Broadcast<C>(std::numeric_limits<C>::max());
  unsigned found = 0;
  for (int64_t slot = 0; slot < slots; ++slot) {
    for (int v = 0; v < kVectors<C>; ++v) {
      found |= NotLessEqual(Abs<C>(Load(tile + v * kWidth<C>)), most);
    }
    tile += kLanes;
  }
  return found == 0;
}

// The most pixels of a forward block, pixels of one with two planes of
// destinations (0 if there is none), pixels of an input gradient, filters of a
// filter gradient, and filters of a backward block.
template <typename C, int kForward, int kPair, int kInputGradient, int kFilters,
          int kBackward, bool kOperands>
constexpr Kernels<C> MakeKernels() {
  constexpr int kTwice = kForward > 1 ? kForward / 2 : 1;
  constexpr int kPlanes = kPair > 0 ? 2 : 1;
  constexpr int kPairOnce = kPair > 0 ? kPair : 1;
  constexpr int kPairTwice = kPair > 1 ? kPair / 2 : 1;
  return {
      kForward,
      kTwice,
      kPair,
      kPairTwice,
      kInputGradient,
      kFilters,
      kBackward,
      &ForwardUpTo<C, kForward, 1, 1>,
      &ForwardUpTo<C, kTwice, 2, 1>,
      &ForwardUpTo<C, kPairOnce, 1, kPlanes>,
      &ForwardUpTo<C, kPairTwice, 2, kPlanes>,
      &InputGradientUpTo<C, kInputGradient>,
      &CorrelateFiltersUpTo<C, FullPrecision<C>, kFilters>,
      &CorrelateFiltersUpTo<C, SignOnly<C>, kFilters>,
      &BackwardUpTo<C, true, kOperands, kBackward>,
      &BackwardUpTo<C, false, kOperands, kBackward>,
      &SlotSums<C>,
      &TapSums<C>,
      &FilterPartsOf<C>,
      &AllFinite<C>,
  };
}

template <typename T, typename C>
void Pack(const T* tensor, const Run& run, C* tile) {
  if (run.channel_stride == 1 && run.channels == kLanes) {
    for (int64_t i = 0; i < run.count; ++i) {
#pragma GCC unroll 16
      for (int lane = 0; lane < kLanes; ++lane) tile[lane] = Read(tensor[lane]);
      tensor += run.pixel_stride;
      tile += kLanes;
    }
    return;
  }
  if (run.channel_stride == 1) {
    for (int64_t i = 0; i < run.count; ++i) {
      // Of a fixed length, so that it becomes a masked load.
      for (int lane = 0; lane < kLanes; ++lane) {
        tile[lane] = lane < run.channels ? Read(tensor[lane]) : C{0};
      }
      tensor += run.pixel_stride;
      tile += kLanes;
    }
    return;
  }
  if (run.channels < kLanes) {
    std::memset(tile, 0, run.count * kLanes * sizeof(C));
  }
  for (int lane = 0; lane < run.channels; ++lane) {
    const T* from = tensor + lane * run.channel_stride;
    for (int64_t i = 0; i < run.count; ++i) {
      tile[i * kLanes + lane] = Read(from[i * run.pixel_stride]);
    }
  }
}

template <typename T, typename C>
void Unpack(const C* tile, const Run& run, C scale, T* tensor) {
  if (run.channel_stride == 1 && run.channels == kLanes) {
    for (int64_t i = 0; i < run.count; ++i) {
#pragma GCC unroll 16
      for (int lane = 0; lane < kLanes; ++lane) {
        tensor[lane] = Write<T>(scale * tile[lane]);
      }
      tensor += run.pixel_stride;
      tile += kLanes;
    }
    return;
  }
  for (int lane = 0; lane < run.channels; ++lane) {
    T* to = tensor + lane * run.channel_stride;
    for (int64_t i = 0; i < run.count; ++i) {
      to[i * run.pixel_stride] = Write<T>(scale * tile[i * kLanes + lane]);
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
