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

// A register of integers, which the compiler's operators take for lanes of 64
// bits, and for lanes of 32 bits that wrap around.
typedef long long Register __attribute__((vector_size(kVectorBytes)));
typedef uint32_t IntRegister __attribute__((vector_size(kVectorBytes)));

inline Register LoadRegister(const void* from) {
  Register value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// A value in all lanes of its size.
template <typename T>
inline Register Repeat(T value) {
  typedef T Lanes __attribute__((vector_size(kVectorBytes)));
  return (Register)(Lanes{} + value);
}

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

inline Register AddInts(Register a, Register b) {
  return (Register)((IntRegister)a + (IntRegister)b);
}

inline void StoreTotals(int32_t* totals, Register sums, bool add) {
  if (add) sums = AddInts(sums, LoadRegister(totals));
  std::memcpy(totals, &sums, sizeof(sums));
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
  static Register Broadcast(const uint8_t* x) {
    return Repeat(LoadOne<long long>(x));
  }
  static Register Add(Register sum, Register x, Register f) {
#if defined(__AVX2__)
    if constexpr (kAddition == WordAddition::kPlain) {
      KERAS_ADDER_ADD_STEP(sum, x, f, "vpsadbw", "vpaddw");
    } else {
      KERAS_ADDER_ADD_STEP(sum, x, f, "vpsadbw", "vpaddusw");
    }
    return sum;
#else
    return (Register)_mm_add_epi16((__m128i)sum,
                                   _mm_sad_epu8((__m128i)f, (__m128i)x));
#endif
  }
  static void Flush(const Register* sums, int32_t* totals, bool add) {
    for (int v = 0; v < kVectors; v += 2) {
      StoreTotals(totals + v * kWideLanes, sums[v] | sums[v + 1] << 32, add);
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
  static Register Broadcast(const uint8_t* x) {
    return Repeat(LoadOne<int32_t>(x));
  }
  static Register Add(Register sum, Register x, Register f) {
    const Register ones = Repeat<int8_t>(1);
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
  static Register Broadcast(const uint8_t* x) {
    return Repeat(LoadOne<int32_t>(x));
  }
  static Register Add(Register sum, Register x, Register f) {
    const Register ones = Repeat<int16_t>(1);
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
    const __m128i maxima = _mm_max_epi16((__m128i)f, (__m128i)x);
    return AddInts(sum, (Register)_mm_madd_epi16(maxima, (__m128i)ones));
#endif
  }
  static void Flush(const Register* sums, int32_t* totals, bool add) {
    for (int v = 0; v < kVectors; ++v) {
      StoreTotals(totals + v * kIntLanes, sums[v], add);
    }
  }
};

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_SUMS_X86_H_
