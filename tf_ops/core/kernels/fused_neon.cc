#include <arm_neon.h>

#include "core/kernels/integer_sums.h"
#include "core/kernels/run_outputs.h"

namespace keras_adder {
namespace {

inline void StoreTotals(int32_t* totals, int32x4_t sums, bool add) {
  vst1q_s32(totals, add ? vaddq_s32(sums, vld1q_s32(totals)) : sums);
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
      StoreTotals(totals + 8 * v,
                  vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(sums[v]))), add);
      StoreTotals(totals + 8 * v + 4,
                  vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(sums[v]))),
                  add);
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

constexpr FusedKernels Make() {
  FusedKernels kernels = MakeFusedKernels();
  FillRunOutputs(&kernels);
  kernels.bytes = MakeSums<BytesForm>();
  kernels.words = MakeSums<WordsForm>();
  return kernels;
}

}  // namespace

const FusedKernels kFusedNeon = Make();

}  // namespace keras_adder
