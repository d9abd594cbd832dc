// The micro-kernels of the gradients: of the inputs, of the filters, and of
// both at once. See InputGradientBlock, FilterGradientBlock and BackwardBlock
// in kernels.h.

#ifndef KERAS_ADDER_CORE_KERNELS_GRADIENT_KERNELS_H_
#define KERAS_ADDER_CORE_KERNELS_GRADIENT_KERNELS_H_

#include "core/kernels/kernels.h"
#include "core/kernels/lanes.h"
#include "core/kernels/vector.h"

namespace keras_adder {
namespace {

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

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_GRADIENT_KERNELS_H_
