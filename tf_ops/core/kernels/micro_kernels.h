// The innermost loops, written once over the vectors of vector.h. To be
// included by the one file of each instruction set (see vector.h), which sets
// the block sizes that its registers hold.

#ifndef KERAS_ADDER_CORE_KERNELS_MICRO_KERNELS_H_
#define KERAS_ADDER_CORE_KERNELS_MICRO_KERNELS_H_

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
struct Forward {
  static inline Vector<C> Add(Vector<C> sum, Vector<C> filter, C source,
                              const C*) {
    return sum + Abs<C>(filter - source);
  }
};

template <typename C>
struct InputGradient {
  static inline Vector<C> Add(Vector<C> sum, Vector<C> filter, C source,
                              const C* centre) {
    const Vector<C> slope = HardTanh<C>(filter - Load(centre));
    return Fma(slope, Broadcast(source), sum);
  }
};

// Sums stay in registers over all taps and channels of the block and are added
// to the total at the end: shorter chains of additions, smaller errors.
template <typename C, typename Step, int kPixels, int kPlanes>
void Correlate(const CorrelationBlock<C>& block) {
  constexpr int kSpan = kPlanes * kVectors<C>;
  Vector<C> sums[kPixels][kSpan] = {};
  const C* source_plane = block.source;
  const C* filter_plane = block.filters;
  for (int64_t left = block.channels; left > 0; left -= kLanes) {
    const int64_t channels = left < kLanes ? left : kLanes;
    for (int64_t t = 0; t < block.tap_count; ++t) {
      const C* source = source_plane + block.taps[t].source;
      const C* filter = filter_plane + block.taps[t].filter;
      for (int64_t channel = 0; channel < channels; ++channel) {
#pragma GCC unroll 8
        for (int v = 0; v < kSpan; ++v) {
          const Vector<C> coefficients = Load(filter + v * kWidth<C>);
          const C* centre = block.centre +
                            v / kVectors<C> * block.total_plane +
                            v % kVectors<C> * kWidth<C>;
#pragma GCC unroll 32
          for (int p = 0; p < kPixels; ++p) {
            sums[p][v] = Step::Add(sums[p][v], coefficients,
                                   source[p * kLanes], centre + p * kLanes);
          }
        }
        source += 1;
        filter += kPlanes * kLanes;
      }
    }
    source_plane += block.source_plane;
    filter_plane += block.filter_plane;
  }
#pragma GCC unroll 8
  for (int v = 0; v < kSpan; ++v) {
    C* total = block.total + v / kVectors<C> * block.total_plane +
               v % kVectors<C> * kWidth<C>;
#pragma GCC unroll 32
    for (int p = 0; p < kPixels; ++p) {
      C* to = total + p * kLanes;
      Store(Load(to) + sums[p][v], to);
    }
  }
}

// Calls the instance for `pixels` of 1 ... kMost.
template <typename C, typename Step, int kMost, int kPlanes>
void CorrelatePixels(const CorrelationBlock<C>& block, int pixels) {
  if (pixels == kMost) return Correlate<C, Step, kMost, kPlanes>(block);
  if constexpr (kMost > 1) {
    CorrelatePixels<C, Step, kMost - 1, kPlanes>(block, pixels);
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

// kPixels1 ...: the most pixels of a block of 1, 2, 3 and 4 planes; 0 for none.
template <typename C, typename Step, int kPixels1, int kPixels2, int kPixels3,
          int kPixels4>
void CorrelateBlock(const CorrelationBlock<C>& block, int pixels, int planes) {
  if (planes == 1) return CorrelatePixels<C, Step, kPixels1, 1>(block, pixels);
  if constexpr (kPixels2 > 0) {
    if (planes == 2) {
      return CorrelatePixels<C, Step, kPixels2, 2>(block, pixels);
    }
  }
  if constexpr (kPixels3 > 0) {
    if (planes == 3) {
      return CorrelatePixels<C, Step, kPixels3, 3>(block, pixels);
    }
  }
  if constexpr (kPixels4 > 0) {
    if (planes == 4) {
      return CorrelatePixels<C, Step, kPixels4, 4>(block, pixels);
    }
  }
}

template <typename C, int kPixels1, int kPixels2, int kPixels3, int kPixels4,
          int kFilters>
constexpr Kernels<C> MakeKernels() {
  constexpr int kMaxPlanes =
      kPixels4 > 0 ? 4 : kPixels3 > 0 ? 3 : kPixels2 > 0 ? 2 : 1;
  return {
      kMaxPlanes,
      {0, kPixels1, kPixels2, kPixels3, kPixels4},
      kFilters,
      &CorrelateBlock<C, Forward<C>, kPixels1, kPixels2, kPixels3, kPixels4>,
      &CorrelateBlock<C, InputGradient<C>, kPixels1, kPixels2, kPixels3,
                      kPixels4>,
      &CorrelateFiltersUpTo<C, FullPrecision<C>, kFilters>,
      &CorrelateFiltersUpTo<C, SignOnly<C>, kFilters>,
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
