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

// Calls X for the types of inputs and of outputs that there are.
#define KERAS_ADDER_FOR_EACH_TYPES(X) \
  X(Half, Half);                      \
  X(Half, float);                     \
  X(BFloat16, BFloat16);              \
  X(BFloat16, float);                 \
  X(float, float);                    \
  X(double, double)

#endif  // KERAS_ADDER_CORE_DTYPE_H_
