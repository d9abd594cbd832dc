// Element types of tensors, and the type each is computed in.

#ifndef KERAS_ADDER_CORE_DTYPE_H_
#define KERAS_ADDER_CORE_DTYPE_H_

#include <cstdint>

namespace keras_adder {

// IEEE 754 binary16 and bfloat16, as bits: the conversions live with the
// kernels, which have instructions for them on most machines.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// Of the elements of a tensor. The values are those of keras_adder.h.
enum class DataType { kFloat16, kBFloat16, kFloat32, kFloat64 };

template <typename T>
constexpr DataType DataTypeOf();
template <>
constexpr DataType DataTypeOf<Half>() {
  return DataType::kFloat16;
}
template <>
constexpr DataType DataTypeOf<BFloat16>() {
  return DataType::kBFloat16;
}
template <>
constexpr DataType DataTypeOf<float>() {
  return DataType::kFloat32;
}
template <>
constexpr DataType DataTypeOf<double>() {
  return DataType::kFloat64;
}

// In bytes.
constexpr int64_t SizeOf(DataType type) {
  return type == DataType::kFloat64 ? 8 : type == DataType::kFloat32 ? 4 : 2;
}

// Half and bfloat16 are read into, accumulated in and written from float.
template <typename T>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};

}  // namespace keras_adder

// The list of types of inputs and of outputs that there are: X(input, output).
#define KERAS_ADDER_FOR_EACH_TYPES(X) \
  X(Half, Half);                      \
  X(Half, float);                     \
  X(BFloat16, BFloat16);              \
  X(BFloat16, float);                 \
  X(float, float);                    \
  X(double, double)

#endif  // KERAS_ADDER_CORE_DTYPE_H_
