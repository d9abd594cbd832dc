#include <arm_neon.h>

#include <cstring>
#include <type_traits>

#include "core/kernels/depthwise_sums.h"
#include "core/kernels/integer_sums.h"
#include "core/kernels/run_outputs.h"

namespace keras_adder {
namespace {

inline void StoreTotals(int32_t* totals, int32x4_t sums, bool add) {
  vst1q_s32(totals, add ? vaddq_s32(sums, vld1q_s32(totals)) : sums);
}

inline void StoreTotals(int32_t* totals, uint16x8_t sums, bool add) {
  StoreTotals(totals, vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(sums))),
              add);
  StoreTotals(totals + 4, vreinterpretq_s32_u32(vmovl_high_u16(sums)), add);
}

// Bytes, one of a lane at once, by one instruction that takes the distance and
// adds it up.
struct BytesForm {
  using Vector = uint16x8_t;
  static constexpr int kMaxSourcesOf[kMaxPanels] = {8};
  static constexpr int kStepElements = 1;
  static constexpr bool kMaxima = false;
  static constexpr int kOutputs = 1;
  static constexpr int kVectors = 2;
  static constexpr int kFilterBytes = 16;
  static constexpr int64_t kMaxSteps = 257;  // times 255 fits into a word
  static constexpr int PositionOf(int lane) { return lane; }

  struct Filters {
    explicit Filters(const uint8_t* from) : all(vld1q_u8(from)) {}
    uint8x8_t operator[](int v) const {
      return v == 0 ? vget_low_u8(all) : vget_high_u8(all);
    }
    uint8x16_t all;
  };
  static Vector Zero() { return vdupq_n_u16(0); }
  static uint8x8_t Broadcast(const uint8_t* x) { return vld1_dup_u8(x); }
  static Vector Add(Vector sum, uint8x8_t x, uint8x8_t f) {
    return vabal_u8(sum, f, x);
  }
  static void Flush(const Vector* sums, int32_t* totals, bool add) {
    for (int v = 0; v < kVectors; ++v) {
      StoreTotals(totals + 8 * v, sums[v], add);
    }
  }
};

// Words, one of a lane at once, in the same way.
struct WordsForm {
  using Vector = int32x4_t;
  static constexpr int kMaxSourcesOf[kMaxPanels] = {4};
  static constexpr int kStepElements = 1;
  static constexpr bool kMaxima = false;
  static constexpr int kOutputs = 1;
  static constexpr int kVectors = 4;
  static constexpr int kFilterBytes = 32;
  static constexpr int64_t kMaxSteps = int64_t{1} << 62;
  static constexpr int PositionOf(int lane) { return lane; }

  struct Filters {
    explicit Filters(const uint8_t* from)
        : words(reinterpret_cast<const int16_t*>(from)) {}
    int16x4_t operator[](int v) const { return vld1_s16(words + 4 * v); }
    const int16_t* words;
  };
  static Vector Zero() { return vdupq_n_s32(0); }
  static int16x4_t Broadcast(const uint8_t* x) {
    return vld1_dup_s16(reinterpret_cast<const int16_t*>(x));
  }
  static Vector Add(Vector sum, int16x4_t x, int16x4_t f) {
    return vabal_s16(sum, f, x);
  }
  static void Flush(const Vector* sums, int32_t* totals, bool add) {
    for (int v = 0; v < kVectors; ++v) {
      StoreTotals(totals + 4 * v, sums[v], add);
    }
  }
};

// The same by channel (depthwise_sums.h): the lower and the upper half of 16
// bytes, or of eight words.
inline uint16x8_t AddLow(uint16x8_t sum, uint8x16_t x, uint8x16_t f) {
  return vabal_u8(sum, vget_low_u8(x), vget_low_u8(f));
}
inline uint16x8_t AddHigh(uint16x8_t sum, uint8x16_t x, uint8x16_t f) {
  return vabal_high_u8(sum, x, f);
}
inline int32x4_t AddLow(int32x4_t sum, int16x8_t x, int16x8_t f) {
  return vabal_s16(sum, vget_low_s16(x), vget_low_s16(f));
}
inline int32x4_t AddHigh(int32x4_t sum, int16x8_t x, int16x8_t f) {
  return vabal_high_s16(sum, x, f);
}

template <typename T, int kBytes>
struct Distances {
  static constexpr bool kAreBytes = sizeof(T) == 1;
  using Elements = std::conditional_t<kAreBytes, uint8x16_t, int16x8_t>;
  using Sums = std::conditional_t<kAreBytes, uint16x8_t, int32x4_t>;
  static constexpr int kElements = kBytes / sizeof(T);
  static constexpr int kElementBytes = sizeof(T);
  static constexpr int64_t kMaxTaps = kAreBytes ? 257 : int64_t{1} << 62;
  static_assert(kBytes == sizeof(Elements));

  static Elements Load(const uint8_t* from) {
    Elements elements;
    std::memcpy(&elements, from, sizeof(elements));
    return elements;
  }
  void Add(const uint8_t* from, const Elements& f) {
    const Elements x = Load(from);
    low = AddLow(low, x, f);
    high = AddHigh(high, x, f);
  }
  void Store(int32_t* totals, bool add) const {
    StoreTotals(totals, low, add);
    StoreTotals(totals + kElements / 2, high, add);
  }

  Sums low = {}, high = {};
};

constexpr FusedKernels Make() {
  FusedKernels kernels = MakeFusedKernels();
  FillRunOutputs(&kernels);
  kernels.depthwise_bytes = &SumDepthwise<Distances, uint8_t, 16>;
  kernels.depthwise_words = &SumDepthwise<Distances, int16_t, 16>;
  kernels.bytes = MakeSums<BytesForm>();
  kernels.words = MakeSums<WordsForm>();
  return kernels;
}

}  // namespace

const FusedKernels kFusedNeon = Make();

}  // namespace keras_adder
