// The innermost loops, written once over the vectors of vector.h. To be
// included by the one file of each instruction set (see vector.h), which sets
// the block sizes that its registers hold.

#ifndef KERAS_ADDER_CORE_KERNELS_MICRO_KERNELS_H_
#define KERAS_ADDER_CORE_KERNELS_MICRO_KERNELS_H_

#include <limits>

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
  static inline Vector<C> Add(Vector<C> sum, Vector<C> filter,
                              const C* source, const C*, Vector<C>) {
    return sum + AbsoluteDifference<C>(filter, Broadcast(*source));
  }
};

// max(filter, source), one instruction, and one more on another port.
template <typename C>
struct Maximum {
  static inline Vector<C> Add(Vector<C> sum, Vector<C> filter,
                              const C* source, const C*, Vector<C> one) {
    return Fma(MaxBroadcast(filter, source), one, sum);
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
  static inline Vector<C> Add(Vector<C> sum, Vector<C> filter,
                              const C* source, const C* centre,
                              Vector<C> one) {
    const Vector<C> difference = Difference<C>(filter, Load(centre), one, true);
    return FmaBroadcast(HardTanh<C>(difference), source, sum);
  }
};

// One sum for each pixel and each vector of the plane of destinations.
template <typename C, int kPixels>
struct Sums {
  Vector<C> at[kPixels][kVectors<C>];
};

// Pixel p of a block of `kRuns` runs, counted from the first of the block.
template <typename C, int kPixels, int kRuns>
struct Pixel {
  static constexpr int kRun = kPixels / kRuns;
  static inline ptrdiff_t Source(const CorrelationBlock<C>& block, int p) {
    return p < kRun ? p * kLanes : block.second_source + (p - kRun) * kLanes;
  }
  static inline ptrdiff_t Slot(const CorrelationBlock<C>& block, int p) {
    return p < kRun ? p : block.second_slot + (p - kRun);
  }
};

// Sums stay in registers over all taps and channels of the block.
template <typename C, typename Step, int kPixels, int kRuns>
inline __attribute__((always_inline)) Sums<C, kPixels> SumOverTaps(
    const CorrelationBlock<C>& block) {
  constexpr int kSpan = kVectors<C>;
  constexpr int kRun = kPixels / kRuns;
  Sums<C, kPixels> sums = {};
  const Vector<C> one = One<C>();
  const C* source_plane = block.source;
  const C* filter_plane = block.filters;
  for (int64_t left = block.channels; left > 0; left -= kLanes) {
    const int64_t channels = left < kLanes ? left : kLanes;
    int64_t row = 0, column = 0;
    for (; row < block.row_tap_count;) {
      const TapSlot& row_tap = block.row_taps[row];
      const TapSlot& column_tap = block.column_taps[column];
      const C* source = source_plane + row_tap.slot * block.source_row +
                        column_tap.slot * kLanes;
      const C* second = source + (kRuns > 1 ? block.second_source : 0);
      const C* filter = filter_plane + row_tap.tap * block.filter_row +
                        column_tap.tap * block.filter_tap;
      if (++column == block.column_tap_count) {
        column = 0;
        ++row;
      }
      for (int64_t channel = 0; channel < channels; ++channel) {
        // In the order that needs the fewest registers at a time.
#pragma GCC unroll 64
        for (int i = 0; i < kPixels * kSpan; ++i) {
          const int p = kBroadcastOperands ? i % kPixels : i / kSpan;
          const int v = kBroadcastOperands ? i / kPixels : i % kSpan;
          const C* from =
              p < kRun ? source + p * kLanes : second + (p - kRun) * kLanes;
          sums.at[p][v] = Step::Add(
              sums.at[p][v], Load(filter + v * kWidth<C>), from,
              block.centre + p * kLanes + v * kWidth<C>, one);
        }
        source += 1;
        second += 1;
        filter += kLanes;
      }
    }
    source_plane += block.source_plane;
    filter_plane += block.filter_plane;
  }
  return sums;
}

template <typename C, int kPixels, int kRuns>
inline __attribute__((always_inline)) void AddToTotals(
    const CorrelationBlock<C>& block, const Sums<C, kPixels>& sums) {
#pragma GCC unroll 32
  for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors<C>; ++v) {
      C* to = block.total +
              Pixel<C, kPixels, kRuns>::Slot(block, p) * kLanes +
              v * kWidth<C>;
      Store(Load(to) + sums.at[p][v], to);
    }
  }
}

// Sums are added to the totals at the end of a block: shorter chains of
// additions, smaller errors.
template <typename C, typename Step, int kPixels, int kRuns>
void Correlate(const CorrelationBlock<C>& block) {
  AddToTotals<C, kPixels, kRuns>(
      block, SumOverTaps<C, Step, kPixels, kRuns>(block));
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

// Replaces what cancelled in `sums` by direct sums.
template <typename C, int kPixels, int kRuns>
__attribute__((noinline)) void ReplaceInexact(
    const CorrelationBlock<C>& block, Sums<C, kPixels>* sums) {
  using At = Pixel<C, kPixels, kRuns>;
  for (int p = 0; p < kPixels; ++p) {
    CorrelationBlock<C> pixel = block;
    pixel.source += At::Source(block, p);
    const auto exact = SumOverTaps<C, Direct<C>, 1, 1>(pixel);
    const C source = block.source_magnitudes[At::Slot(block, p)];
    for (int v = 0; v < kVectors<C>; ++v) {
      Vector<C>& sum = sums->at[p][v];
      const unsigned inexact = Inexact<C>(
          Load(block.filter_magnitudes + v * kWidth<C>) + source, sum);
      for (int lane = 0; lane < kWidth<C>; ++lane) {
        if (inexact >> lane & 1) sum[lane] = exact.at[0][v][lane];
      }
    }
  }
}

// Distances from sums of maxima. What depends on a pixel and a lane depends on
// nothing else of the block, so that any tiling gives the same bits.
template <typename C, int kPixels, int kRuns>
void ForwardBlock(const CorrelationBlock<C>& block) {
  using At = Pixel<C, kPixels, kRuns>;
  auto sums = SumOverTaps<C, Maximum<C>, kPixels, kRuns>(block);
  unsigned inexact = 0;
#pragma GCC unroll 8
  for (int v = 0; v < kVectors<C>; ++v) {
    const Vector<C> filters = Load(block.filter_sums + v * kWidth<C>);
    const Vector<C> most = Load(block.filter_magnitudes + v * kWidth<C>);
#pragma GCC unroll 32
    for (int p = 0; p < kPixels; ++p) {
      const ptrdiff_t slot = At::Slot(block, p);
      const Vector<C> maxima = sums.at[p][v];
      sums.at[p][v] = maxima + (maxima - (filters + block.source_sums[slot]));
      inexact |=
          Inexact<C>(most + block.source_magnitudes[slot], sums.at[p][v]);
    }
  }
  if (__builtin_expect(inexact != 0, 0)) {
    // A copy, since sums whose address is known to others leave registers.
    auto mended = sums;
    ReplaceInexact<C, kPixels, kRuns>(block, &mended);
    return AddToTotals<C, kPixels, kRuns>(block, mended);
  }
  AddToTotals<C, kPixels, kRuns>(block, sums);
}

// Calls the instance for `pixels` (of each run) out of 1 ... kMost.
template <typename C, int kMost, int kRuns>
void ForwardUpTo(const CorrelationBlock<C>& block, int pixels) {
  if (pixels == kMost) {
    if constexpr (kDirectForward) {
      return Correlate<C, Direct<C>, kMost * kRuns, kRuns>(block);
    }
    return ForwardBlock<C, kMost * kRuns, kRuns>(block);
  }
  if constexpr (kMost > 1) ForwardUpTo<C, kMost - 1, kRuns>(block, pixels);
}

template <typename C, int kMost>
void InputGradientUpTo(const CorrelationBlock<C>& block, int pixels) {
  if (pixels == kMost) return Correlate<C, InputGradient<C>, kMost, 1>(block);
  if constexpr (kMost > 1) InputGradientUpTo<C, kMost - 1>(block, pixels);
}

template <typename C, bool kFinite, int kFilters>
void Backward(const BackwardBlock<C>& both) {
  const FilterGradientBlock<C>& block = both.filter;
  const Vector<C> one = One<C>();
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
          // Two chains, so that one need not wait for the other.
          Vector<C> rest = Load(input_gradient);
          Vector<C> taken = {};
#pragma GCC unroll 16
          for (int t = 0; t < kFilters; ++t) {
            const Vector<C> difference =
                Difference<C>(x, filters[t], one, t % kFusedEvery == 1);
            const Vector<C> slope = kFinite ? FiniteHardTanh<C>(difference)
                                            : HardTanh<C>(difference);
            // Half of the weights as operands, half as a register: loads and
            // broadcasts are each scarce on some processors.
            if (t % 2 == 0) {
              rest = FnmaBroadcast(slope, gradient + t, rest);
              sums[t] = FmaBroadcast(difference, gradient + t, sums[t]);
            } else {
              const Vector<C> weight = Broadcast(gradient[t]);
              taken = Fma(slope, weight, taken);
              sums[t] = Fma(difference, weight, sums[t]);
            }
          }
          Store(rest - taken, input_gradient);
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

template <typename C, bool kFinite, int kMost>
void BackwardUpTo(const BackwardBlock<C>& block, int count) {
  if (count == kMost) return Backward<C, kFinite, kMost>(block);
  if constexpr (kMost > 1) BackwardUpTo<C, kFinite, kMost - 1>(block, count);
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
// kWidth<C> slots.
template <typename C, bool kMagnitudes>
inline Vector<C> SumOfSlots(const C* tile, ptrdiff_t plane_stride,
                            int64_t planes) {
  Vector<C> sums[kWidth<C>] = {};
  for (int64_t plane = 0; plane < planes; ++plane) {
#pragma GCC unroll 16
    for (int slot = 0; slot < kWidth<C>; ++slot) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors<C>; ++v) {
        const Vector<C> value =
            Load(tile + slot * kLanes + v * kWidth<C>);
        sums[slot] += kMagnitudes ? Abs<C>(value) : value;
      }
    }
    tile += plane_stride;
  }
  return SumEach<C>(sums);
}

template <typename C>
void SlotSums(const C* tile, ptrdiff_t plane_stride, int64_t planes,
              int64_t slots, C* sums, C* magnitudes) {
  for (int64_t slot = 0; slot < slots; slot += kWidth<C>) {
    const C* from = tile + slot * kLanes;
    Store(SumOfSlots<C, false>(from, plane_stride, planes), sums + slot);
    Store(SumOfSlots<C, true>(from, plane_stride, planes), magnitudes + slot);
  }
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

// The most pixels of a forward block, pixels of an input gradient, filters of a
// filter gradient, and filters of a backward block.
template <typename C, int kForward, int kInputGradient, int kFilters,
          int kBackward>
constexpr Kernels<C> MakeKernels() {
  constexpr int kTwice = kForward > 1 ? kForward / 2 : 1;
  return {
      kForward,
      kTwice,
      kInputGradient,
      kFilters,
      kBackward,
      &ForwardUpTo<C, kForward, 1>,
      &ForwardUpTo<C, kTwice, 2>,
      &InputGradientUpTo<C, kInputGradient>,
      &CorrelateFiltersUpTo<C, FullPrecision<C>, kFilters>,
      &CorrelateFiltersUpTo<C, SignOnly<C>, kFilters>,
      &BackwardUpTo<C, true, kBackward>,
      &BackwardUpTo<C, false, kBackward>,
      &SlotSums<C>,
      &TapSums<C>,
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
