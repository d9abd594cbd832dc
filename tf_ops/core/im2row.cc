#include "core/im2row.h"

#include <algorithm>

#include "core/tile.h"

namespace keras_adder {
namespace {

// The axis of a window, or of filters, that is one pixel long.
Axis OnePixelLong(int64_t length) { return {length, 1, length, 1, 1, 0}; }

bool LiesInRows(const Geometry& geometry) {
  return geometry.groups == 1 && geometry.in_channels > 0 &&
         geometry.width.dilation == 1 && geometry.input_strides.channel == 1 &&
         geometry.input_strides.width == geometry.in_channels &&
         geometry.input_strides.height ==
             geometry.width.input * geometry.in_channels;
}

// The same convolution with im2row of `window` x geometry.width taps, for
// filters of `rest` x 1.
Geometry WithIm2row(const Geometry& geometry, const Axis& window,
                    const Axis& rest) {
  Geometry result = geometry;
  result.im2row = {geometry.in_channels, window, geometry.width};
  result.in_channels *= window.kernel * geometry.width.kernel;
  result.height = rest;
  result.width = OnePixelLong(geometry.width.output);
  return result;
}

Geometry OfRows(const Geometry& geometry) {
  return WithIm2row(geometry, OnePixelLong(geometry.height.input),
                    geometry.height);
}

Geometry OfWindows(const Geometry& geometry) {
  return WithIm2row(geometry, geometry.height,
                    OnePixelLong(geometry.height.output));
}

// How many channel blocks of the input an output meets, tap by tap.
int64_t MetBlocks(const Geometry& geometry) {
  return geometry.kernel_taps() * ChannelBlocks(geometry.in_channels);
}

// The time that an output's pixel takes, in units of a filter's meeting with a
// block: measured for 1 to 17 channels, 16 to 64 filters of 3x3 to 7x7. To pack
// a channel, and add its gradient up, takes as long as two and a half.
double TimeOfGradients(const Geometry& geometry) {
  return 1.0 * geometry.out_channels * MetBlocks(geometry) +
         2.5 * geometry.in_channels;
}

}  // namespace

Geometry ChooseForwardLowering(const Geometry& geometry) {
  constexpr int64_t kMost = 4;  // channel blocks, which a tile holds at once
  if (!LiesInRows(geometry)) return geometry;
  const Geometry rows = OfRows(geometry);
  const bool pays = ChannelBlocks(rows.in_channels) <= kMost &&
                    2 * MetBlocks(rows) <= MetBlocks(geometry);
  return pays ? rows : geometry;
}

std::vector<Geometry> GradientLowerings(const Geometry& geometry) {
  if (!LiesInRows(geometry)) return {geometry};
  std::vector<Geometry> all = {geometry, OfRows(geometry), OfWindows(geometry)};
  std::stable_sort(all.begin(), all.end(),
                   [](const Geometry& one, const Geometry& other) {
                     return TimeOfGradients(one) < TimeOfGradients(other);
                   });
  return all;
}

}  // namespace keras_adder
