// Rows of a depthwise convolution's inputs, as its sums need them: in the type
// of filters, and with an element for each output channel. Where a tensor has
// them like this, they are the tensor's; others are packed.

#ifndef KERAS_ADDER_CORE_FUSED_DEPTHWISE_ROWS_H_
#define KERAS_ADDER_CORE_FUSED_DEPTHWISE_ROWS_H_

#include <cstdint>

#include "core/depthwise/packed_rows.h"
#include "core/engine.h"
#include "core/kernels/fused_kernels.h"

namespace keras_adder {
namespace internal {

class DepthwiseRows {
 public:
  // Memory of a worker.
  struct Memory {
    uint8_t* packed;
    uint8_t* quantized;
    PackedRows::Held* held;  // rows of all images
  };

  // `lanes`: elements of a packed pixel, as many as output channels or more.
  DepthwiseRows(const Problem& problem, int64_t lanes,
                const FusedKernels& kernels);

  int64_t PackedBytes() const {
    return in_place_ ? 0 : packed_rows_.slots() * row_bytes();
  }
  int64_t QuantizedBytes() const;
  int64_t pixel_bytes() const { return lanes_ * element_bytes_; }

  const PackedRows& packed_rows() const { return packed_rows_; }
  // The row that a row of outputs of an image meets under a row of taps; null
  // in the padding.
  const uint8_t* Met(const void* input, int64_t image, int64_t output_row,
                     int64_t tap, const Memory& memory) const;

  // The same, where it is the tensor's; null elsewhere.
  const uint8_t* InPlace(const void* input, int64_t image, int64_t output_row,
                         int64_t tap) const;

 private:
  int64_t row_bytes() const { return geometry_.width.input * pixel_bytes(); }
  bool IsQuantized() const { return input_type_ == filter_type_; }
  // Whether a packed row has nothing but an element for each output channel.
  bool IsDense() const { return lanes_ == geometry_.out_channels; }

  const uint8_t* RowOf(const void* input, int64_t image, int64_t row) const;
  void Pack(const uint8_t* row, const Memory& memory, uint8_t* packed) const;
  void Quantize(const uint8_t* row, uint8_t* quantized) const;
  template <typename T>
  void Spread(const uint8_t* row, uint8_t* packed) const;

  const Geometry geometry_;
  const DataType input_type_, filter_type_;
  const Quantization quantization_;
  const FusedKernels& kernels_;
  const int64_t element_bytes_, lanes_;
  const bool in_place_;
  const PackedRows packed_rows_;
};

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_FUSED_DEPTHWISE_ROWS_H_
