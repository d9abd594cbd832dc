#include "core/integer_layout.h"

#include <algorithm>

#include "core/tile.h"

namespace keras_adder {
namespace internal {
namespace {

bool Slides(const Geometry& geometry, DataType type,
            const FusedKernels& kernels) {
  const Axis& width = geometry.width;
  return type == DataType::kUint8 && kernels.sliding.max_sources > 0 &&
         width.kernel >= 3 && width.stride == 1 && width.dilation == 1;
}

}  // namespace

IntegerLayout::IntegerLayout(const Geometry& all, DataType type,
                             const FusedKernels& kernels)
    : geometry(all),
      sliding(Slides(all, type, kernels)),
      sums(sliding                    ? kernels.sliding
           : type == DataType::kUint8 ? kernels.bytes
                                      : kernels.words),
      element_bytes(SizeOf(type)) {
  const Axis& height = geometry.height;
  const Axis& width = geometry.width;
  if (!sliding) {
    pitch = steps() * step_bytes();
    runs.push_back({0, step_bytes(), steps()});
    return;
  }
  // The last source's last step reads eight bytes; transposing writes whole
  // groups of eight columns.
  pitch = std::max(RoundUp(width.output, kSlidingOutputs) + sliding_columns(),
                   width.pad_before + RoundUp(width.input, 8));
  const int64_t channels = geometry.group_in();
  const bool in_one = height.dilation == 1;
  for (int64_t column = 0; column < sliding_columns(); column += kSlidingTaps) {
    for (int64_t row = 0; row < (in_one ? 1 : height.kernel); ++row) {
      runs.push_back({column + row * height.dilation * channels * pitch, pitch,
                      (in_one ? height.kernel : 1) * channels});
    }
  }
}

int64_t IntegerLayout::sliding_columns() const {
  return RoundUp(geometry.width.kernel, kSlidingTaps);
}

int64_t IntegerLayout::steps() const {
  if (sliding) {
    return sliding_columns() / kSlidingTaps * geometry.height.kernel *
           geometry.group_in();
  }
  return CeilDiv(geometry.kernel_taps() * geometry.group_in(),
                 sums.step_elements);
}

int64_t IntegerLayout::FilterElement(int64_t step, int64_t element) const {
  const int64_t channels = geometry.group_in();
  int64_t index = step * sums.step_elements + element;
  if (sliding) {
    const int64_t rows = geometry.height.kernel;
    const int64_t channel = step % channels;
    const int64_t row = step / channels % rows;
    const int64_t column = step / channels / rows * kSlidingTaps + element;
    if (column >= geometry.width.kernel) return -1;
    index = (row * geometry.width.kernel + column) * channels + channel;
  } else if (index >= geometry.kernel_taps() * channels) {
    return -1;
  }
  return index * geometry.out_channels;
}

int64_t IntegerLayout::TileBytes(int64_t rows) const {
  if (sliding) return InputRows(rows) * geometry.group_in() * pitch;
  return rows * geometry.width.output * pitch;
}

}  // namespace internal
}  // namespace keras_adder
