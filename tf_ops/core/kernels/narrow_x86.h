// How x86-64 makes integers of a few bits of vectors of floats, in every vector
// width. To be included by the files of an instruction set alone (see
// vector.h).

#ifndef KERAS_ADDER_CORE_KERNELS_NARROW_X86_H_
#define KERAS_ADDER_CORE_KERNELS_NARROW_X86_H_

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/fused/fusion.h"
#include "core/kernels/vector.h"

namespace keras_adder {
namespace {

// Rounds to int32, halves to even; NaN and what does not fit become the lowest.
// PackInts and PackWords put two vectors together: 128 bits of one, of the
// other, and so on, which InOrder brings into order. All of them saturate.
#if defined(__AVX512F__)
using Integers = __m512i;
inline Integers Round(__m512 value) { return _mm512_cvtps_epi32(value); }
inline Integers PackInts(Integers a, Integers b) {
  return _mm512_packs_epi32(a, b);
}
inline Integers PackWords(Integers a, Integers b) {
  return _mm512_packus_epi16(a, b);
}
inline Integers AddWords(Integers a, Integers b) {
  return _mm512_adds_epi16(a, b);
}
inline Integers WordsInOrder(Integers value) {
  return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7),
                                  value);
}
inline Integers BytesInOrder(Integers value) {
  return _mm512_permutexvar_epi32(
      _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
      value);
}
#elif defined(__AVX2__)
using Integers = __m256i;
inline Integers Round(__m256 value) { return _mm256_cvtps_epi32(value); }
inline Integers PackInts(Integers a, Integers b) {
  return _mm256_packs_epi32(a, b);
}
inline Integers PackWords(Integers a, Integers b) {
  return _mm256_packus_epi16(a, b);
}
inline Integers AddWords(Integers a, Integers b) {
  return _mm256_adds_epi16(a, b);
}
inline Integers WordsInOrder(Integers value) {
  return _mm256_permute4x64_epi64(value, 0xd8);
}
inline Integers BytesInOrder(Integers value) {
  return _mm256_permutevar8x32_epi32(value,
                                     _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
#else
using Integers = __m128i;
inline Integers Round(__m128 value) { return _mm_cvtps_epi32(value); }
inline Integers PackInts(Integers a, Integers b) {
  return _mm_packs_epi32(a, b);
}
inline Integers PackWords(Integers a, Integers b) {
  return _mm_packus_epi16(a, b);
}
inline Integers AddWords(Integers a, Integers b) {
  return _mm_adds_epi16(a, b);
}
inline Integers WordsInOrder(Integers value) { return value; }
inline Integers BytesInOrder(Integers value) { return value; }
#endif

// Vectors of floats that become integers at once, and how many floats these
// are.
constexpr int kNarrowed = 4;
constexpr int64_t kNarrowedLanes = kNarrowed * kWidth<float>;

// The bounds of an epilogue and a quantization. To scale numbers does not
// change which one is larger, so bounds are scaled in their place, and of two
// upper ones the lower is enough. What is too low, saturation takes care of.
template <typename O>
class Narrow {
 public:
  Narrow(float lower, float upper, const Quantization& quantization) {
    const float inverse = 1.0f / quantization.scale;
    const int32_t zero_point = quantization.zero_point;
    const IntegerRange range = RangeOf(DataTypeOf<O>());
    const float most = upper * inverse;
    const float highest = static_cast<float>(range.highest - zero_point);
    inverse_ = Broadcast(inverse);
    least_ = Broadcast(lower * inverse);
    most_ = Broadcast(most < highest ? most : highest);
    lowest_ = Broadcast(static_cast<float>(range.lowest - zero_point));
    zero_points_ = ZeroPoints{} + static_cast<ZeroPoint>(zero_point);
  }

  // NaN passes the bounds and becomes the lowest integer.
  inline __attribute__((always_inline)) void operator()(
      const Vector<float> (&values)[kNarrowed], void* to) const {
    Integers rounded[kNarrowed];
#pragma GCC unroll 4
    for (int i = 0; i < kNarrowed; ++i) {
      Vector<float> value = values[i] * inverse_;
      value = Max(least_, value);
      if constexpr (!kToBytes) value = Max(value, lowest_);
      rounded[i] = Round(Min(most_, value));
    }
    if constexpr (kToBytes) {
      StoreBytes(rounded, to);
    } else {
      StoreWords(rounded, to);
    }
  }

 private:
  static constexpr bool kToBytes = sizeof(O) == 1;
  // Of bytes, they are added to words, which do not saturate but where bytes
  // would anyhow.
  using ZeroPoint = std::conditional_t<kToBytes, int16_t, int32_t>;
  typedef ZeroPoint ZeroPoints __attribute__((vector_size(kVectorBytes)));

  void StoreBytes(const Integers (&ints)[kNarrowed], void* to) const {
    const Integers zero_points = (Integers)zero_points_;
    const Integers low = AddWords(PackInts(ints[0], ints[1]), zero_points);
    const Integers high = AddWords(PackInts(ints[2], ints[3]), zero_points);
    const Integers bytes = BytesInOrder(PackWords(low, high));
    std::memcpy(to, &bytes, sizeof(bytes));
  }
  void StoreWords(const Integers (&ints)[kNarrowed], void* to) const {
#pragma GCC unroll 2
    for (int i = 0; i < kNarrowed; i += 2) {
      const Integers low = (Integers)((ZeroPoints)ints[i] + zero_points_);
      const Integers high = (Integers)((ZeroPoints)ints[i + 1] + zero_points_);
      const Integers words = WordsInOrder(PackInts(low, high));
      std::memcpy(static_cast<O*>(to) + i * kWidth<float>, &words,
                  sizeof(words));
    }
  }

  Vector<float> inverse_, least_, most_, lowest_;
  ZeroPoints zero_points_;
};

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_NARROW_X86_H_
