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
// Widened makes int32 of a vector's lanes of shorter ones.
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
inline Integers Widened(const uint8_t* from) {
  return _mm512_cvtepu8_epi32(
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline Integers Widened(const int16_t* from) {
  return _mm512_cvtepi16_epi32(
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
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
inline Integers Widened(const uint8_t* from) {
  return _mm256_cvtepu8_epi32(
      _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
}
inline Integers Widened(const int16_t* from) {
  return _mm256_cvtepi16_epi32(
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
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
inline Integers Widened(const uint8_t* from) {
  int32_t bytes;
  std::memcpy(&bytes, from, sizeof(bytes));
  const Integers zero = _mm_setzero_si128();
  const Integers words = _mm_unpacklo_epi8(_mm_cvtsi32_si128(bytes), zero);
  return _mm_unpacklo_epi16(words, zero);
}
inline Integers Widened(const int16_t* from) {
  const Integers words =
      _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  return _mm_srai_epi32(_mm_unpacklo_epi16(words, words), 16);
}
inline Integers WordsInOrder(Integers value) { return value; }
inline Integers BytesInOrder(Integers value) { return value; }
#endif

// Vectors of floats that become integers at once, and how many floats these
// are.
constexpr int kNarrowed = 4;
constexpr int64_t kNarrowedLanes = kNarrowed * kWidth<float>;

// The quantization and the bounds of integers of values that fit into int32.
// Rounding does not change which of two numbers is larger: bounds are those of
// integers, and saturation takes care of those of the type.
template <typename O>
class Narrow {
 public:
  Narrow(const Quantization& quantization, const IntegerRange& bounds)
      : inverse_(Broadcast(1.0f / quantization.scale)),
        zero_points_(ZeroPoints{} +
                     static_cast<ZeroPoint>(quantization.zero_point)),
        least_(Outputs{} + static_cast<O>(bounds.lowest)),
        most_(Outputs{} + static_cast<O>(bounds.highest)) {}

  inline __attribute__((always_inline)) void operator()(
      const Vector<float> (&values)[kNarrowed], O* to) const {
    Integers ints[kNarrowed];
#pragma GCC unroll 4
    for (int i = 0; i < kNarrowed; ++i) ints[i] = Round(values[i] * inverse_);
    if constexpr (sizeof(O) == 1) {
      StoreBytes(ints, to);
    } else {
      StoreWords(ints, to);
    }
  }

 private:
  // Of bytes, it is added to words, which saturate where bytes do anyhow.
  using ZeroPoint = std::conditional_t<sizeof(O) == 1, int16_t, int32_t>;
  typedef ZeroPoint ZeroPoints __attribute__((vector_size(kVectorBytes)));
  typedef O Outputs __attribute__((vector_size(kVectorBytes)));

  void StoreBytes(const Integers (&ints)[kNarrowed], O* to) const {
    const Integers zero_points = (Integers)zero_points_;
    const Integers low = AddWords(PackInts(ints[0], ints[1]), zero_points);
    const Integers high = AddWords(PackInts(ints[2], ints[3]), zero_points);
    StoreBounded(BytesInOrder(PackWords(low, high)), to);
  }
  void StoreWords(const Integers (&ints)[kNarrowed], O* to) const {
#pragma GCC unroll 2
    for (int i = 0; i < kNarrowed; i += 2) {
      const Integers low = (Integers)((ZeroPoints)ints[i] + zero_points_);
      const Integers high = (Integers)((ZeroPoints)ints[i + 1] + zero_points_);
      StoreBounded(WordsInOrder(PackInts(low, high)), to + i * kWidth<float>);
    }
  }
  void StoreBounded(const Integers& integers, O* to) const {
    Outputs outputs = (Outputs)integers;
    outputs = outputs > least_ ? outputs : least_;
    outputs = outputs < most_ ? outputs : most_;
    std::memcpy(to, &outputs, sizeof(outputs));
  }

  const Vector<float> inverse_;
  const ZeroPoints zero_points_;
  const Outputs least_, most_;
};

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_NARROW_X86_H_
