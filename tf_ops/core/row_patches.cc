#include "core/row_patches.h"

#include "core/tile.h"

namespace keras_adder {

Geometry WithRowsAsChannels(const Geometry& geometry) {
  const Axis& width = geometry.width;
  const int64_t channels = geometry.in_channels;
  const bool neighbours = geometry.groups == 1 && width.dilation == 1 &&
                          geometry.input.channel == 1 &&
                          geometry.input.width == channels;
  // A row must fit into the few planes that a tile holds at once, and take half
  // of them at most that its taps take one by one.
  constexpr int64_t kMostPlanes = 4;
  if (!neighbours || channels == 0 ||
      width.kernel > kMostPlanes * kLanes / channels ||
      2 * Planes(width.kernel * channels) > width.kernel * Planes(channels)) {
    return geometry;
  }
  Geometry result = geometry;
  result.patches = {channels, width.input, width.stride, width.pad_before};
  result.in_channels = width.kernel * channels;
  result.width = {width.output, 1, width.output, 1, 1, 0};
  return result;
}

}  // namespace keras_adder
