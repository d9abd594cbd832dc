#include "core/fused/fusion.h"

#include <cmath>
#include <limits>
#include <sstream>
#include <string>

namespace keras_adder {
namespace {

std::string NameOf(DataType type) {
  static constexpr const char* kNames[] = {
      "float16", "bfloat16", "float32", "float64", "uint8", "int16", "int32"};
  return kNames[static_cast<int>(type)];
}

// A tensor's quantization: of floats, none.
Error CheckQuantization(const std::string& name, DataType type,
                        const Quantization& quantization) {
  const float scale = quantization.scale;
  const int32_t zero_point = quantization.zero_point;
  if (!IsInteger(type)) {
    if (scale == 1 && zero_point == 0) return "";
    return name + "_scale and " + name +
           "_zero_point must be 1 and 0 for tensors that are not quantized. "
           "Received: " +
           name + "_scale=" + std::to_string(scale) + ", " + name +
           "_zero_point=" + std::to_string(zero_point);
  }
  // A host may flush subnormal numbers to zero: neither the scale nor its
  // reciprocal is one.
  constexpr float kLeast = std::numeric_limits<float>::min();
  if (!(scale >= kLeast && scale <= 1 / kLeast)) {
    std::ostringstream received;
    received << scale;
    return name +
           "_scale must lie between 2^-126 and 2^126. Received: " + name +
           "_scale=" + received.str();
  }
  const IntegerRange range = RangeOf(type);
  if (zero_point < range.lowest || zero_point > range.highest) {
    return name + "_zero_point must be in the range of " + NameOf(type) +
           ". Received: " + name + "_zero_point=" + std::to_string(zero_point);
  }
  return "";
}

bool AreInputTypes(DataType input, DataType filter) {
  if (IsInteger(filter)) return input == filter || input == DataType::kFloat32;
  return filter == DataType::kFloat32 && input == DataType::kFloat32;
}

bool IsOutputType(DataType type) {
  return type == DataType::kFloat32 || IsInteger(type);
}

}  // namespace

Error CheckFusion(DataType input_type, DataType output_type,
                  const Fusion& fusion) {
  const DataType filter = fusion.filter_type;
  if (!AreInputTypes(input_type, filter)) {
    return "input and filter must be both float32, uint8 or int16, or an input "
           "of float32 and a filter of uint8 or int16. Received: input of " +
           NameOf(input_type) + ", filter of " + NameOf(filter);
  }
  const bool raw = output_type == DataType::kInt32;
  if (!IsOutputType(output_type) && !(raw && IsInteger(filter))) {
    return "output_type must be float32, uint8, int16 or, of integer filters, "
           "int32. Received: output_type=" +
           NameOf(output_type) + ", filter of " + NameOf(filter);
  }
  if (raw && fusion.has_residual) {
    return "An output of int32 is the sum alone, to which no residual can be "
           "added. Received: output_type=int32, num_residuals=1";
  }
  if (fusion.has_residual && !IsOutputType(fusion.residual_type)) {
    return "residual must be float32, uint8 or int16. Received: residual of " +
           NameOf(fusion.residual_type);
  }
  Error error = CheckQuantization("input", filter, fusion.input);
  if (error.empty()) {
    error = CheckQuantization("output", output_type, fusion.output);
  }
  if (error.empty()) {
    const DataType residual =
        fusion.has_residual ? fusion.residual_type : DataType::kFloat32;
    error = CheckQuantization("residual", residual, fusion.residual);
  }
  return error;
}

Error CheckSums(const Geometry& geometry, const Fusion& fusion) {
  if (!IsInteger(fusion.filter_type)) return "";
  const IntegerRange range = RangeOf(fusion.filter_type);
  const int64_t most = std::numeric_limits<int32_t>::max() /
                       (int64_t{range.highest} - range.lowest);
  const int64_t terms = geometry.kernel_taps() * geometry.group_in();
  if (terms <= most) return "";
  return "The sum of " + std::to_string(terms) + " distances of " +
         NameOf(fusion.filter_type) + " may not fit into int32; at most " +
         std::to_string(most) + " always do. Received: a filter of " +
         std::to_string(geometry.height.kernel) + " x " +
         std::to_string(geometry.width.kernel) + " x " +
         std::to_string(geometry.group_in());
}

}  // namespace keras_adder
