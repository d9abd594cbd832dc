// Elements of tensors: 16 bits or 32 in memory, float in registers.
//
// The type of a tensor is a value and not a template parameter: arithmetic is
// in float whatever the type, loading and storing are a hundredth of the work,
// and every kernel that is not instantiated is one that need not be compiled
// for five architectures.

#ifndef KERAS_ADDER_CUDA_ELEMENT_H_
#define KERAS_ADDER_CUDA_ELEMENT_H_

#include <cstdint>
#include <cstring>

#include "cuda/keras_adder_cuda.h"

#ifdef __CUDACC__
#define KERAS_ADDER_HD __host__ __device__ __forceinline__
#define KERAS_ADDER_UNROLL _Pragma("unroll")
#define KERAS_ADDER_ROLLED _Pragma("unroll 1")
#else
#define KERAS_ADDER_HD inline
#define KERAS_ADDER_UNROLL
#define KERAS_ADDER_ROLLED
#endif

namespace keras_adder {
namespace cuda {

KERAS_ADDER_HD float AsFloat(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
#endif
}

KERAS_ADDER_HD uint32_t AsBits(float value) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(value);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
#endif
}

KERAS_ADDER_HD float HalfToFloat(uint32_t bits) {
#ifdef __CUDA_ARCH__
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(static_cast<uint16_t>(bits)));
  return value;
#else
  const uint32_t sign = (bits & 0x8000) << 16;
  const uint32_t magnitude = bits & 0x7fff;
  if (magnitude >= 0x7c00) {  // infinite, or NaN
    return AsFloat(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  }
  // A float with half's bits is 2^112 too small, subnormal or not.
  return AsFloat(sign | AsBits(AsFloat(magnitude << 13) * 0x1p112f));
#endif
}

KERAS_ADDER_HD uint32_t FloatToHalf(float value) {
#ifdef __CUDA_ARCH__
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#else
  const uint32_t bits = AsBits(value);
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 rounds to 2^16
  if (magnitude < 0x38800000) {
    // Subnormal: adding 0.5 leaves multiples of 2^-24 in the last bits.
    return sign | (AsBits(AsFloat(magnitude) + 0.5f) - AsBits(0.5f));
  }
  const uint32_t odd = magnitude >> 13 & 1;
  return sign | (magnitude - 0x38000000 + 0xfff + odd) >> 13;
#endif
}

KERAS_ADDER_HD uint32_t FloatToBFloat16(float value) {
  const uint32_t bits = AsBits(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return bits >> 16 | 0x40;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// The float that some bits are, in a type other than float64.
KERAS_ADDER_HD float ToFloat(uint32_t bits, int32_t type) {
  if (type == KERAS_ADDER_FLOAT32) return AsFloat(bits);
  if (type == KERAS_ADDER_FLOAT16) return HalfToFloat(bits);
  return AsFloat(bits << 16);
}

KERAS_ADDER_HD uint32_t LoadBits(const void* data, int32_t type,
                                 int64_t index) {
  if (type == KERAS_ADDER_FLOAT32) {
    return static_cast<const uint32_t*>(data)[index];
  }
  return static_cast<const uint16_t*>(data)[index];
}

KERAS_ADDER_HD void StoreFloat(void* data, int32_t type, int64_t index,
                               float value) {
  if (type == KERAS_ADDER_FLOAT32) {
    // As what it is loaded as: no compiler may think that they do not overlap.
    static_cast<uint32_t*>(data)[index] = AsBits(value);
  } else {
    static_cast<uint16_t*>(data)[index] = static_cast<uint16_t>(
        type == KERAS_ADDER_FLOAT16 ? FloatToHalf(value)
                                    : FloatToBFloat16(value));
  }
}

// Elements as numbers of the type that sums are in: double for float64, and
// float for the others.
template <typename Sum>
struct Elements;
template <>
struct Elements<float> {
  static KERAS_ADDER_HD float Load(const void* data, int32_t type,
                                   int64_t index) {
    return ToFloat(LoadBits(data, type, index), type);
  }
  static KERAS_ADDER_HD void Store(void* data, int32_t type, int64_t index,
                                   double value) {
    StoreFloat(data, type, index, static_cast<float>(value));
  }
};
template <>
struct Elements<double> {
  static KERAS_ADDER_HD double Load(const void* data, int32_t, int64_t index) {
    return static_cast<const double*>(data)[index];
  }
  static KERAS_ADDER_HD void Store(void* data, int32_t, int64_t index,
                                   double value) {
    static_cast<double*>(data)[index] = value;
  }
};

// clip(difference, -1, 1), of a NaN the NaN.
KERAS_ADDER_HD float HardTanh(float difference) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("max.NaN.f32 %0, %0, 0fBF800000;" : "+f"(difference));
  asm("min.NaN.f32 %0, %0, 0f3F800000;" : "+f"(difference));
  return difference;
#else
  difference = difference < -1.0f ? -1.0f : difference;
  return difference > 1.0f ? 1.0f : difference;
#endif
}

KERAS_ADDER_HD double HardTanh(double difference) {
  difference = difference < -1.0 ? -1.0 : difference;
  return difference > 1.0 ? 1.0 : difference;
}

// The sign of a difference, of a NaN the NaN.
template <typename Number>
KERAS_ADDER_HD Number Sign(Number difference) {
  if (difference > 0) return 1;
  return difference < 0 ? Number(-1) : difference;
}

}  // namespace cuda
}  // namespace keras_adder

#endif  // KERAS_ADDER_CUDA_ELEMENT_H_
