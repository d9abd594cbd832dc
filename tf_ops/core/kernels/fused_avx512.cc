#include "core/kernels/byte_tiles_avx512.h"
#include "core/kernels/depthwise_sums_x86.h"
#include "core/kernels/run_outputs.h"
#include "core/kernels/sums_x86.h"

namespace keras_adder {
namespace {

// Even and odd filters of a step, four bytes each, twice: for outputs 0 and 1,
// and for outputs 2 and 3.
struct DoubledFilters {
  DoubledFilters() = default;
  explicit DoubledFilters(const uint8_t* from) {
    const __m512 all = _mm512_loadu_ps(from);
    even = (Register)_mm512_moveldup_ps(all);
    odd = (Register)_mm512_movehdup_ps(all);
  }
  Register operator[](int v) const { return v == 0 ? even : odd; }

  Register even, odd;
};

// Bytes, four columns of taps of a channel for four outputs at once.
template <WordAddition kAddition>
struct SlidingForm : SourcesOf<8> {
  using Vector = Register;
  using Filters = DoubledFilters;
  static constexpr int kStepElements = kSlidingTaps;
  static constexpr bool kMaxima = false;
  static constexpr int kOutputs = kSlidingOutputs;
  static constexpr int kVectors = 2;
  static constexpr int kFilterBytes = 64;
  // A step adds 4 * 255 at most to a word.
  static constexpr int64_t kMaxSteps = 64;
  static constexpr int PositionOf(int lane) { return lane; }

  static Register Zero() { return Register{}; }
  static Register Broadcast(const uint8_t* x) {
    return Repeat(LoadOne<long long>(x));
  }
  static Register Add(Register sum, Register x, Register f) {
    if constexpr (kAddition == WordAddition::kPlain) {
      KERAS_ADDER_ADD_STEP(sum, x, f, "vdbpsadbw $0xE4,", "vpaddw");
    } else {
      KERAS_ADDER_ADD_STEP(sum, x, f, "vdbpsadbw $0xE4,", "vpaddusw");
    }
    return sum;
  }
  // Words are [filter][output], of even filters and of odd ones.
  static void Flush(const Register* sums, int32_t* totals, bool add) {
    typedef unsigned long long Words __attribute__((vector_size(64)));
    const Words even = (Words)sums[0], odd = (Words)sums[1];
    for (int i = 0; i < kOutputs; ++i) {
      const Words of_even = even >> 16 * i & 0xffff;
      const Words of_odd = odd >> 16 * i & 0xffff;
      StoreTotals(totals + 16 * i, (Register)(of_even | of_odd << 32), add);
    }
  }
};

constexpr FusedKernels Make() {
  FusedKernels kernels = MakeFusedKernels();
  FillRunOutputs(&kernels);
  kernels.sliding = MakeSums<SlidingForm<WordAddition::kPlain>>();
  kernels.depthwise_bytes = &SumDepthwise<DistanceSums, uint8_t, kVectorBytes>;
  kernels.depthwise_words = &SumDepthwise<DistanceSums, int16_t, kVectorBytes>;
  kernels.bytes = MakeSums<SadForm<SourcesOf<10, 6>>>();
  kernels.words = MakeSums<MaxWordsForm<SourcesOf<12, 12, 8, 6>>>();
  kernels.transpose_bytes = &TransposeBytes;
  kernels.sum_bytes = &SumBytes;
  kernels.add_rows = &AddRows;
  return kernels;
}

}  // namespace

const FusedKernels kFusedAvx512 = Make();
const IntegerSums kSaturatingSliding =
    MakeSums<SlidingForm<WordAddition::kSaturating>>();
const IntegerSums kSaturatingBytes =
    MakeSums<SadForm<SourcesOf<10, 6>, WordAddition::kSaturating>>();

}  // namespace keras_adder
