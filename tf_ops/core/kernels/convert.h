// Tensor elements to and from the type they are computed in. To be included by
// the files of this folder only (see vector.h).

#ifndef KERAS_ADDER_CORE_KERNELS_CONVERT_H_
#define KERAS_ADDER_CORE_KERNELS_CONVERT_H_

#include <cstdint>
#include <cstring>

#include "core/dtype.h"

namespace keras_adder {
namespace {

inline uint32_t Bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float Read(float value) { return value; }
inline double Read(double value) { return value; }

inline float Read(BFloat16 value) {
  return FromBits(static_cast<uint32_t>(value.bits) << 16);
}

#if defined(KERAS_ADDER_NEON)

// Unlike other instructions, these never flush denormals to zero.
inline float Read(Half value) {
  __fp16 half;
  std::memcpy(&half, &value.bits, sizeof(half));
  return half;
}

#else

// In integers as far as it goes: hosts flush denormals to zero, and a half's
// denormals are no denormals as floats.
inline float Read(Half value) {
  const uint32_t sign = (value.bits & 0x8000u) << 16;
  const uint32_t magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00) return FromBits(sign | 0x7f800000 | magnitude << 13);
  if (magnitude >= 0x0400) {
    return FromBits(sign | ((magnitude << 13) + (112u << 23)));
  }
  const float tiny = static_cast<float>(magnitude) * 0x1p-24f;
  return FromBits(sign | Bits(tiny));
}

#endif

template <typename T>
T Write(float value);

template <typename T>
inline T Write(double value) {
  return value;
}

template <>
inline float Write<float>(float value) {
  return value;
}

// Rounds to nearest, ties to even; NaN stays NaN.
template <>
inline BFloat16 Write<BFloat16>(float value) {
  const uint32_t bits = Bits(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40;
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  return {static_cast<uint16_t>(nan ? quiet : rounded)};
}

#if defined(KERAS_ADDER_NEON)

template <>
inline Half Write<Half>(float value) {
  const __fp16 half = value;
  uint16_t bits;
  std::memcpy(&bits, &half, sizeof(bits));
  return {bits};
}

#else

template <>
inline Half Write<Half>(float value) {
  const uint32_t bits = Bits(value);
  const uint32_t sign = (bits >> 16) & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  uint32_t half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00;  // NaN
  } else if (magnitude >= 0x47800000) {
    half = 0x7c00;  // 2^16 and more: infinity
  } else if (magnitude < 0x38800000) {
    // Below 2^-14, a denormal half: the sum rounds to multiples of 2^-24.
    half = Bits(FromBits(magnitude) + 0.5f) - Bits(0.5f);
  } else {
    half = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  }
  return {static_cast<uint16_t>(sign | half)};
}

#endif

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_CONVERT_H_
