// What tiles of bytes need besides sums of distances (fused_kernels.h): to be
// transposed for sliding sums, and added up. To be included by the file of
// AVX-512 alone (see vector.h).

#ifndef KERAS_ADDER_CORE_KERNELS_BYTE_TILES_AVX512_H_
#define KERAS_ADDER_CORE_KERNELS_BYTE_TILES_AVX512_H_

#include <cstddef>
#include <cstdint>

#include "core/kernels/vector.h"

namespace keras_adder {
namespace {

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

// See FusedKernels::add_rows.
inline void AddRows(const uint8_t* rows, int64_t count, ptrdiff_t stride,
                    int64_t columns, int32_t* sums) {
  constexpr int64_t kFit = 257;  // bytes to 16 bits
  for (; count > 0; count -= kFit, rows += kFit * stride) {
    const int64_t some = count < kFit ? count : kFit;
    for (int64_t first = 0; first < columns; first += 64) {
      const int64_t width = columns - first < 64 ? columns - first : 64;
      uint16_t part[64] = {};
      for (int64_t row = 0; row < some; ++row) {
        const uint8_t* from = rows + row * stride + first;
        for (int64_t i = 0; i < width; ++i) part[i] += from[i];
      }
      for (int64_t i = 0; i < width; ++i) sums[first + i] += part[i];
    }
  }
}

inline int32_t SumOfPixel(const uint8_t* pixel, int64_t channels) {
  __m128i total = _mm_setzero_si128();
  int64_t c = 0;
  for (; c + 16 <= channels; c += 16) {
    const auto* bytes = reinterpret_cast<const __m128i*>(pixel + c);
    total = _mm_add_epi64(
        total, _mm_sad_epu8(_mm_loadu_si128(bytes), _mm_setzero_si128()));
  }
  int32_t sum =
      _mm_cvtsi128_si32(_mm_add_epi64(total, _mm_unpackhi_epi64(total, total)));
  for (; c < channels; ++c) sum += pixel[c];
  return sum;
}

// The sums of eight pixels of 16 bytes each, which follow each other.
inline void SumEightPixels(const uint8_t* pixels, int32_t* sums) {
  const __m512i zero = _mm512_setzero_si512();
  const __m512i first = _mm512_sad_epu8(_mm512_loadu_si512(pixels), zero);
  const __m512i last = _mm512_sad_epu8(_mm512_loadu_si512(pixels + 64), zero);
  // Pixels 0, 4, 1, 5, 2, 6, 3, 7.
  const __m512i mixed = _mm512_add_epi64(_mm512_unpacklo_epi64(first, last),
                                         _mm512_unpackhi_epi64(first, last));
  const __m256i order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
  _mm256_storeu_si256(
      reinterpret_cast<__m256i*>(sums),
      _mm256_permutevar8x32_epi32(_mm512_cvtepi64_epi32(mixed), order));
}

// See FusedKernels::sum_bytes. Few channels, as first stages have them, are
// many pixels.
inline void SumBytes(const uint8_t* pixels, int64_t count, ptrdiff_t stride,
                     int64_t channels, int32_t* sums) {
  int64_t i = 0;
  if (channels == 16 && stride == 16) {
    for (; i + 8 <= count; i += 8) SumEightPixels(pixels + i * 16, sums + i);
  }
  for (; i < count; ++i) sums[i] = SumOfPixel(pixels + i * stride, channels);
}

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_BYTE_TILES_AVX512_H_
