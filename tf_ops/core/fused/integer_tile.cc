#include "core/fused/integer_tile.h"

#include <algorithm>
#include <cstring>

#include "core/tile.h"

namespace keras_adder {
namespace internal {
namespace {

// sums[i] += from[i * step]
void AddTo(int32_t* sums, const int32_t* from, int64_t step, int64_t count) {
  if (step == 1) {  // which vectors can do
    for (int64_t i = 0; i < count; ++i) sums[i] += from[i];
  } else {
    for (int64_t i = 0; i < count; ++i) sums[i] += from[i * step];
  }
}

}  // namespace

IntegerTile::IntegerTile(const IntegerLayout& layout, DataType input_type,
                         DataType filter_type, const Quantization& quantization,
                         const FusedKernels& kernels)
    : layout_(layout),
      geometry_(layout.geometry),
      input_type_(input_type),
      filter_type_(filter_type),
      quantization_(quantization),
      kernels_(kernels) {}

// A direct tile is quantized while it is copied.
int64_t IntegerTile::QuantizedBytes(int64_t rows) const {
  if (input_type_ == filter_type_ || IsDirect()) return 0;
  const int64_t input_rows =
      std::min(layout_.InputRows(rows), geometry_.height.input);
  const int64_t columns =
      std::min(layout_.InputColumns(layout_.columns), geometry_.width.input);
  return input_rows * columns * geometry_.group_in() * layout_.element_bytes;
}

int64_t IntegerTile::RowSums(int64_t rows) const {
  if (!has_pixel_sums()) return 0;
  if (layout_.kind == IntegerLayout::kIm2row) return 0;
  const int64_t input_rows = layout_.InputRows(rows);
  return IsDirect() ? input_rows * layout_.columns +
                          layout_.InputColumns(layout_.columns)
                    : input_rows * layout_.pitch;
}

void IntegerTile::Pack(const OutputRows& outputs, const void* input,
                       const TileMemory& memory) const {
  TileMemory of_image = memory;
  const int64_t sources = outputs.rows * layout_.SourcesOf(outputs.columns);
  for (int64_t i = 0; i < outputs.images; ++i) {
    const Pixels pixels = PixelsOf(outputs, outputs.first_image + i, input);
    if (IsDirect()) {
      PackDirect(outputs, pixels, of_image);
    } else {
      const Pixels quantized = Quantized(outputs, pixels, memory.quantized);
      if (layout_.kind == IntegerLayout::kSliding) {
        PackSliding(outputs, quantized, of_image);
      } else {
        PackIm2row(outputs, quantized, of_image);
      }
    }
    of_image.tile += TileBytes(1, outputs.rows);
    of_image.sources += sources;
    of_image.pixel_sums += IsDirect() ? outputs.rows * outputs.columns
                                      : sources * layout_.outputs();
  }
}

IntegerTile::Pixels IntegerTile::PixelsOf(const OutputRows& outputs,
                                          int64_t image,
                                          const void* input) const {
  const int64_t element = SizeOf(input_type_);
  const int64_t pixel_bytes = geometry_.in_channels * element;
  return {static_cast<const uint8_t*>(input) +
              (image * geometry_.input_strides.batch +
               outputs.group * geometry_.group_in()) *
                  element,
          geometry_.width.input * pixel_bytes, pixel_bytes};
}

IntegerTile::Pixels IntegerTile::Quantized(const OutputRows& outputs,
                                           const Pixels& pixels,
                                           uint8_t* memory) const {
  if (input_type_ == filter_type_) return pixels;
  const Columns columns = ColumnsOf(outputs);
  const int64_t pixel_bytes = geometry_.group_in() * layout_.element_bytes;
  const int64_t row_bytes = columns.inside * pixel_bytes;
  const int64_t above = geometry_.height.Position(outputs.first, 0);
  const int64_t below = above + layout_.InputRows(outputs.rows);
  const int64_t first = std::max<int64_t>(above, 0);
  for (int64_t row = first; row < std::min(below, geometry_.height.input);
       ++row) {
    QuantizePixels(pixels.at(row, columns.first), columns.inside,
                   memory + (row - first) * row_bytes);
  }
  return {memory - first * row_bytes - columns.first * pixel_bytes, row_bytes,
          pixel_bytes};
}

IntegerTile::Columns IntegerTile::ColumnsOf(const OutputRows& outputs) const {
  const int64_t input = geometry_.width.input;
  const int64_t begin = geometry_.width.Position(outputs.first_column, 0);
  const int64_t met = layout_.InputColumns(outputs.columns);
  const int64_t first = std::clamp<int64_t>(begin, 0, input);
  const int64_t end = std::clamp<int64_t>(begin + met, first, input);
  return {met, std::min(first - begin, met), first, end - first};
}

void IntegerTile::QuantizePixels(const uint8_t* from, int64_t pixels,
                                 uint8_t* to) const {
  const int64_t channels = geometry_.group_in();
  const auto quantize = [&](const float* values, int64_t count,
                            uint8_t* result) {
    if (filter_type_ == DataType::kUint8) {
      kernels_.quantize_bytes(values, count, quantization_, result);
    } else {
      kernels_.quantize_words(values, count, quantization_,
                              reinterpret_cast<int16_t*>(result));
    }
  };
  const auto* values = reinterpret_cast<const float*>(from);
  if (geometry_.groups == 1) return quantize(values, pixels * channels, to);
  for (int64_t i = 0; i < pixels; ++i) {
    quantize(values + i * geometry_.in_channels, channels,
             to + i * channels * layout_.element_bytes);
  }
}

void IntegerTile::FillPadding(uint8_t* to, int64_t elements) const {
  const int32_t zero_point = quantization_.zero_point;
  if (filter_type_ == DataType::kUint8) {
    std::memset(to, zero_point, elements);
  } else {
    std::fill_n(reinterpret_cast<int16_t*>(to), elements,
                static_cast<int16_t>(zero_point));
  }
}

void IntegerTile::PackSliding(const OutputRows& outputs, const Pixels& pixels,
                              const TileMemory& memory) const {
  const Columns columns = ColumnsOf(outputs);
  const int64_t channels = geometry_.group_in();
  const int64_t pitch = layout_.pitch;
  const int64_t first = geometry_.height.Position(outputs.first, 0);
  for (int64_t row = 0; row < layout_.InputRows(outputs.rows); ++row) {
    uint8_t* to = memory.tile + row * channels * pitch;
    FillPadding(to, channels * pitch);
    const int64_t input_row = first + row;
    if (input_row < 0 || input_row >= geometry_.height.input) continue;
    kernels_.transpose_bytes(pixels.at(input_row, columns.first),
                             columns.inside, channels, pixels.pixel_bytes,
                             to + columns.before, pitch,
                             static_cast<uint8_t>(quantization_.zero_point));
  }
  const uint8_t** source = memory.sources;
  const int64_t row_bytes = geometry_.height.stride * channels * pitch;
  for (int64_t row = 0; row < outputs.rows; ++row) {
    for (int64_t i = 0; i < layout_.SourcesOf(outputs.columns); ++i) {
      *source++ = memory.tile + row * row_bytes + i * kSlidingOutputs;
    }
  }
  if (has_pixel_sums()) SumExcess(outputs, memory);
}

// What the columns that filters do not have add to each output.
void IntegerTile::SumExcess(const OutputRows& some,
                            const TileMemory& memory) const {
  const Axis& height = geometry_.height;
  const int64_t channels = geometry_.group_in();
  const int64_t pitch = layout_.pitch;
  const int64_t input_rows = layout_.InputRows(some.rows);
  std::memset(memory.row_sums, 0, input_rows * pitch * sizeof(int32_t));
  for (int64_t row = 0; row < input_rows; ++row) {
    kernels_.add_rows(memory.tile + row * channels * pitch, channels, pitch,
                      pitch, memory.row_sums + row * pitch);
  }
  const int64_t outputs = layout_.SourcesOf(some.columns) * kSlidingOutputs;
  for (int64_t row = 0; row < some.rows; ++row) {
    int32_t* sums = memory.pixel_sums + row * outputs;
    std::fill_n(sums, outputs, 0);
    for (int64_t tap = 0; tap < height.kernel; ++tap) {
      const int32_t* from =
          memory.row_sums +
          (row * height.stride + tap * height.dilation) * pitch +
          geometry_.width.kernel;
      for (int64_t column = 0; column < layout_.excess_columns(); ++column) {
        AddTo(sums, from + column, 1, outputs);
      }
    }
  }
}

void IntegerTile::PackDirect(const OutputRows& outputs, const Pixels& pixels,
                             const TileMemory& memory) const {
  const int64_t top = geometry_.height.Position(outputs.first, 0);
  const Columns columns = ColumnsOf(outputs);
  const uint8_t* first = memory.tile;
  if (layout_.in_place) {
    first = pixels.at(top, 0);
  } else {
    for (int64_t row = 0; row < layout_.InputRows(outputs.rows); ++row) {
      CopyPixels(pixels, top + row, columns, memory.tile + row * layout_.pitch);
    }
  }
  const uint8_t** source = memory.sources;
  for (int64_t row = 0; row < outputs.rows; ++row) {
    const uint8_t* from = first + row * geometry_.height.stride * layout_.pitch;
    for (int64_t i = 0; i < layout_.SourcesOf(outputs.columns); ++i) {
      *source++ = from + i * geometry_.width.stride * layout_.pixel_bytes;
    }
  }
  if (has_pixel_sums()) SumWindows(outputs, first, memory);
}

// A row of a direct tile, with the padding on its sides.
void IntegerTile::CopyPixels(const Pixels& pixels, int64_t row,
                             const Columns& columns, uint8_t* to) const {
  const int64_t channels = geometry_.group_in();
  if (row < 0 || row >= geometry_.height.input) {
    return FillPadding(to, columns.met * channels);
  }
  const int64_t inside = columns.inside;
  FillPadding(to, columns.before * channels);
  to += columns.before * layout_.pixel_bytes;
  const uint8_t* from = pixels.at(row, columns.first);
  if (input_type_ != filter_type_) {
    QuantizePixels(from, inside, to);
  } else if (pixels.pixel_bytes == layout_.pixel_bytes) {
    std::memcpy(to, from, inside * layout_.pixel_bytes);
  } else {
    for (int64_t i = 0; i < inside; ++i) {
      std::memcpy(to + i * layout_.pixel_bytes, from + i * pixels.pixel_bytes,
                  layout_.pixel_bytes);
    }
  }
  FillPadding(to + inside * layout_.pixel_bytes,
              (columns.met - columns.before - inside) * channels);
}

// What each output's inputs add up to: first along rows, then along columns.
void IntegerTile::SumWindows(const OutputRows& outputs, const uint8_t* first,
                             const TileMemory& memory) const {
  const Axis& height = geometry_.height;
  const int64_t columns = outputs.columns;
  const int64_t input_rows = layout_.InputRows(outputs.rows);
  int32_t* const channel_sums = memory.row_sums + input_rows * columns;
  for (int64_t row = 0; row < input_rows; ++row) {
    SumRow(first + row * layout_.pitch, columns, channel_sums,
           memory.row_sums + row * columns);
  }
  for (int64_t row = 0; row < outputs.rows; ++row) {
    int32_t* sums = memory.pixel_sums + row * columns;
    std::fill_n(sums, columns, 0);
    for (int64_t tap = 0; tap < height.kernel; ++tap) {
      const int64_t from = row * height.stride + tap * height.dilation;
      AddTo(sums, memory.row_sums + from * columns, 1, columns);
    }
  }
}

// What the taps of a row of each output add up to.
void IntegerTile::SumRow(const uint8_t* pixels, int64_t columns,
                         int32_t* channel_sums, int32_t* sums) const {
  const Axis& width = geometry_.width;
  SumElements(pixels, layout_.InputColumns(columns), layout_.pixel_bytes,
              geometry_.group_in(), channel_sums);
  std::fill_n(sums, columns, 0);
  for (int64_t tap = 0; tap < width.kernel; ++tap) {
    AddTo(sums, channel_sums + tap * width.dilation, width.stride, columns);
  }
}

void IntegerTile::SumElements(const uint8_t* pixels, int64_t count,
                              int64_t pixel_bytes, int64_t elements,
                              int32_t* sums) const {
  const auto sum = filter_type_ == DataType::kUint8 ? kernels_.sum_bytes
                                                    : kernels_.sum_words;
  sum(pixels, count, pixel_bytes, elements, sums);
}

void IntegerTile::PackIm2row(const OutputRows& outputs, const Pixels& pixels,
                             const TileMemory& memory) const {
  const int64_t columns = outputs.columns;
  for (int64_t i = 0; i < outputs.rows * columns; ++i) {
    uint8_t* window = memory.tile + i * layout_.pitch;
    PackWindow(pixels,
               geometry_.height.Position(outputs.first + i / columns, 0),
               geometry_.width.Position(outputs.first_column + i % columns, 0),
               window);
    memory.sources[i] = window;
  }
  if (!has_pixel_sums()) return;
  SumElements(memory.tile, outputs.rows * columns, layout_.pitch,
              layout_.pitch / layout_.element_bytes, memory.pixel_sums);
}

// What a window of taps sees whose first tap lies at a row and column.
void IntegerTile::PackWindow(const Pixels& pixels, int64_t row, int64_t column,
                             uint8_t* window) const {
  const Axis& height = geometry_.height;
  const Axis& width = geometry_.width;
  const int64_t channels = geometry_.group_in();
  const int64_t tap_bytes = channels * layout_.element_bytes;
  // Neighbours in the image that are neighbours in the window.
  const bool runs = width.dilation == 1 && pixels.pixel_bytes == tap_bytes;
  uint8_t* to = window;
  for (int64_t i = 0; i < height.kernel; ++i) {
    const int64_t h = row + i * height.dilation;
    if (h < 0 || h >= height.input) {
      FillPadding(to, width.kernel * channels);
      to += width.kernel * tap_bytes;
      continue;
    }
    for (int64_t j = 0; j < width.kernel;) {
      const int64_t w = column + j * width.dilation;
      int64_t taps = 1;
      if (w < 0 || w >= width.input) {
        FillPadding(to, channels);
      } else {
        if (runs) taps = std::min(width.kernel - j, width.input - w);
        std::memcpy(to, pixels.at(h, w), taps * tap_bytes);
      }
      to += taps * tap_bytes;
      j += taps;
    }
  }
  std::memset(to, 0, window + layout_.pitch - to);
}

}  // namespace internal
}  // namespace keras_adder
