#include "core/fused/depthwise_rows.h"

#include <algorithm>
#include <utility>

namespace keras_adder {
namespace internal {
namespace {

// to[c * kTimes + i] = from[c], for each of kTimes values of i.
template <typename T, int kTimes>
void Repeat(const T* from, int64_t count, T* to) {
  for (int64_t c = 0; c < count; ++c) {
    for (int i = 0; i < kTimes; ++i) to[c * kTimes + i] = from[c];
  }
}

template <typename T, int... kIndices>
void Repeat(const T* from, int64_t count, int64_t times, T* to,
            std::integer_sequence<int, kIndices...>) {
  static constexpr void (*kInstances[])(const T*, int64_t,
                                        T*) = {&Repeat<T, kIndices + 1>...};
  kInstances[times - 1](from, count, to);
}

}  // namespace

DepthwiseRows::DepthwiseRows(const Problem& problem, int64_t lanes,
                             const FusedKernels& kernels)
    : geometry_(problem.geometry),
      input_type_(problem.type),
      filter_type_(problem.fusion.filter_type),
      quantization_(problem.fusion.input),
      kernels_(kernels),
      element_bytes_(SizeOf(filter_type_)),
      lanes_(lanes),
      in_place_(IsQuantized() && lanes == geometry_.in_channels),
      packed_rows_(geometry_.height.kernel, geometry_.height.dilation,
                   geometry_.height.input) {}

int64_t DepthwiseRows::QuantizedBytes() const {
  const bool is_packed_at_once = lanes_ == geometry_.in_channels;
  if (IsQuantized() || is_packed_at_once) return 0;
  return geometry_.width.input * geometry_.in_channels * element_bytes_;
}

const uint8_t* DepthwiseRows::RowOf(const void* input, int64_t image,
                                    int64_t row) const {
  if (row < 0 || row >= geometry_.height.input) return nullptr;
  return static_cast<const uint8_t*>(input) +
         (image * geometry_.input_strides.batch +
          row * geometry_.input_strides.height) *
             SizeOf(input_type_);
}

const uint8_t* DepthwiseRows::InPlace(const void* input, int64_t image,
                                      int64_t output_row, int64_t tap) const {
  if (!in_place_) return nullptr;
  return RowOf(input, image, geometry_.height.Position(output_row, tap));
}

const uint8_t* DepthwiseRows::Met(const void* input, int64_t image,
                                  int64_t output_row, int64_t tap,
                                  const Memory& memory) const {
  const Axis& height = geometry_.height;
  const int64_t row = height.Position(output_row, tap);
  const uint8_t* const from = RowOf(input, image, row);
  if (in_place_ || from == nullptr) return from;
  const int64_t slot = packed_rows_.SlotOf(row);
  uint8_t* const packed = memory.packed + slot * row_bytes();
  if (memory.held->Misses(slot, image * height.input + row)) {
    Pack(from, memory, packed);
  }
  return packed;
}

void DepthwiseRows::Pack(const uint8_t* row, const Memory& memory,
                         uint8_t* packed) const {
  if (!IsQuantized()) {
    uint8_t* const quantized =
        QuantizedBytes() == 0 ? packed : memory.quantized;
    Quantize(row, quantized);
    if (quantized == packed) return;
    row = quantized;
  }
  if (filter_type_ == DataType::kUint8) {
    Spread<uint8_t>(row, packed);
  } else {
    Spread<int16_t>(row, packed);
  }
}

void DepthwiseRows::Quantize(const uint8_t* row, uint8_t* quantized) const {
  const auto* values = reinterpret_cast<const float*>(row);
  const int64_t count = geometry_.width.input * geometry_.in_channels;
  if (filter_type_ == DataType::kUint8) {
    kernels_.quantize_bytes(values, count, quantization_, quantized);
  } else {
    kernels_.quantize_words(values, count, quantization_,
                            reinterpret_cast<int16_t*>(quantized));
  }
}

template <typename T>
void DepthwiseRows::Spread(const uint8_t* row, uint8_t* packed) const {
  const auto* from = reinterpret_cast<const T*>(row);
  auto* to = reinterpret_cast<T*>(packed);
  // All pixels at once, where nothing lies between them.
  const bool at_once = lanes_ == geometry_.out_channels;
  const int64_t parts = at_once ? 1 : geometry_.width.input;
  const int64_t count = geometry_.width.input * geometry_.in_channels / parts;
  for (int64_t part = 0; part < parts; ++part) {
    Repeat(from + part * count, count, geometry_.group_out(),
           to + part * lanes_, std::make_integer_sequence<int, kLanes - 1>());
  }
}

}  // namespace internal
}  // namespace keras_adder
