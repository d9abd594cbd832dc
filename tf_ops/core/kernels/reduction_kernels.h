// The micro-kernels that sum what passes need beside their inner loops:
// channels of pixels, filters, chunks of a gradient, and what lies outside of
// an image.

#ifndef KERAS_ADDER_CORE_KERNELS_REDUCTION_KERNELS_H_
#define KERAS_ADDER_CORE_KERNELS_REDUCTION_KERNELS_H_

#include "core/kernels/kernels.h"
#include "core/kernels/lanes.h"
#include "core/kernels/vector.h"

namespace keras_adder {
namespace {

// Calls add(slot, vector) for all vectors of the next `count` slots from
// `first` on, or of as many as there are.
template <typename C, int kCount, typename Add>
inline __attribute__((always_inline)) void ForEachSlot(
    const SlotParams<C>& params, int64_t first, const Add& add) {
  const C* block = params.first + first * params.slot_stride;
  const int64_t slots = params.slots - first;
  for (int64_t left = params.channels; left > 0; left -= kLanes) {
    if (slots >= kCount && left >= kLanes) {
#pragma GCC unroll 16
      for (int slot = 0; slot < kCount; ++slot) {
#pragma GCC unroll 8
        for (int lane = 0; lane < kLanes; lane += kWidth<C>) {
          add(slot, Load(block + slot * params.slot_stride + lane));
        }
      }
    } else {
#pragma GCC unroll 16
      for (int slot = 0; slot < kCount; ++slot) {
        if (slot >= slots) break;
#pragma GCC unroll 8
        for (int lane = 0; lane < kLanes; lane += kWidth<C>) {
          add(slot, LoadLanes<C>(block + slot * params.slot_stride + lane, 0,
                                 left - lane));
        }
      }
    }
    block += params.block_stride;
  }
}

// Of each of kWidth<C> slots, the sum of all channels. Returns whether any
// channel is negative or a NaN.
template <typename C>
inline bool SumOfSlots(const SlotParams<C>& params, int64_t first, C* sums) {
  Vector<C> slots[kWidth<C>] = {};
  unsigned negative = 0;
  ForEachSlot<C, kWidth<C>>(params, first, [&](int slot, Vector<C> value) {
    slots[slot] += value;
    negative |= NotLessEqual(Vector<C>{}, value);
  });
  Store(SumEach<C>(slots), sums);
  return negative != 0;
}

// Sums, and then sums of magnitudes, of half as many slots.
template <typename C>
inline Vector<C> BothSumsOfSlots(const SlotParams<C>& params, int64_t first) {
  constexpr int kHalf = kWidth<C> / 2;
  Vector<C> slots[kWidth<C>] = {};
  ForEachSlot<C, kHalf>(params, first, [&](int slot, Vector<C> value) {
    slots[slot] += value;
    slots[kHalf + slot] += Abs<C>(value);
  });
  return SumEach<C>(slots);
}

// After a ReLU nothing is negative; once something is, more will be.
template <typename C>
void SlotSums(const SlotParams<C>& params, C* sums, C* magnitudes,
              bool* differ) {
  for (int64_t slot = 0; slot < params.slots; slot += kWidth<C>) {
    if (!*differ) {
      *differ = SumOfSlots<C>(params, slot, sums + slot);
      Store(Load(sums + slot), magnitudes + slot);
    }
    if (!*differ) continue;
    const Vector<C> low = BothSumsOfSlots<C>(params, slot);
    const Vector<C> high = BothSumsOfSlots<C>(params, slot + kWidth<C> / 2);
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
    const C* block = filters + row * window.row_stride + lane;
    for (int64_t left = window.channels; left > 0; left -= kLanes) {
      for (int64_t column = 0; column < window.columns; ++column) {
        const SlotsSum<C> tap(block + column * window.column_stride,
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
      block += window.block_stride;
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
void FilterTermsOf(const FilterSums<C>& sums, int64_t blocks,
                   ptrdiff_t block_stride, int64_t first, int64_t end,
                   int64_t rows, FilterTerms<C>* terms) {
  for (int64_t v = 0; v < blocks * kVectors<C>; ++v) {
    const ptrdiff_t lane = VectorAt<C>(v, block_stride);
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
    Store(magnitudes, terms->magnitudes + to);
    Store(outside, terms->padding + to);
    Store(leading, terms->first_padding + to);
    Store(trailing, terms->last_padding + to);
    Store(seen, terms->sums + to);
    Store(first_seen, terms->first_sums + to);
    Store(last_seen, terms->last_sums + to);
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

// Of one block of output channels: the sum of some pixels of a row.
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
void SumOutside(const OutsideParams<C>& params, C* total) {
  Vector<C> sums[kVectors<C>];
  for (int v = 0; v < kVectors<C>; ++v) sums[v] = Load(total + v * kWidth<C>);
  for (int64_t image = 0; image < params.images; ++image) {
    const C* row = params.tile + image * params.image_stride;
    for (int64_t i = 0; i < params.rows; ++i, row += params.row_stride) {
      if (i < params.first_row || i >= params.end_row) {
        AddPixels(row, 0, params.columns, sums);
      } else {
        AddPixels(row, 0, params.first_column, sums);
        AddPixels(row, params.end_column, params.columns, sums);
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

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_REDUCTION_KERNELS_H_
