// How x86-64 sums distances by channel (depthwise_sums.h), in every vector
// width. To be included by the files of an instruction set alone (see
// vector.h).

#ifndef KERAS_ADDER_CORE_KERNELS_DEPTHWISE_SUMS_X86_H_
#define KERAS_ADDER_CORE_KERNELS_DEPTHWISE_SUMS_X86_H_

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/kernels/depthwise_sums.h"
#include "core/kernels/vector.h"

namespace keras_adder {
namespace {

// Sums of int32 become, or are added to, totals.
template <typename Vector>
inline void StoreInts(int32_t* totals, const Vector& sums, bool add) {
  typedef uint32_t Ints __attribute__((vector_size(sizeof(Vector))));
  Ints ints = (Ints)sums;
  if (add) {
    Ints before;
    std::memcpy(&before, totals, sizeof(before));
    ints += before;
  }
  std::memcpy(totals, &ints, sizeof(ints));
}

// The sums of even and of odd channels, of 16 bits or of 32, do in order.
inline void StoreWordsInOrder(int32_t* totals, __m128i even, __m128i odd,
                              bool add) {
  const __m128i zero = _mm_setzero_si128();
  const __m128i low = _mm_unpacklo_epi16(even, odd);
  const __m128i high = _mm_unpackhi_epi16(even, odd);
  StoreInts(totals, _mm_unpacklo_epi16(low, zero), add);
  StoreInts(totals + 4, _mm_unpackhi_epi16(low, zero), add);
  StoreInts(totals + 8, _mm_unpacklo_epi16(high, zero), add);
  StoreInts(totals + 12, _mm_unpackhi_epi16(high, zero), add);
}
inline void StoreIntsInOrder(int32_t* totals, __m128i even, __m128i odd,
                             bool add) {
  StoreInts(totals, _mm_unpacklo_epi32(even, odd), add);
  StoreInts(totals + 4, _mm_unpackhi_epi32(even, odd), add);
}

#if defined(__AVX2__)
inline void StoreWordsInOrder(int32_t* totals, __m256i even, __m256i odd,
                              bool add) {
  const __m256i low = _mm256_unpacklo_epi16(even, odd);
  const __m256i high = _mm256_unpackhi_epi16(even, odd);
  const auto store = [&](int at, const __m128i& words) {
    StoreInts(totals + at, _mm256_cvtepu16_epi32(words), add);
  };
  store(0, _mm256_castsi256_si128(low));
  store(8, _mm256_castsi256_si128(high));
  store(16, _mm256_extracti128_si256(low, 1));
  store(24, _mm256_extracti128_si256(high, 1));
}
inline void StoreIntsInOrder(int32_t* totals, __m256i even, __m256i odd,
                             bool add) {
  const __m256i low = _mm256_unpacklo_epi32(even, odd);
  const __m256i high = _mm256_unpackhi_epi32(even, odd);
  StoreInts(totals, _mm256_permute2x128_si256(low, high, 0x20), add);
  StoreInts(totals + 8, _mm256_permute2x128_si256(low, high, 0x31), add);
}
#endif

#if defined(__AVX512F__)
// Which words of two vectors, and which ints, become part i of totals; of words
// every other one, since zeros lie between them.
struct Orders {
  constexpr Orders() : words(), ints() {
    for (int i = 0; i < 64; ++i) {
      words[i / 16][i % 16 * 2] = static_cast<uint16_t>(i / 2 + i % 2 * 32);
    }
    for (int i = 0; i < 32; ++i) ints[i / 16][i % 16] = i / 2 + i % 2 * 16;
  }
  alignas(64) uint16_t words[4][32];
  alignas(64) uint32_t ints[2][16];
};
constexpr Orders kOrders;

inline void StoreWordsInOrder(int32_t* totals, __m512i even, __m512i odd,
                              bool add) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i order = _mm512_load_si512(kOrders.words[i]);
    StoreInts(totals + 16 * i,
              _mm512_maskz_permutex2var_epi16(0x55555555, even, order, odd),
              add);
  }
}
inline void StoreIntsInOrder(int32_t* totals, __m512i even, __m512i odd,
                             bool add) {
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m512i order = _mm512_load_si512(kOrders.ints[i]);
    StoreInts(totals + 16 * i, _mm512_permutex2var_epi32(even, order, odd),
              add);
  }
}
#endif

template <int kBytes>
struct BitsOf {
  typedef long long type __attribute__((vector_size(kBytes)));
};

// A distance has as many bits as an element, and a sum twice as many: those of
// odd channels, and of all as if each pair of them were one number, from which
// what odd ones add to it comes off in the end.
template <typename T, int kBytes>
struct DistanceSums {
  using Unsigned = std::make_unsigned_t<T>;
  using Wide = std::conditional_t<sizeof(T) == 1, uint16_t, uint32_t>;
  typedef T Elements __attribute__((vector_size(kBytes)));
  typedef Unsigned Distances __attribute__((vector_size(kBytes)));
  typedef Wide Sums __attribute__((vector_size(kBytes)));
  static constexpr int kElementBytes = sizeof(T);
  static constexpr int kElements = kBytes / sizeof(T);
  static constexpr int kBits = 8 * sizeof(T);
  // Times 255; of words, as many as fit into int32 anyhow.
  static constexpr int64_t kMaxTaps = kBits == 8 ? 257 : int64_t{1} << 62;

  static Elements Load(const uint8_t* from) {
    Elements elements;
    std::memcpy(&elements, from, sizeof(elements));
    return elements;
  }
  void Add(const uint8_t* from, const Elements& f) {
    Elements x = Load(from);
    asm("" : "+v"(x));
    const Elements larger = x > f ? x : f;
    const Elements smaller = x < f ? x : f;
    const Sums distances = (Sums)((Distances)larger - (Distances)smaller);
    all += distances;
    odd += distances >> kBits;
  }
  void Store(int32_t* totals, bool add) const {
    using Register = typename BitsOf<kBytes>::type;
    const Sums even = all - (odd << kBits);
    if constexpr (kBits == 8) {
      StoreWordsInOrder(totals, (Register)even, (Register)odd, add);
    } else {
      StoreIntsInOrder(totals, (Register)even, (Register)odd, add);
    }
  }

  Sums all = {}, odd = {};
};

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_DEPTHWISE_SUMS_X86_H_
