#include "core/patches.h"

#include "core/tile.h"

namespace keras_adder {
namespace {

// A window's axis along which patches are one pixel long, or filters are.
Axis OnePixelLong(int64_t length) { return {length, 1, length, 1, 1, 0}; }

bool LiesInRows(const Geometry& geometry) {
  return geometry.groups == 1 && geometry.in_channels > 0 &&
         geometry.width.dilation == 1 && geometry.input.channel == 1 &&
         geometry.input.width == geometry.in_channels &&
         geometry.input.height == geometry.width.input * geometry.in_channels;
}

// Patches of `window` x geometry.width taps, for filters of `rest` x 1, if they
// take no more than `most` planes, and half of those at most that their taps
// take one by one.
Geometry WithPatches(const Geometry& geometry, const Axis& window,
                     const Axis& rest, int64_t most) {
  const int64_t channels = geometry.in_channels;
  if (!LiesInRows(geometry) ||
      window.kernel * geometry.width.kernel > most * kLanes / channels) {
    return geometry;
  }
  const int64_t taps = window.kernel * geometry.width.kernel;
  if (2 * Planes(taps * channels) > taps * Planes(channels)) return geometry;
  Geometry result = geometry;
  result.patches = {channels, window, geometry.width};
  result.in_channels = taps * channels;
  result.height = rest;
  result.width = OnePixelLong(geometry.width.output);
  return result;
}

}  // namespace

Geometry WithRowsAsChannels(const Geometry& geometry) {
  // What a tile holds at once.
  constexpr int64_t kMostPlanes = 4;
  return WithPatches(geometry, OnePixelLong(geometry.height.input),
                     geometry.height, kMostPlanes);
}

Geometry WithWindowsAsChannels(const Geometry& geometry) {
  // What stays in the first-level cache.
  constexpr int64_t kMostPlanes = 4;
  return WithPatches(geometry, geometry.height,
                     OnePixelLong(geometry.height.output), kMostPlanes);
}

}  // namespace keras_adder
