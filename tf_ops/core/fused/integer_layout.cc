#include "core/fused/integer_layout.h"

#include <algorithm>

#include "core/tile.h"

namespace keras_adder {
namespace internal {
namespace {

// What a tile of one row may take of the second-level cache.
constexpr double kMaxRowBytes = 256 << 10;

// Runs of fewer outputs keep a processor waiting for their sums.
constexpr int64_t kFewOutputs = 6;

// Whether neighbouring outputs meet neighbouring inputs.
bool IsDense(const Axis& axis) {
  return axis.stride == 1 && axis.dilation == 1;
}

bool Slides(const Geometry& geometry, DataType type,
            const FusedKernels& kernels) {
  const Axis& width = geometry.width;
  return type == DataType::kUint8 && kernels.sliding.max_sources[0] > 0 &&
         width.kernel >= 3 && IsDense(width);
}

}  // namespace

IntegerLayout::IntegerLayout(const Geometry& all, DataType input_type,
                             DataType filter_type, const FusedKernels& kernels)
    : geometry(all),
      sums(Slides(all, filter_type, kernels) ? kernels.sliding
           : filter_type == DataType::kUint8 ? kernels.bytes
                                             : kernels.words),
      row_sums(filter_type == DataType::kUint8 ? kernels.byte_rows
                                               : kernels.word_rows),
      kind(ChooseKind(kernels, filter_type)),
      element_bytes(SizeOf(filter_type)),
      columns(geometry.width.output),
      in_place((kind == kDirect || kind == kRows) &&
               input_type == filter_type && !MeetsPadding()),
      pixel_bytes(geometry.group_in() * element_bytes),
      step(step_bytes()) {
  if (!in_place) {
    ChooseColumns(filter_type == DataType::kUint8 ? kernels.bytes
                                                  : kernels.words);
  }
  if (kind == kSliding) {
    Slide();
  } else if (kind == kIm2row) {
    pitch = steps() * step_bytes();
    runs.push_back({0, steps()});
  } else {
    LieDirectly();
  }
}

// Few enough for a tile of one row; window by window where even one output
// meets too much, as with large dilations, most of which is not its own.
void IntegerLayout::ChooseColumns(const IntegerSums& of_windows) {
  const int64_t least = kind == kIm2row ? 1 : kFewOutputs;
  while (columns > least && RowBytes() > kMaxRowBytes) {
    columns = std::max(CeilDiv(columns, 2), least);
  }
  if (kind == kIm2row || RowBytes() <= kMaxRowBytes) return;
  const double windows =
      static_cast<double>(columns) * geometry.kernel_taps() * pixel_bytes;
  if (RowBytes() <= 2 * windows) return;
  sums = of_windows;
  kind = kIm2row;
  step = step_bytes();
  columns = geometry.width.output;
  ChooseColumns(of_windows);
}

// Of a tile of one row of outputs, whatever its size.
double IntegerLayout::RowBytes() const {
  const auto met = [](const Axis& axis, int64_t outputs) {
    return (outputs - 1.0) * axis.stride + (axis.kernel - 1.0) * axis.dilation +
           1;
  };
  if (kind == kIm2row) {
    return static_cast<double>(columns) * steps() * step_bytes();
  }
  return met(geometry.height, 1) * met(geometry.width, columns) * pixel_bytes;
}

IntegerLayout::Kind IntegerLayout::ChooseKind(const FusedKernels& kernels,
                                              DataType type) const {
  const Axis& width = geometry.width;
  if (Slides(geometry, type, kernels)) return kSliding;
  if (geometry.group_in() % sums.step_elements != 0) return kIm2row;
  if (row_sums.max_outputs[0] > 0 && width.kernel == kRowTaps &&
      IsDense(width) && width.output >= kFewOutputs) {
    return kRows;
  }
  return kDirect;
}

bool IntegerLayout::MeetsPadding() const {
  const auto meets = [](const Axis& axis) {
    return axis.pad_before > 0 ||
           axis.Position(axis.output - 1, axis.kernel - 1) >= axis.input;
  };
  return meets(geometry.height) || meets(geometry.width);
}

void IntegerLayout::Slide() {
  const Axis& height = geometry.height;
  const Axis& width = geometry.width;
  const int64_t channels = geometry.group_in();
  // The last source's last step reads eight bytes; transposing writes whole
  // groups of eight columns.
  pitch = RoundUp(columns, kSlidingOutputs) + sliding_columns();
  pitch = columns == width.output
              ? std::max(pitch, width.pad_before + RoundUp(width.input, 8))
              : pitch + 7;
  step = pitch;
  const bool in_one = height.dilation == 1;
  for (int64_t column = 0; column < sliding_columns(); column += kSlidingTaps) {
    for (int64_t row = 0; row < (in_one ? 1 : height.kernel); ++row) {
      runs.push_back({column + row * height.dilation * channels * pitch,
                      (in_one ? height.kernel : 1) * channels});
    }
  }
}

void IntegerLayout::LieDirectly() {
  const Axis& width = geometry.width;
  const int64_t channel_bytes = pixel_bytes;
  if (in_place) pixel_bytes = geometry.in_channels * element_bytes;
  pitch = (in_place ? width.input : InputColumns(columns)) * pixel_bytes;
  // Columns of taps that are neighbours are in one run. A step of rows has all.
  const bool in_one =
      kind == kDirect && width.dilation == 1 && pixel_bytes == channel_bytes;
  const int64_t columns_apart = in_one || kind == kRows ? 1 : width.kernel;
  const int64_t steps = channel_bytes / step_bytes();
  for (int64_t i = 0; i < geometry.height.kernel; ++i) {
    for (int64_t j = 0; j < columns_apart; ++j) {
      runs.push_back({i * geometry.height.dilation * pitch +
                          j * width.dilation * pixel_bytes,
                      in_one ? width.kernel * steps : steps});
    }
  }
}

int64_t IntegerLayout::sliding_columns() const {
  return RoundUp(geometry.width.kernel, kSlidingTaps);
}

int64_t IntegerLayout::steps() const {
  if (kind == kSliding) {
    return sliding_columns() / kSlidingTaps * geometry.height.kernel *
           geometry.group_in();
  }
  return CeilDiv(geometry.kernel_taps() * geometry.group_in(),
                 sums.step_elements);
}

int64_t IntegerLayout::FilterElement(int64_t step, int64_t element) const {
  const int64_t channels = geometry.group_in();
  int64_t index = step * sums.step_elements + element;
  if (kind == kSliding) {
    const int64_t rows = geometry.height.kernel;
    const int64_t channel = step % channels;
    const int64_t row = step / channels % rows;
    const int64_t column = step / channels / rows * kSlidingTaps + element;
    if (column >= geometry.width.kernel) return -1;
    index = (row * geometry.width.kernel + column) * channels + channel;
  } else if (kind == kRows) {
    // [tap row][some channels][tap column]
    const int64_t of_row = channels / sums.step_elements * kRowTaps;
    const int64_t row = step / of_row;
    const int64_t column = step % kRowTaps;
    const int64_t channel =
        step % of_row / kRowTaps * sums.step_elements + element;
    index = (row * kRowTaps + column) * channels + channel;
  } else if (index >= geometry.kernel_taps() * channels) {
    return -1;
  }
  return index * geometry.out_channels;
}

int64_t IntegerLayout::TileBytes(int64_t rows) const {
  switch (kind) {
    case kSliding:
      return InputRows(rows) * geometry.group_in() * pitch;
    case kIm2row:
      return rows * columns * pitch;
    default:
      return InputRows(rows) * pitch;
  }
}

}  // namespace internal
}  // namespace keras_adder
