#include "core/integer_tile.h"

#include <algorithm>
#include <cstring>

#include "core/tile.h"

namespace keras_adder {
namespace internal {

IntegerTile::IntegerTile(const IntegerLayout& layout, DataType input_type,
                         DataType filter_type, const Quantization& quantization,
                         const FusedKernels& kernels)
    : layout_(layout),
      geometry_(layout.geometry),
      input_type_(input_type),
      filter_type_(filter_type),
      quantization_(quantization),
      kernels_(kernels),
      quantizes_(input_type != filter_type),
      in_place_(ReadsInPlace()) {}

// Windows of one tap are pixels, if they need no zeros behind them.
bool IntegerTile::ReadsInPlace() const {
  const auto inside = [](const Axis& axis) {
    return axis.kernel == 1 && axis.pad_before == 0 &&
           axis.Position(axis.output - 1, 0) < axis.input;
  };
  return inside(geometry_.height) && inside(geometry_.width) &&
         geometry_.group_in() % layout_.sums.step_elements == 0;
}

int64_t IntegerTile::QuantizedBytes(int64_t images, int64_t rows) const {
  if (!quantizes_) return 0;
  const int64_t input_rows =
      std::min(layout_.InputRows(rows), geometry_.height.input);
  return images * input_rows * geometry_.width.input * geometry_.group_in() *
         layout_.element_bytes;
}

int64_t IntegerTile::TileBytes(int64_t images, int64_t rows) const {
  return in_place_ ? 0 : images * layout_.TileBytes(rows);
}

int64_t IntegerTile::RowSums(int64_t rows) const {
  return layout_.excess_columns() > 0 ? layout_.InputRows(rows) * layout_.pitch
                                      : 0;
}

void IntegerTile::Pack(const OutputRows& outputs, const void* input,
                       const TileMemory& memory) const {
  TileMemory of_image = memory;
  const int64_t sources = Sources(1, outputs.rows);
  for (int64_t i = 0; i < outputs.images; ++i) {
    const Pixels pixels =
        PixelsOf(outputs, outputs.first_image + i, input, of_image.quantized);
    if (layout_.sliding) {
      PackSliding(outputs, pixels, of_image);
    } else {
      PackWindows(outputs, pixels, of_image);
    }
    of_image.quantized += QuantizedBytes(1, outputs.rows);
    of_image.tile += TileBytes(1, outputs.rows);
    of_image.sources += sources;
    of_image.pixel_sums += sources * layout_.outputs();
  }
}

IntegerTile::InputRows IntegerTile::RowsOf(const OutputRows& outputs) const {
  const int64_t first = geometry_.height.Position(outputs.first, 0);
  const int64_t end = first + layout_.InputRows(outputs.rows);
  const int64_t rows = geometry_.height.input;
  return {std::clamp<int64_t>(first, 0, rows),
          std::clamp<int64_t>(end, 0, rows)};
}

IntegerTile::Pixels IntegerTile::PixelsOf(const OutputRows& outputs,
                                          int64_t image, const void* input,
                                          uint8_t* quantized) const {
  const int64_t columns = geometry_.width.input;
  const int64_t channels = geometry_.group_in();
  const int64_t all_channels = geometry_.in_channels;
  const int64_t element = SizeOf(input_type_);
  const auto* first =
      static_cast<const uint8_t*>(input) +
      (image * geometry_.input_strides.batch + outputs.group * channels) *
          element;
  const int64_t row_stride = columns * all_channels * element;
  if (!quantizes_) return {first, row_stride, all_channels * element};
  const int64_t pixel_bytes = channels * layout_.element_bytes;
  const InputRows rows = RowsOf(outputs);
  for (int64_t row = rows.first; row < rows.end; ++row) {
    Quantize(reinterpret_cast<const float*>(first + row * row_stride), columns,
             quantized + (row - rows.first) * columns * pixel_bytes);
  }
  return {quantized - rows.first * columns * pixel_bytes, columns * pixel_bytes,
          pixel_bytes};
}

void IntegerTile::Quantize(const float* from, int64_t pixels,
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
  if (geometry_.groups == 1) return quantize(from, pixels * channels, to);
  for (int64_t i = 0; i < pixels; ++i) {
    quantize(from + i * geometry_.in_channels, channels,
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
  const Axis& width = geometry_.width;
  const int64_t channels = geometry_.group_in();
  const int64_t pitch = layout_.pitch;
  const int64_t first = geometry_.height.Position(outputs.first, 0);
  for (int64_t row = 0; row < layout_.InputRows(outputs.rows); ++row) {
    uint8_t* to = memory.tile + row * channels * pitch;
    FillPadding(to, channels * pitch);
    const int64_t input_row = first + row;
    if (input_row < 0 || input_row >= geometry_.height.input) continue;
    kernels_.transpose_bytes(pixels.first + input_row * pixels.row_stride,
                             width.input, channels, pixels.pixel_stride,
                             to + width.pad_before, pitch,
                             static_cast<uint8_t>(quantization_.zero_point));
  }
  const uint8_t** source = memory.sources;
  const int64_t row_bytes = geometry_.height.stride * channels * pitch;
  for (int64_t row = 0; row < outputs.rows; ++row) {
    for (int64_t i = 0; i < layout_.sources_of_row(); ++i) {
      *source++ = memory.tile + row * row_bytes + i * kSlidingOutputs;
    }
  }
  if (layout_.excess_columns() > 0) SumExcess(outputs.rows, memory);
}

// What the columns that filters do not have add to each output.
void IntegerTile::SumExcess(int64_t rows, const TileMemory& memory) const {
  const Axis& height = geometry_.height;
  const int64_t channels = geometry_.group_in();
  const int64_t pitch = layout_.pitch;
  const int64_t input_rows = layout_.InputRows(rows);
  std::memset(memory.row_sums, 0, input_rows * pitch * sizeof(int32_t));
  for (int64_t row = 0; row < input_rows; ++row) {
    kernels_.add_rows(memory.tile + row * channels * pitch, channels, pitch,
                      pitch, memory.row_sums + row * pitch);
  }
  const int64_t outputs = layout_.sources_of_row() * kSlidingOutputs;
  for (int64_t row = 0; row < rows; ++row) {
    int32_t* sums = memory.pixel_sums + row * outputs;
    std::memset(sums, 0, outputs * sizeof(int32_t));
    for (int64_t tap = 0; tap < height.kernel; ++tap) {
      const int32_t* from =
          memory.row_sums +
          (row * height.stride + tap * height.dilation) * pitch +
          geometry_.width.kernel;
      for (int64_t column = 0; column < layout_.excess_columns(); ++column) {
        for (int64_t i = 0; i < outputs; ++i) sums[i] += from[column + i];
      }
    }
  }
}

void IntegerTile::PackWindows(const OutputRows& outputs, const Pixels& pixels,
                              const TileMemory& memory) const {
  const int64_t columns = geometry_.width.output;
  for (int64_t i = 0; i < outputs.rows * columns; ++i) {
    const int64_t row =
        geometry_.height.Position(outputs.first + i / columns, 0);
    const int64_t column = geometry_.width.Position(i % columns, 0);
    const uint8_t* window =
        pixels.first + row * pixels.row_stride + column * pixels.pixel_stride;
    if (!in_place_) {
      uint8_t* packed = memory.tile + i * layout_.pitch;
      PackWindow(pixels, row, column, packed);
      window = packed;
    }
    memory.sources[i] = window;
    if (layout_.sums.maxima) memory.pixel_sums[i] = SumOfWindow(window);
  }
}

void IntegerTile::PackWindow(const Pixels& pixels, int64_t row, int64_t column,
                             uint8_t* window) const {
  const Axis& height = geometry_.height;
  const Axis& width = geometry_.width;
  const int64_t channels = geometry_.group_in();
  const int64_t pixel_bytes = channels * layout_.element_bytes;
  // Neighbours in the image that are neighbours in the window.
  const bool runs = width.dilation == 1 && pixels.pixel_stride == pixel_bytes;
  uint8_t* to = window;
  for (int64_t i = 0; i < height.kernel; ++i) {
    const int64_t h = row + i * height.dilation;
    if (h < 0 || h >= height.input) {
      FillPadding(to, width.kernel * channels);
      to += width.kernel * pixel_bytes;
      continue;
    }
    const uint8_t* from = pixels.first + h * pixels.row_stride;
    for (int64_t j = 0; j < width.kernel;) {
      const int64_t w = column + j * width.dilation;
      int64_t taps = 1;
      if (w < 0 || w >= width.input) {
        FillPadding(to, channels);
      } else {
        if (runs) taps = std::min(width.kernel - j, width.input - w);
        std::memcpy(to, from + w * pixels.pixel_stride, taps * pixel_bytes);
      }
      to += taps * pixel_bytes;
      j += taps;
    }
  }
  std::memset(to, 0, window + layout_.pitch - to);
}

int32_t IntegerTile::SumOfWindow(const uint8_t* window) const {
  const auto* words = reinterpret_cast<const int16_t*>(window);
  int32_t sum = 0;
  for (int64_t i = 0; i < layout_.pitch / 2; ++i) sum += words[i];
  return sum;
}

}  // namespace internal
}  // namespace keras_adder
