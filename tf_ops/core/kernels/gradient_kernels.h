// The micro-kernels of the gradients: of the inputs, of the filters, and of
// both at once. See InputGradientParams, FilterGradientParams and
// BackwardParams in kernels.h.

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
void AddInputGradients(const InputGradientParams<C>& params) {
  constexpr int kV = kVectors<C>;
  const Vector<C> one = Opaque<C>(1);
  Vector<C> sums[kPixels][kV] = {};
  const C* sources = params.source;
  const C* filters = params.filters;
  for (int64_t left = params.channels; left > 0; left -= kLanes) {
    const int64_t channels = left < kLanes ? left : kLanes;
    for (int64_t row = 0; row < params.row_tap_count; ++row) {
      const TapSlot& row_tap = params.row_taps[row];
      for (int64_t column = 0; column < params.column_tap_count; ++column) {
        const TapSlot& column_tap = params.column_taps[column];
        const C* source = sources + row_tap.slot * params.source_row_stride +
                          column_tap.slot * kLanes;
        const C* filter = filters + row_tap.tap * params.filter_row_stride +
                          column_tap.tap * params.filter_column_stride;
        for (int64_t channel = 0; channel < channels; ++channel) {
#pragma GCC unroll 64
          for (int i = 0; i < kPixels * kV; ++i) {
            const int p = kBroadcastOperands ? i % kPixels : i / kV;
            const int v = kBroadcastOperands ? i / kPixels : i % kV;
            const int at = v * kWidth<C>;
            const Vector<C> difference =
                Difference<C>(Load(filter + at),
                              Load(params.centre + p * kLanes + at), one, true);
            sums[p][v] = FmaBroadcast(HardTanh<C>(difference),
                                      source + p * kLanes, sums[p][v]);
          }
          source += 1;
          filter += kLanes;
        }
      }
    }
    sources += params.source_block_stride;
    filters += params.filter_block_stride;
  }
#pragma GCC unroll 32
  for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 8
    for (int v = 0; v < kV; ++v) {
      C* const to = params.total + p * kLanes + v * kWidth<C>;
      Store(Load(to) + sums[p][v], to);
    }
  }
}

template <typename C, int kMost>
void InputGradientUpTo(const InputGradientParams<C>& params, int pixels) {
  if (pixels == kMost) return AddInputGradients<C, kMost>(params);
  if constexpr (kMost > 1) InputGradientUpTo<C, kMost - 1>(params, pixels);
}

// One vector of the filters of a kernel of both gradients, and of the sums that
// are their gradients: what stays in registers while the pixels go by.
// `kOperands`: scalars are operands of every instruction, not registers that
// two share.
template <typename C, bool kFinite, bool kOperands, int kFilters>
struct BackwardStep {
  Vector<C> filters[kFilters];
  Vector<C> sums[kFilters];

  // Takes some neighbouring pixels at once, each of which has a chain of
  // additions of its own.
  template <int kPixels>
  inline __attribute__((always_inline)) void Take(const C* input,
                                                  const C* gradient,
                                                  C* input_gradient) {
    Vector<C> rest[kPixels];
#pragma GCC unroll 4
    for (int p = 0; p < kPixels; ++p)
      rest[p] = Load(input_gradient + p * kLanes);
#pragma GCC unroll 64
    for (int i = 0; i < kFilters * kPixels; ++i) {
      const int t = i / kPixels, p = i % kPixels;
      const C* const scalar = gradient + p * kLanes + t;
      const Vector<C> difference = SubtractLoad(filters[t], input + p * kLanes);
      const Vector<C> slope =
          kFinite ? FiniteHardTanh<C>(difference) : HardTanh<C>(difference);
      if constexpr (kOperands) {
        rest[p] = FmaBroadcast(slope, scalar, rest[p]);
        sums[t] = FnmaBroadcast(difference, scalar, sums[t]);
      } else {
        const Vector<C> weight = BroadcastLoad(scalar);
        rest[p] = Fma(slope, weight, rest[p]);
        sums[t] = Fma(-difference, weight, sums[t]);
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < kPixels; ++p) {
      Store(rest[p], input_gradient + p * kLanes);
    }
  }

  // Takes a row of them, as many at once as there are.
  template <int kPixels>
  inline __attribute__((always_inline)) void TakeRow(const C* input,
                                                     const C* gradient,
                                                     C* input_gradient,
                                                     int64_t count) {
    for (; count >= kPixels; count -= kPixels) {
      Take<kPixels>(input, gradient, input_gradient);
      input += kPixels * kLanes;
      gradient += kPixels * kLanes;
      input_gradient += kPixels * kLanes;
    }
    if constexpr (kPixels > 1) {
      TakeRow<kPixels - 1>(input, gradient, input_gradient, count);
    }
  }
};

// Some filters of one tap, from `first` on. Sums run over pixels one by one, so
// how many are taken at once is a matter of speed alone.
template <typename C, bool kFinite, bool kOperands, int kFilters>
inline __attribute__((always_inline)) void BackwardFilters(
    const BackwardParams<C>& params, const BackwardTap& tap, int first) {
  const C* const filters = params.filters + tap.filter + first * kLanes;
  C* const total = params.total + tap.filter + first * kLanes;
  for (int v = 0; v < kVectors<C>; ++v) {
    const int lane = v * kWidth<C>;
    BackwardStep<C, kFinite, kOperands, kFilters> step;
#pragma GCC unroll 16
    for (int t = 0; t < kFilters; ++t) {
      step.filters[t] = Load(filters + t * kLanes + lane);
      step.sums[t] = Vector<C>{};
    }
    for (int64_t image = 0; image < params.images; ++image) {
      for (int64_t row = 0; row < tap.rows; ++row) {
        const int64_t start = tap.input + image * params.input_image_stride +
                              row * params.input_row_stride + lane;
        const C* input = params.input + start;
        C* input_gradient = params.input_gradient + start;
        const C* gradient = params.gradient + tap.gradient +
                            image * params.gradient_image_stride +
                            row * params.gradient_row_stride + first;
        step.template TakeRow<kBackwardPixels>(input, gradient, input_gradient,
                                               tap.columns);
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
void BackwardUpTo(const BackwardParams<C>& params, const BackwardTap& tap,
                  int first, int count) {
  if (count == kMost) {
    return BackwardFilters<C, kFinite, kOperands, kMost>(params, tap, first);
  }
  if constexpr (kMost > 1) {
    BackwardUpTo<C, kFinite, kOperands, kMost - 1>(params, tap, first, count);
  }
}

template <typename C, bool kFinite, bool kOperands, int kFilters>
void Backward(const BackwardParams<C>& params) {
  for (int64_t i = 0; i < params.tap_count; ++i) {
    // Dealt out evenly: 9 channels are 5 and 4, not 8 and 1.
    const int parts = (params.channels + kFilters - 1) / kFilters;
    for (int part = 0; part < parts; ++part) {
      const int first = params.channels * part / parts;
      const int end = params.channels * (part + 1) / parts;
      BackwardUpTo<C, kFinite, kOperands, kFilters>(params, params.taps[i],
                                                    first, end - first);
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
void CorrelateFilters(const FilterGradientParams<C>& params) {
  for (int v = 0; v < kVectors<C>; ++v) {
    const int lane = v * kWidth<C>;
    Vector<C> filters[kFilters];
    Vector<C> sums[kFilters] = {};
#pragma GCC unroll 16
    for (int t = 0; t < kFilters; ++t) {
      filters[t] = Load(params.filters + t * kLanes + lane);
    }
    for (int64_t image = 0; image < params.images; ++image) {
      for (int64_t row = 0; row < params.rows; ++row) {
        const C* input = params.input + image * params.input_image_stride +
                         row * params.input_row_stride + lane;
        const C* gradient = params.gradient +
                            image * params.gradient_image_stride +
                            row * params.gradient_row_stride;
        for (int64_t column = 0; column < params.columns; ++column) {
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
      C* to = params.total + t * kLanes + lane;
      Store(Load(to) + sums[t], to);
    }
  }
}

template <typename C, typename Mode, int kMost>
void CorrelateFiltersUpTo(const FilterGradientParams<C>& params, int count) {
  if (count == kMost) return CorrelateFilters<C, Mode, kMost>(params);
  if constexpr (kMost > 1) {
    CorrelateFiltersUpTo<C, Mode, kMost - 1>(params, count);
  }
}

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_GRADIENT_KERNELS_H_
