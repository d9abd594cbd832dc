// Packs the inputs of a work item of the integer pass into a tile, and says
// where the sources of its outputs begin.

#ifndef KERAS_ADDER_CORE_FUSED_INTEGER_TILE_H_
#define KERAS_ADDER_CORE_FUSED_INTEGER_TILE_H_

#include <cstdint>

#include "core/fused/fusion.h"
#include "core/fused/integer_layout.h"

namespace keras_adder {
namespace internal {

// Some rows of outputs of an image, or of several whole images, or some columns
// of one row; of one group.
struct OutputRows {
  int64_t group;
  int64_t first_image, images;
  int64_t first, rows;
  int64_t first_column, columns;
};

// Memory that a tile takes of a worker's scratch.
struct TileMemory {
  uint8_t* quantized;  // inputs of an image that were floats
  uint8_t* tile;
  const uint8_t** sources;  // of outputs: row by row, image by image
  int32_t* pixel_sums;      // of each output of each source, if there are any
  int32_t* row_sums;        // of rows of the input of an image
};

class IntegerTile {
 public:
  // `layout` must outlive it.
  IntegerTile(const IntegerLayout& layout, DataType input_type,
              DataType filter_type, const Quantization& quantization,
              const FusedKernels& kernels);

  // Bytes, for so many rows of outputs (of so many images).
  int64_t QuantizedBytes(int64_t rows) const;
  int64_t TileBytes(int64_t images, int64_t rows) const {
    return layout_.in_place ? 0 : images * layout_.TileBytes(rows);
  }
  int64_t Sources(int64_t images, int64_t rows, int64_t columns) const {
    return images * rows * layout_.SourcesOf(columns);
  }
  int64_t RowSums(int64_t rows) const;
  // Whether there is something to subtract from totals.
  bool has_pixel_sums() const {
    return layout_.sums.maxima || layout_.excess_columns() > 0;
  }

  void Pack(const OutputRows& outputs, const void* input,
            const TileMemory& memory) const;

 private:
  bool IsDirect() const {
    return layout_.kind == IntegerLayout::kDirect ||
           layout_.kind == IntegerLayout::kRows;
  }

  // The channels of a group of an image's pixels.
  struct Pixels {
    const uint8_t* first;
    int64_t row_bytes, pixel_bytes;

    const uint8_t* at(int64_t row, int64_t column) const {
      return first + row * row_bytes + column * pixel_bytes;
    }
  };

  Pixels PixelsOf(const OutputRows& outputs, int64_t image,
                  const void* input) const;
  // The same in the type of filters.
  Pixels Quantized(const OutputRows& outputs, const Pixels& pixels,
                   uint8_t* memory) const;
  void QuantizePixels(const uint8_t* from, int64_t pixels, uint8_t* to) const;
  // Columns of the input that outputs meet, but for padding.
  struct Columns {
    int64_t met, before;    // all, and those in the padding before the image
    int64_t first, inside;  // of the image
  };
  Columns ColumnsOf(const OutputRows& outputs) const;
  void CopyPixels(const Pixels& pixels, int64_t row, const Columns& columns,
                  uint8_t* to) const;
  void FillPadding(uint8_t* to, int64_t elements) const;

  void PackSliding(const OutputRows& outputs, const Pixels& pixels,
                   const TileMemory& memory) const;
  void SumExcess(const OutputRows& outputs, const TileMemory& memory) const;
  void PackDirect(const OutputRows& outputs, const Pixels& pixels,
                  const TileMemory& memory) const;
  void SumWindows(const OutputRows& outputs, const uint8_t* first,
                  const TileMemory& memory) const;
  // Of each of some pixels, in the type of filters.
  void SumElements(const uint8_t* pixels, int64_t count, int64_t pixel_bytes,
                   int64_t elements, int32_t* sums) const;
  void SumRow(const uint8_t* pixels, int64_t columns, int32_t* channel_sums,
              int32_t* sums) const;
  void PackIm2row(const OutputRows& outputs, const Pixels& pixels,
                  const TileMemory& memory) const;
  void PackWindow(const Pixels& pixels, int64_t row, int64_t column,
                  uint8_t* window) const;

  const IntegerLayout& layout_;
  const Geometry& geometry_;
  const DataType input_type_, filter_type_;
  const Quantization quantization_;
  const FusedKernels& kernels_;
};

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_FUSED_INTEGER_TILE_H_
