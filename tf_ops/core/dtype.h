// Element types of tensors, and the type each is computed in.

#ifndef KERAS_ADDER_CORE_DTYPE_H_
#define KERAS_ADDER_CORE_DTYPE_H_

#include <cstdint>
#include <type_traits>

namespace keras_adder {

// IEEE 754 binary16 and bfloat16, as bits: the conversions live with the
// kernels, which have instructions for them on most machines.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <typename... T>
struct TypeList {};
// The types of elements that distances are trained with, and all that a tensor
// may have: integers are those of fused convolutions. In the order of DataType.
using ElementTypes = TypeList<Half, BFloat16, float, double>;
using TensorTypes =
    TypeList<Half, BFloat16, float, double, uint8_t, int16_t, int32_t>;

// The values are those of keras_adder/types.h.
enum class DataType {
  kFloat16,
  kBFloat16,
  kFloat32,
  kFloat64,
  kUint8,
  kInt16,
  kInt32
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

namespace internal {

struct TypeTraits {
  int64_t bytes;
  int64_t compute_bytes;
  bool computed_as_is;
};

template <typename... T>
TypeTraits TraitsOf(DataType type, TypeList<T...>) {
  constexpr TypeTraits all[] = {
      {sizeof(T), sizeof(typename ComputeType<T>::type),
       std::is_same_v<T, typename ComputeType<T>::type>}...};
  return all[static_cast<int>(type)];
}

template <typename Wanted, typename... T>
constexpr DataType TypeIn(TypeList<T...>) {
  int index = 0;
  // Counts the types before the one that is wanted.
  (void)((std::is_same_v<Wanted, T> || (++index, false)) || ...);
  return static_cast<DataType>(index);
}

}  // namespace internal

template <typename T>
constexpr DataType DataTypeOf() {
  return internal::TypeIn<T>(TensorTypes());
}

// Bytes of an element, and of what it is computed in.
inline int64_t SizeOf(DataType type) {
  return internal::TraitsOf(type, TensorTypes()).bytes;
}
inline int64_t ComputeBytes(DataType type) {
  return internal::TraitsOf(type, ElementTypes()).compute_bytes;
}
inline bool IsComputedAsIs(DataType type) {
  return internal::TraitsOf(type, ElementTypes()).computed_as_is;
}

}  // namespace keras_adder

// The list of types of inputs and of outputs that there are: X(input, output).
#define KERAS_ADDER_FOR_EACH_TYPES(X) \
  X(Half, Half);                      \
  X(Half, float);                     \
  X(BFloat16, BFloat16);              \
  X(BFloat16, float);                 \
  X(float, float);                    \
  X(double, double)

namespace keras_adder {

// Whether that list has these.
inline bool AreTypes(DataType type, DataType output_type) {
#define KERAS_ADDER_CASE(T, O)                                     \
  if (type == DataTypeOf<T>() && output_type == DataTypeOf<O>()) { \
    return true;                                                   \
  }
  KERAS_ADDER_FOR_EACH_TYPES(KERAS_ADDER_CASE)
#undef KERAS_ADDER_CASE
  return false;
}

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_DTYPE_H_
