// Packs the inputs of a work item of the integer pass into a tile, and says
// where the sources of its outputs begin.

#ifndef KERAS_ADDER_CORE_INTEGER_TILE_H_
#define KERAS_ADDER_CORE_INTEGER_TILE_H_

#include <cstdint>

#include "core/fusion.h"
#include "core/integer_layout.h"

namespace keras_adder {
namespace internal {

// Some rows of outputs of an image, or of several whole images; of one group.
struct OutputRows {
  int64_t group;
  int64_t first_image, images;
  int64_t first, rows;
};

// Memory that a tile takes of a worker's scratch.
struct TileMemory {
  uint8_t* quantized;  // inputs that were floats
  uint8_t* tile;
  const uint8_t** sources;  // of outputs: row by row, image by image
  int32_t* pixel_sums;      // of each output of each source, or null
  int32_t* row_sums;        // of a sliding tile's rows, over channels
};

class IntegerTile {
 public:
  // `input_type` is that of NHWC inputs.
  IntegerTile(const IntegerLayout& layout, DataType input_type,
              DataType filter_type, const Quantization& quantization,
              const FusedKernels& kernels);

  // Bytes, for so many rows of outputs of so many images.
  int64_t QuantizedBytes(int64_t images, int64_t rows) const;
  int64_t TileBytes(int64_t images, int64_t rows) const;
  int64_t Sources(int64_t images, int64_t rows) const {
    return images * rows * layout_.sources_of_row();
  }
  int64_t RowSums(int64_t rows) const;
  // Whether there is something to subtract from distances.
  bool has_pixel_sums() const {
    return layout_.sums.maxima || layout_.excess_columns() > 0;
  }

  void Pack(const OutputRows& outputs, const void* input,
            const TileMemory& memory) const;

 private:
  // Pixels of a group, in the type of filters: where row 0 of an image would
  // lie, and from one to the next, in bytes.
  struct Pixels {
    const uint8_t* first;
    int64_t row_stride, pixel_stride;
  };
  // Rows of the input that the outputs meet, but for padding.
  struct InputRows {
    int64_t first, end;
  };

  InputRows RowsOf(const OutputRows& outputs) const;
  Pixels PixelsOf(const OutputRows& outputs, int64_t image, const void* input,
                  uint8_t* quantized) const;
  void Quantize(const float* from, int64_t pixels, uint8_t* to) const;
  void FillPadding(uint8_t* to, int64_t elements) const;

  void PackSliding(const OutputRows& outputs, const Pixels& pixels,
                   const TileMemory& memory) const;
  void SumExcess(int64_t rows, const TileMemory& memory) const;
  void PackWindows(const OutputRows& outputs, const Pixels& pixels,
                   const TileMemory& memory) const;
  void PackWindow(const Pixels& pixels, int64_t row, int64_t column,
                  uint8_t* window) const;
  int32_t SumOfWindow(const uint8_t* window) const;
  bool ReadsInPlace() const;

  const IntegerLayout& layout_;
  const Geometry& geometry_;
  const DataType input_type_, filter_type_;
  const Quantization quantization_;
  const FusedKernels& kernels_;
  const bool quantizes_;
  const bool in_place_;
};

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_INTEGER_TILE_H_
