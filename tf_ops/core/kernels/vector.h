// Vectors of one instruction set, chosen by the flags of the file that includes
// this: compiler vector extensions for arithmetic, intrinsics for the three
// operations whose exact instruction matters.
//
// To be included by the files of this folder only. Everything here has internal
// linkage: a function compiled for AVX-512 must never be the copy that the
// linker keeps for everybody.

#ifndef KERAS_ADDER_CORE_KERNELS_VECTOR_H_
#define KERAS_ADDER_CORE_KERNELS_VECTOR_H_

#if defined(__x86_64__)
// GCC 12 warns of its own header: where AVX-512 leaves no lane to keep, the
// intrinsics keep those of a value that they leave undefined on purpose.
#pragma GCC diagnostic push
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#elif defined(KERAS_ADDER_NEON)
#include <arm_neon.h>
#endif

#include <cstdint>
#include <cstring>

namespace keras_adder {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename C>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef int32_t bits __attribute__((vector_size(kVectorBytes)));
  static constexpr int32_t kMagnitude = 0x7fffffff;
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef int64_t bits __attribute__((vector_size(kVectorBytes)));
  static constexpr int64_t kMagnitude = 0x7fffffffffffffff;
};

template <typename C>
using Vector = typename VectorOf<C>::type;

template <typename C>
constexpr int kWidth = kVectorBytes / sizeof(C);

template <typename C>
inline Vector<C> Load(const C* from) {
  Vector<C> value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// Lanes first ... end - 1 of what begins at `from`, and zeros; nothing else is
// read.
template <typename C>
inline Vector<C> LoadLanes(const C* from, int64_t first, int64_t end) {
  Vector<C> value = {};
  for (int lane = 0; lane < kWidth<C>; ++lane) {
    if (lane >= first && lane < end) value[lane] = from[lane];
  }
  return value;
}
#if defined(__AVX512F__)
template <>
inline Vector<float> LoadLanes(const float* from, int64_t first, int64_t end) {
  const auto below = [](int64_t lane) {
    return (1u << (lane < 0 ? 0 : lane < 16 ? lane : 16)) - 1;
  };
  return _mm512_maskz_loadu_ps(below(end) & ~below(first), from);
}
#elif defined(__AVX2__)
template <>
inline Vector<float> LoadLanes(const float* from, int64_t first, int64_t end) {
  const auto all = [](int64_t lane) {
    return _mm256_set1_epi32(lane < 0 ? 0 : lane < 8 ? lane : 8);
  };
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i before = _mm256_cmpgt_epi32(all(first), lanes);
  return _mm256_maskload_ps(
      from, _mm256_andnot_si256(before, _mm256_cmpgt_epi32(all(end), lanes)));
}
#endif

template <typename C>
inline void Store(Vector<C> value, C* to) {
  std::memcpy(to, &value, sizeof(value));
}

template <typename C>
inline Vector<C> Broadcast(C value) {
  return value - Vector<C>{};  // folds; 0 + value would not, for -0
}

template <typename C>
inline Vector<C> BroadcastLoad(const C* from) {
  return Broadcast(*from);
}

template <typename C>
inline Vector<C> Abs(Vector<C> value) {
  using Bits = typename VectorOf<C>::bits;
  return (Vector<C>)((Bits)value & VectorOf<C>::kMagnitude);
}

// Max and Min return `b`, or on ARM NaN, where either operand is NaN, so
// clipping must hand the value to be clipped as `b` to let a NaN through. Fma
// may round twice where there is no such instruction.
#if defined(__AVX512F__)
inline Vector<float> Max(Vector<float> a, Vector<float> b) {
  return _mm512_max_ps(a, b);
}
inline Vector<float> Min(Vector<float> a, Vector<float> b) {
  return _mm512_min_ps(a, b);
}
inline Vector<float> Fma(Vector<float> a, Vector<float> b, Vector<float> c) {
  return _mm512_fmadd_ps(a, b, c);
}
inline Vector<double> Max(Vector<double> a, Vector<double> b) {
  return _mm512_max_pd(a, b);
}
inline Vector<double> Min(Vector<double> a, Vector<double> b) {
  return _mm512_min_pd(a, b);
}
inline Vector<double> Fma(Vector<double> a, Vector<double> b,
                          Vector<double> c) {
  return _mm512_fmadd_pd(a, b, c);
}
#elif defined(__AVX2__)
inline Vector<float> Max(Vector<float> a, Vector<float> b) {
  return _mm256_max_ps(a, b);
}
inline Vector<float> Min(Vector<float> a, Vector<float> b) {
  return _mm256_min_ps(a, b);
}
inline Vector<float> Fma(Vector<float> a, Vector<float> b, Vector<float> c) {
  return _mm256_fmadd_ps(a, b, c);
}
inline Vector<double> Max(Vector<double> a, Vector<double> b) {
  return _mm256_max_pd(a, b);
}
inline Vector<double> Min(Vector<double> a, Vector<double> b) {
  return _mm256_min_pd(a, b);
}
inline Vector<double> Fma(Vector<double> a, Vector<double> b,
                          Vector<double> c) {
  return _mm256_fmadd_pd(a, b, c);
}
#elif defined(KERAS_ADDER_NEON)
inline Vector<float> Max(Vector<float> a, Vector<float> b) {
  return vmaxq_f32(a, b);
}
inline Vector<float> Min(Vector<float> a, Vector<float> b) {
  return vminq_f32(a, b);
}
inline Vector<float> Fma(Vector<float> a, Vector<float> b, Vector<float> c) {
  return vfmaq_f32(c, a, b);
}
inline Vector<double> Max(Vector<double> a, Vector<double> b) {
  return vmaxq_f64(a, b);
}
inline Vector<double> Min(Vector<double> a, Vector<double> b) {
  return vminq_f64(a, b);
}
inline Vector<double> Fma(Vector<double> a, Vector<double> b,
                          Vector<double> c) {
  return vfmaq_f64(c, a, b);
}
#else
template <typename V>
inline V Max(V a, V b) {
  return a > b ? a : b;
}
template <typename V>
inline V Min(V a, V b) {
  return a < b ? a : b;
}
template <typename V>
inline V Fma(V a, V b, V c) {
  return a * b + c;
}
#endif

// |a - b|, and whether that takes one instruction: then the forward pass sums
// distances as they are, since maxima would cost as much and need a guard.
#if defined(KERAS_ADDER_NEON)
constexpr bool kDirectForward = true;
template <typename C>
inline Vector<C> AbsoluteDifference(Vector<C> a, Vector<C> b) {
  if constexpr (sizeof(C) == sizeof(double)) {
    return vabdq_f64(a, b);
  } else {
    return vabdq_f32(a, b);
  }
}
#else
constexpr bool kDirectForward = false;
template <typename C>
inline Vector<C> AbsoluteDifference(Vector<C> a, Vector<C> b) {
  return Abs<C>(a - b);
}
#endif

// Whether the scalar of MaxBroadcast and the like is an operand, that needs no
// register.
#if defined(__AVX512F__)
constexpr bool kBroadcastOperands = true;
#else
constexpr bool kBroadcastOperands = false;
#endif

// max(a, *b), the scalar being an operand of the one instruction: left to
// itself the compiler shares broadcasts between instructions, and a broadcast
// of its own takes the place of an arithmetic instruction on some processors.
#if defined(__AVX512F__)
inline Vector<float> MaxBroadcast(Vector<float> a, const float* b) {
  Vector<float> result;
  asm("vmaxps %2%{1to16%}, %1, %0" : "=v"(result) : "v"(a), "m"(*b));
  return result;
}
inline Vector<double> MaxBroadcast(Vector<double> a, const double* b) {
  Vector<double> result;
  asm("vmaxpd %2%{1to8%}, %1, %0" : "=v"(result) : "v"(a), "m"(*b));
  return result;
}
#else
template <typename C>
inline Vector<C> MaxBroadcast(Vector<C> a, const C* b) {
  return Max(a, Broadcast(*b));
}
#endif

// a * (*b) + c and c - a * (*b), the scalar again an operand.
#if defined(__AVX512F__)
inline Vector<float> FmaBroadcast(Vector<float> a, const float* b,
                                  Vector<float> c) {
  asm("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(c) : "v"(a), "m"(*b));
  return c;
}
inline Vector<double> FmaBroadcast(Vector<double> a, const double* b,
                                   Vector<double> c) {
  asm("vfmadd231pd %2%{1to8%}, %1, %0" : "+v"(c) : "v"(a), "m"(*b));
  return c;
}
inline Vector<float> FnmaBroadcast(Vector<float> a, const float* b,
                                   Vector<float> c) {
  asm("vfnmadd231ps %2%{1to16%}, %1, %0" : "+v"(c) : "v"(a), "m"(*b));
  return c;
}
inline Vector<double> FnmaBroadcast(Vector<double> a, const double* b,
                                    Vector<double> c) {
  asm("vfnmadd231pd %2%{1to8%}, %1, %0" : "+v"(c) : "v"(a), "m"(*b));
  return c;
}
#elif defined(KERAS_ADDER_NEON)
inline Vector<float> FmaBroadcast(Vector<float> a, const float* b,
                                  Vector<float> c) {
  asm("fmla %0.4s, %1.4s, %2.s[0]" : "+w"(c) : "w"(a), "w"(*b));
  return c;
}
inline Vector<double> FmaBroadcast(Vector<double> a, const double* b,
                                   Vector<double> c) {
  asm("fmla %0.2d, %1.2d, %2.d[0]" : "+w"(c) : "w"(a), "w"(*b));
  return c;
}
inline Vector<float> FnmaBroadcast(Vector<float> a, const float* b,
                                   Vector<float> c) {
  asm("fmls %0.4s, %1.4s, %2.s[0]" : "+w"(c) : "w"(a), "w"(*b));
  return c;
}
inline Vector<double> FnmaBroadcast(Vector<double> a, const double* b,
                                    Vector<double> c) {
  asm("fmls %0.2d, %1.2d, %2.d[0]" : "+w"(c) : "w"(a), "w"(*b));
  return c;
}
#else
template <typename C>
inline Vector<C> FmaBroadcast(Vector<C> a, const C* b, Vector<C> c) {
  return Fma(a, Broadcast(*b), c);
}
template <typename C>
inline Vector<C> FnmaBroadcast(Vector<C> a, const C* b, Vector<C> c) {
  return Fma(-a, Broadcast(*b), c);
}
#endif

// a - *b, the vector being an operand where registers are few: left to itself,
// the compiler would load it once and spill another.
#if defined(__AVX2__) && !defined(__AVX512F__)
template <typename C>
inline Vector<C> SubtractLoad(Vector<C> a, const C* b) {
  typedef C Unaligned
      __attribute__((vector_size(kVectorBytes), aligned(1), may_alias));
  const Unaligned& vector = *reinterpret_cast<const Unaligned*>(b);
  Vector<C> result;
  if constexpr (sizeof(C) == sizeof(float)) {
    asm("vsubps %2, %1, %0" : "=x"(result) : "x"(a), "m"(vector));
  } else {
    asm("vsubpd %2, %1, %0" : "=x"(result) : "x"(a), "m"(vector));
  }
  return result;
}
#else
template <typename C>
inline Vector<C> SubtractLoad(Vector<C> a, const C* b) {
  return a - Load(b);
}
#endif

// A constant that the compiler does not know: it would turn Fma(x, 1, y) into
// an addition, and Fma(x, 2, y) into two, but max and add compete for the same
// ports where max and fma do not.
template <typename C>
inline Vector<C> Opaque(C value) {
  Vector<C> result = Broadcast<C>(value);
#if defined(__AVX512F__)
  asm("" : "+v"(result));
#elif defined(__AVX2__)
  asm("" : "+x"(result));
#endif
  return result;
}

// Lane i of the result is lane lanes[i] of `a`, or of `b` if that is kWidth<C>
// or more. clang's own shuffle takes constants, not a vector of them, but clang
// makes the same of this loop once it is unrolled.
template <typename C>
inline __attribute__((always_inline)) Vector<C> Shuffle(
    Vector<C> a, Vector<C> b, typename VectorOf<C>::bits lanes) {
#if defined(__clang__)
  Vector<C> result = {};
  for (int i = 0; i < kWidth<C>; ++i) {
    const int lane = lanes[i];
    result[i] = lane < kWidth<C> ? a[lane] : b[lane - kWidth<C>];
  }
  return result;
#else
  return __builtin_shuffle(a, b, lanes);
#endif
}

// The first so many lanes, and zeros.
template <typename C, int kLanesKept>
inline Vector<C> KeepLanes(Vector<C> value) {
  typename VectorOf<C>::bits mask;
  for (int lane = 0; lane < kWidth<C>; ++lane) {
    mask[lane] = lane < kLanesKept ? -1 : 0;
  }
  return (Vector<C>)((typename VectorOf<C>::bits)value & mask);
}

template <typename C, int kCount = kWidth<C>>
inline C LargestLane(Vector<C> value) {
  if constexpr (kCount == 1) {
    return value[0];
  } else {
    typename VectorOf<C>::bits other;
    for (int lane = 0; lane < kWidth<C>; ++lane) {
      other[lane] = (lane + kCount / 2) % kWidth<C>;
    }
    return LargestLane<C, kCount / 2>(
        Max(value, Shuffle<C>(value, value, other)));
  }
}

// In every segment of 2 * kHalf lanes: the sum of both halves of `a`, then that
// of both halves of `b`.
template <typename C, int kHalf>
inline Vector<C> AddHalves(Vector<C> a, Vector<C> b) {
  typename VectorOf<C>::bits low, high;
  for (int lane = 0; lane < kWidth<C>; ++lane) {
    const int offset = lane % (2 * kHalf);
    const int segment = lane - offset;
    const bool first = offset < kHalf;
    low[lane] = segment + (first ? offset : kWidth<C> + offset - kHalf);
    high[lane] = low[lane] + kHalf;
  }
  return Shuffle<C>(a, b, low) + Shuffle<C>(a, b, high);
}

// Lane i of the result is the sum of all lanes of values[i], in the order of a
// binary tree. Destroys `values`.
template <typename C, int kCount = kWidth<C>>
inline Vector<C> SumEach(Vector<C>* values) {
  constexpr int kHalf = kCount / 2;
#pragma GCC unroll 8
  for (int i = 0; i < kHalf; ++i) {
    values[i] = AddHalves<C, kHalf>(values[i], values[i + kHalf]);
  }
  if constexpr (kHalf > 1) return SumEach<C, kHalf>(values);
  return values[0];
}

// The lower (or upper) halves of a and b, one after the other.
template <typename C, bool kUpper>
inline Vector<C> Halves(Vector<C> a, Vector<C> b) {
  constexpr int kHalf = kWidth<C> / 2;
  typename VectorOf<C>::bits from;
  for (int lane = 0; lane < kWidth<C>; ++lane) {
    from[lane] = (kUpper ? kHalf : 0) + lane + (lane < kHalf ? 0 : kHalf);
  }
  return Shuffle<C>(a, b, from);
}

// The lanes of the lower (or upper) halves of a and b, in turns.
template <typename C, bool kUpper>
inline Vector<C> Interleave(Vector<C> a, Vector<C> b) {
  typename VectorOf<C>::bits from;
  for (int lane = 0; lane < kWidth<C>; ++lane) {
    from[lane] = (kUpper ? kWidth<C> / 2 : 0) + lane / 2 + lane % 2 * kWidth<C>;
  }
  return Shuffle<C>(a, b, from);
}

// Exchanges lane i of rows[j] and lane j of rows[i]: every round moves a bit of
// the row's number to the lane's.
template <typename C, int kRounds = kWidth<C>>
inline __attribute__((always_inline)) void Transpose(Vector<C>* rows) {
  constexpr int kHalf = kWidth<C> / 2;
  Vector<C> next[kWidth<C>];
#pragma GCC unroll 8
  for (int i = 0; i < kHalf; ++i) {
    next[2 * i] = Interleave<C, false>(rows[i], rows[i + kHalf]);
    next[2 * i + 1] = Interleave<C, true>(rows[i], rows[i + kHalf]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kWidth<C>; ++i) rows[i] = next[i];
  if constexpr (kRounds > 2) Transpose<C, kRounds / 2>(rows);
}

// One bit for each lane in which not a <= b, so also for a NaN.
#if defined(__AVX512F__)
inline unsigned NotLessEqual(Vector<float> a, Vector<float> b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_NLE_UQ);
}
inline unsigned NotLessEqual(Vector<double> a, Vector<double> b) {
  return _mm512_cmp_pd_mask(a, b, _CMP_NLE_UQ);
}
#elif defined(__AVX2__)
inline unsigned NotLessEqual(Vector<float> a, Vector<float> b) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NLE_UQ));
}
inline unsigned NotLessEqual(Vector<double> a, Vector<double> b) {
  return _mm256_movemask_pd(_mm256_cmp_pd(a, b, _CMP_NLE_UQ));
}
#elif defined(__SSE2__)
inline unsigned NotLessEqual(Vector<float> a, Vector<float> b) {
  return _mm_movemask_ps(_mm_cmpnle_ps(a, b));
}
inline unsigned NotLessEqual(Vector<double> a, Vector<double> b) {
  return _mm_movemask_pd(_mm_cmpnle_pd(a, b));
}
#else
template <typename V>
inline unsigned NotLessEqual(V a, V b) {
  const auto less_equal = a <= b;
  unsigned bits = 0;
  for (unsigned lane = 0; lane < sizeof(V) / sizeof(a[0]); ++lane) {
    bits |= (less_equal[lane] == 0) << lane;
  }
  return bits;
}
#endif

template <typename C>
inline Vector<C> HardTanh(Vector<C> value) {
  return Min(Broadcast<C>(1), Max(Broadcast<C>(-1), value));
}

// The same in one instruction where there is one; not for NaN.
template <typename C>
inline Vector<C> FiniteHardTanh(Vector<C> value) {
  return HardTanh<C>(value);
}
#if defined(__AVX512DQ__)
// The operand of smaller magnitude, with the sign of the first.
template <>
inline Vector<float> FiniteHardTanh<float>(Vector<float> value) {
  return _mm512_range_ps(value, _mm512_set1_ps(1), 2);
}
template <>
inline Vector<double> FiniteHardTanh<double>(Vector<double> value) {
  return _mm512_range_pd(value, _mm512_set1_pd(1), 2);
}
#elif defined(__AVX2__)
// Bits of floats, as integers without a sign, are greater than those of -1
// below -1 alone; with a sign, greater than those of 1 above 1 alone. On AMD
// processors minima of integers run on every port, those of floats on the two
// that subtract.
template <>
inline Vector<float> FiniteHardTanh<float>(Vector<float> value) {
  const __m256i minus_one = _mm256_castps_si256(Broadcast<float>(-1));
  const __m256i one = _mm256_castps_si256(Broadcast<float>(1));
  return _mm256_castsi256_ps(_mm256_min_epi32(
      _mm256_min_epu32(_mm256_castps_si256(value), minus_one), one));
}
#endif

// In the loop of depthwise gradients, a difference, a clipping and two
// multiply-adds: whether half of the differences should be fused multiply-adds
// too, for the ports to be even. Found without AVX-512.
#if defined(__AVX512DQ__)
constexpr bool kFuseHalf = false;
#else
constexpr bool kFuseHalf = true;
#endif

// How many pixels the loop of both gradients (BackwardStep) takes at once,
// registers permitting.
#if defined(__AVX512F__)
constexpr int kBackwardPixels = 2;
#elif defined(__AVX2__)
constexpr int kBackwardPixels = 3;
#else
constexpr int kBackwardPixels = 1;
#endif

// How many pixels that loop sweeps over before it takes other filters: enough
// to pay for loading these and their sums, few enough for inputs, their
// gradients and output gradients of one block to share a first-level cache.
// Found with `benchmarks/conv2d.py --parts main configurations` on Zen 5 and
// its 48 KiB and, but for AVX-512, on Zen 4 and its 32.
#if defined(__AVX512F__)
constexpr int64_t kBandPixels = 200;
#else
constexpr int64_t kBandPixels = 128;
#endif

// -1, 0 or 1; NaN for NaN.
template <typename C>
inline Vector<C> Sign(Vector<C> value) {
  const Vector<C> zero{};
  const Vector<C> one = Broadcast<C>(1);
  return value > zero ? one : (value < zero ? -one : value);
}

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_VECTOR_H_
