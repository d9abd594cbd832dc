// Ways to sum integer distances that x86-64 has in every vector width, with one
// instruction for eight bytes (psadbw) or for two words (pmaddwd). To be
// included by the files of an instruction set alone (see vector.h).

#ifndef KERAS_ADDER_CORE_KERNELS_SUMS_X86_H_
#define KERAS_ADDER_CORE_KERNELS_SUMS_X86_H_

#include <cstdint>
#include <cstring>

#include "core/kernels/integer_sums.h"
#include "core/kernels/vector.h"

namespace keras_adder {
namespace {

template <typename T>
inline T LoadOne(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// A register of integers, and the instructions that forms are made of.
#if defined(__AVX512F__)
using Register = __m512i;
inline Register LoadRegister(const void* p) { return _mm512_loadu_si512(p); }
inline void StoreRegister(void* p, Register v) { _mm512_storeu_si512(p, v); }
inline Register BroadcastWide(const uint8_t* p) {
  return _mm512_set1_epi64(LoadOne<int64_t>(p));
}
inline Register BroadcastPair(const uint8_t* p) {
  return _mm512_set1_epi32(LoadOne<int32_t>(p));
}
inline Register AddInts(Register a, Register b) {
  return _mm512_add_epi32(a, b);
}
inline Register Ones() { return _mm512_set1_epi16(1); }
inline Register UpperHalves(Register v) { return _mm512_slli_epi64(v, 32); }
inline Register Or(Register a, Register b) { return _mm512_or_si512(a, b); }
#elif defined(__AVX2__)
using Register = __m256i;
inline Register LoadRegister(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
inline void StoreRegister(void* p, Register v) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), v);
}
inline Register BroadcastWide(const uint8_t* p) {
  return _mm256_set1_epi64x(LoadOne<int64_t>(p));
}
inline Register BroadcastPair(const uint8_t* p) {
  return _mm256_set1_epi32(LoadOne<int32_t>(p));
}
inline Register AddInts(Register a, Register b) {
  return _mm256_add_epi32(a, b);
}
inline Register Ones() { return _mm256_set1_epi16(1); }
inline Register UpperHalves(Register v) { return _mm256_slli_epi64(v, 32); }
inline Register Or(Register a, Register b) { return _mm256_or_si256(a, b); }
#else
using Register = __m128i;
inline Register LoadRegister(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
inline void StoreRegister(void* p, Register v) {
  _mm_storeu_si128(static_cast<__m128i*>(p), v);
}
inline Register BroadcastWide(const uint8_t* p) {
  return _mm_set1_epi64x(LoadOne<int64_t>(p));
}
inline Register BroadcastPair(const uint8_t* p) {
  return _mm_set1_epi32(LoadOne<int32_t>(p));
}
inline Register AddInts(Register a, Register b) { return _mm_add_epi32(a, b); }
inline Register Ones() { return _mm_set1_epi16(1); }
inline Register UpperHalves(Register v) { return _mm_slli_epi64(v, 32); }
inline Register Or(Register a, Register b) { return _mm_or_si128(a, b); }
#endif

// sum + step(f, x), as the two or three instructions that it is: GCC 12 would
// keep old and new sums apart in its loops, and run out of registers.
#if defined(__AVX2__)
#define KERAS_ADDER_ADD_STEP(sum, x, f, step, add)             \
  Register keras_adder_step;                                   \
  asm(step " %[x], %[f], %[t]\n\t" add " %[t], %[sum], %[sum]" \
      : [sum] "+v"(sum), [t] "=&v"(keras_adder_step)           \
      : [x] "v"(x), [f] "v"(f))
#endif

// How sums of words are added up. Both are right, since no sum ever is too
// large; they differ in the ports that they run on. AMD's processors (Zen 4)
// take distances on one that saturating additions need, too; Intel's (Emerald
// Rapids) on one that they alone of all additions do not take.
enum class WordAddition { kPlain, kSaturating };

// Lanes of 64 bits, and of 32 bits, in a register.
constexpr int kWideLanes = sizeof(Register) / 8;
constexpr int kIntLanes = sizeof(Register) / 4;

inline void StoreTotals(int32_t* totals, Register sums, bool add) {
  StoreRegister(totals, add ? AddInts(sums, LoadRegister(totals)) : sums);
}

// Registers of filters, one behind the other.
struct FilterRegisters {
  FilterRegisters() = default;
  explicit FilterRegisters(const uint8_t* from) : from_(from) {}
  Register operator[](int v) const {
    return LoadRegister(from_ + v * sizeof(Register));
  }

 private:
  const uint8_t* from_;
};

// How many sources a form takes with one panel, two and so on.
template <int... kSources>
struct SourcesOf {
  static constexpr int kMaxSourcesOf[kMaxPanels] = {kSources...};
};

// Bytes, eight of a lane at once.
template <typename Sources, WordAddition kAddition = WordAddition::kPlain>
struct SadForm : Sources {
  using Vector = Register;
  using Filters = FilterRegisters;
  static constexpr int kStepElements = 8;
  static constexpr bool kMaxima = false;
  static constexpr int kOutputs = 1;
  static constexpr int kVectors = 16 / kWideLanes;
  static constexpr int kFilterBytes = 16 * 8;
  // A step adds 8 * 255 at most to a word.
  static constexpr int64_t kMaxSteps = 32;
  static constexpr int PositionOf(int lane) {
    return InterleavedPosition(lane, kWideLanes);
  }

  static Register Zero() { return Register{}; }
  static Register Broadcast(const uint8_t* x) { return BroadcastWide(x); }
  static Register Add(Register sum, Register x, Register f) {
#if defined(__AVX2__)
    if constexpr (kAddition == WordAddition::kPlain) {
      KERAS_ADDER_ADD_STEP(sum, x, f, "vpsadbw", "vpaddw");
    } else {
      KERAS_ADDER_ADD_STEP(sum, x, f, "vpsadbw", "vpaddusw");
    }
    return sum;
#else
    return _mm_add_epi16(sum, _mm_sad_epu8(f, x));
#endif
  }
  static void Flush(const Register* sums, int32_t* totals, bool add) {
    for (int v = 0; v < kVectors; v += 2) {
      StoreTotals(totals + v * kWideLanes,
                  Or(sums[v], UpperHalves(sums[v + 1])), add);
    }
  }
};

#if defined(__AVX512VNNI__)
// Bytes, four of a lane at once, by an instruction that multiplies them by one
// and adds them up.
template <typename Sources>
struct MaxBytesForm : Sources {
  using Vector = Register;
  using Filters = FilterRegisters;
  static constexpr int kStepElements = 4;
  static constexpr bool kMaxima = true;
  static constexpr int kOutputs = 1;
  static constexpr int kVectors = 1;
  static constexpr int kFilterBytes = 16 * 4;
  static constexpr int64_t kMaxSteps = int64_t{1} << 62;  // they wrap around
  static constexpr int PositionOf(int lane) { return lane; }

  static Register Zero() { return Register{}; }
  static Register Broadcast(const uint8_t* x) { return BroadcastPair(x); }
  static Register Add(Register sum, Register x, Register f) {
    const Register ones = _mm512_set1_epi8(1);
    Register maxima;
    asm("vpmaxub %[x], %[f], %[t]\n\tvpdpbusd %[ones], %[t], %[sum]"
        : [sum] "+v"(sum), [t] "=&v"(maxima)
        : [x] "v"(x), [f] "v"(f), [ones] "v"(ones));
    return sum;
  }
  static void Flush(const Register* sums, int32_t* totals, bool add) {
    StoreTotals(totals, sums[0], add);
  }
};
#endif

// Words, two of a lane at once; maxima, since the distance of two words does
// not fit into a signed one.
template <typename Sources>
struct MaxWordsForm : Sources {
  using Vector = Register;
  using Filters = FilterRegisters;
  static constexpr int kStepElements = 2;
  static constexpr bool kMaxima = true;
  static constexpr int kOutputs = 1;
  static constexpr int kVectors = 16 / kIntLanes;
  static constexpr int kFilterBytes = 16 * 4;
  static constexpr int64_t kMaxSteps = int64_t{1} << 62;  // they wrap around
  static constexpr int PositionOf(int lane) { return lane; }

  static Register Zero() { return Register{}; }
  static Register Broadcast(const uint8_t* x) { return BroadcastPair(x); }
  static Register Add(Register sum, Register x, Register f) {
    const Register ones = Ones();
#if defined(__AVX512VNNI__)
    Register maxima;
    asm("vpmaxsw %[x], %[f], %[t]\n\tvpdpwssd %[ones], %[t], %[sum]"
        : [sum] "+v"(sum), [t] "=&v"(maxima)
        : [x] "v"(x), [f] "v"(f), [ones] "v"(ones));
    return sum;
#elif defined(__AVX2__)
    Register maxima;
    asm("vpmaxsw %[x], %[f], %[t]\n\tvpmaddwd %[ones], %[t], %[t]\n\t"
        "vpaddd %[t], %[sum], %[sum]"
        : [sum] "+v"(sum), [t] "=&v"(maxima)
        : [x] "v"(x), [f] "v"(f), [ones] "v"(ones));
    return sum;
#else
    return AddInts(sum, _mm_madd_epi16(_mm_max_epi16(f, x), ones));
#endif
  }
  static void Flush(const Register* sums, int32_t* totals, bool add) {
    for (int v = 0; v < kVectors; ++v) {
      StoreTotals(totals + v * kIntLanes, sums[v], add);
    }
  }
};

// Transposes eight rows of 16 bytes, of which there are `rows`; others are
// `padding`.
inline void TransposeBlock(const uint8_t* source, int64_t rows,
                           ptrdiff_t source_stride, uint8_t* result,
                           ptrdiff_t result_stride, __m128i padding) {
  __m128i line[8];
  for (int64_t i = 0; i < 8; ++i) {
    line[i] = i < rows ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(
                             source + i * source_stride))
                       : padding;
  }
  __m128i words[8], ints[8];
  for (int i = 0; i < 4; ++i) {  // rows i and i + 4
    words[2 * i] = _mm_unpacklo_epi8(line[i], line[i + 4]);
    words[2 * i + 1] = _mm_unpackhi_epi8(line[i], line[i + 4]);
  }
  // words[2 * i + half] has rows (i, i + 4) of columns of that half.
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < 2; ++i) {  // rows (i, i + 2, i + 4, i + 6)
      const __m128i a = words[2 * i + half], b = words[2 * (i + 2) + half];
      ints[4 * half + i] = _mm_unpacklo_epi8(a, b);
      ints[4 * half + 2 + i] = _mm_unpackhi_epi8(a, b);
    }
  }
  for (int quarter = 0; quarter < 4; ++quarter) {
    const int at = 4 * (quarter / 2) + 2 * (quarter % 2);
    const __m128i low = _mm_unpacklo_epi8(ints[at], ints[at + 1]);
    const __m128i high = _mm_unpackhi_epi8(ints[at], ints[at + 1]);
    uint8_t* to = result + 4 * quarter * result_stride;
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), low);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to + result_stride),
                     _mm_unpackhi_epi64(low, low));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to + 2 * result_stride), high);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to + 3 * result_stride),
                     _mm_unpackhi_epi64(high, high));
  }
}

// See FusedKernels::sum_bytes.
inline void SumBytes(const uint8_t* pixels, int64_t count, ptrdiff_t stride,
                     int64_t channels, int32_t* sums) {
  for (int64_t i = 0; i < count; ++i, pixels += stride) {
    __m128i total = _mm_setzero_si128();
    int64_t c = 0;
    for (; c + 16 <= channels; c += 16) {
      total = _mm_add_epi64(
          total, _mm_sad_epu8(_mm_loadu_si128(
                                  reinterpret_cast<const __m128i*>(pixels + c)),
                              _mm_setzero_si128()));
    }
    int32_t sum = _mm_cvtsi128_si32(
        _mm_add_epi64(total, _mm_unpackhi_epi64(total, total)));
    for (; c < channels; ++c) sum += pixels[c];
    sums[i] = sum;
  }
}

// See FusedKernels::transpose_bytes.
inline void TransposeBytes(const uint8_t* source, int64_t rows, int64_t columns,
                           ptrdiff_t source_stride, uint8_t* result,
                           ptrdiff_t result_stride, uint8_t padding) {
  const __m128i paddings = _mm_set1_epi8(static_cast<char>(padding));
  for (int64_t row = 0; row < rows; row += 8) {
    const int64_t some = rows - row < 8 ? rows - row : 8;
    int64_t column = 0;
    for (; column + 16 <= columns; column += 16) {
      TransposeBlock(source + row * source_stride + column, some, source_stride,
                     result + column * result_stride + row, result_stride,
                     paddings);
    }
    for (; column < columns; ++column) {
      for (int64_t i = 0; i < some; ++i) {
        result[column * result_stride + row + i] =
            source[(row + i) * source_stride + column];
      }
    }
  }
}

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_SUMS_X86_H_
