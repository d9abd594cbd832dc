#include "core/kernels/fused_outputs.h"
#include "core/kernels/sums_x86.h"

namespace keras_adder {
namespace {

// Even and odd filters of a step, four bytes each, twice: for outputs 0 and 1,
// and for outputs 2 and 3.
struct DoubledFilters {
  DoubledFilters() = default;
  explicit DoubledFilters(const uint8_t* from) {
    const __m512 all = _mm512_loadu_ps(from);
    even = _mm512_castps_si512(_mm512_moveldup_ps(all));
    odd = _mm512_castps_si512(_mm512_movehdup_ps(all));
  }
  __m512i operator[](int v) const { return v == 0 ? even : odd; }

  __m512i even, odd;
};

// Bytes, four columns of taps of a channel for four outputs at once.
template <WordAddition kAddition>
struct SlidingForm : SourcesOf<8> {
  using Vector = __m512i;
  using Filters = DoubledFilters;
  static constexpr int kStepElements = kSlidingTaps;
  static constexpr bool kMaxima = false;
  static constexpr int kOutputs = kSlidingOutputs;
  static constexpr int kVectors = 2;
  static constexpr int kFilterBytes = 64;
  // A step adds 4 * 255 at most to a word.
  static constexpr int64_t kMaxSteps = 64;
  static constexpr int PositionOf(int lane) { return lane; }

  static __m512i Zero() { return __m512i{}; }
  static __m512i Broadcast(const uint8_t* x) { return BroadcastWide(x); }
  static __m512i Add(__m512i sum, __m512i x, __m512i f) {
    if constexpr (kAddition == WordAddition::kPlain) {
      KERAS_ADDER_ADD_STEP(sum, x, f, "vdbpsadbw $0xE4,", "vpaddw");
    } else {
      KERAS_ADDER_ADD_STEP(sum, x, f, "vdbpsadbw $0xE4,", "vpaddusw");
    }
    return sum;
  }
  // Words are [filter][output], of even filters and of odd ones.
  static void Flush(const __m512i* sums, int32_t* totals, bool add) {
    const __m512i low = _mm512_set1_epi64(0xffff);
    const __m512i high = _mm512_set1_epi64(0xffffll << 32);
    const __m512i even = sums[0], odd = sums[1];
    const __m512i odd_output = _mm512_srli_epi64(odd, 16);
    const __m512i even_output = _mm512_srli_epi64(even, 16);
    StoreTotals(totals,
                Or(_mm512_and_si512(even, low),
                   UpperHalves(_mm512_and_si512(odd, low))),
                add);
    StoreTotals(totals + 16,
                Or(_mm512_and_si512(even_output, low),
                   UpperHalves(_mm512_and_si512(odd_output, low))),
                add);
    StoreTotals(totals + 32,
                Or(_mm512_and_si512(_mm512_srli_epi64(even, 32), low),
                   _mm512_and_si512(odd, high)),
                add);
    StoreTotals(
        totals + 48,
        Or(_mm512_srli_epi64(even, 48), _mm512_and_si512(odd_output, high)),
        add);
  }
};

// The sums of eight pixels of 16 bytes each, which follow each other.
inline void SumEightPixels(const uint8_t* pixels, int32_t* sums) {
  const __m512i zero = _mm512_setzero_si512();
  const __m512i first = _mm512_sad_epu8(LoadRegister(pixels), zero);
  const __m512i last = _mm512_sad_epu8(LoadRegister(pixels + 64), zero);
  // Pixels 0, 4, 1, 5, 2, 6, 3, 7.
  const __m512i mixed = _mm512_add_epi64(_mm512_unpacklo_epi64(first, last),
                                         _mm512_unpackhi_epi64(first, last));
  const __m256i order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
  _mm256_storeu_si256(
      reinterpret_cast<__m256i*>(sums),
      _mm256_permutevar8x32_epi32(_mm512_cvtepi64_epi32(mixed), order));
}

// Few channels, as first stages have them, are many pixels.
void SumFewBytes(const uint8_t* pixels, int64_t count, ptrdiff_t stride,
                 int64_t channels, int32_t* sums) {
  int64_t i = 0;
  if (channels == 16 && stride == 16) {
    for (; i + 8 <= count; i += 8) SumEightPixels(pixels + i * 16, sums + i);
  }
  SumBytes(pixels + i * stride, count - i, stride, channels, sums + i);
}

constexpr FusedKernels Make() {
  FusedKernels kernels = MakeFusedKernels();
  kernels.sliding = MakeSums<SlidingForm<WordAddition::kPlain>>();
  kernels.bytes = MakeSums<SadForm<SourcesOf<10, 6>>>();
  kernels.words = MakeSums<MaxWordsForm<SourcesOf<12, 12, 8, 6>>>();
  kernels.transpose_bytes = &TransposeBytes;
  kernels.sum_bytes = &SumFewBytes;
  return kernels;
}

}  // namespace

const FusedKernels kFusedAvx512 = Make();
const IntegerSums kSaturatingSliding =
    MakeSums<SlidingForm<WordAddition::kSaturating>>();
const IntegerSums kSaturatingBytes =
    MakeSums<SadForm<SourcesOf<10, 6>, WordAddition::kSaturating>>();

}  // namespace keras_adder
