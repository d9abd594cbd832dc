// Moving blocks of image tensors into tiles and back.

#ifndef KERAS_ADDER_CORE_TILE_H_
#define KERAS_ADDER_CORE_TILE_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/axis_plan.h"
#include "core/geometry.h"
#include "core/kernels/kernels.h"
#include "core/patches.h"

namespace keras_adder {

inline int64_t CeilDiv(int64_t value, int64_t by) {
  return value / by + (value % by != 0);
}

inline int64_t RoundUp(int64_t value, int64_t multiple) {
  return CeilDiv(value, multiple) * multiple;
}

inline int64_t Planes(int64_t channels) { return CeilDiv(channels, kLanes); }

// Some of the planes.
struct PlaneRange {
  int64_t first;
  int64_t planes;
};

// Deals planes out evenly into ranges of at most `most`.
inline std::vector<PlaneRange> DealPlanes(int64_t planes, int64_t most) {
  std::vector<PlaneRange> ranges;
  const int64_t count = CeilDiv(planes, most);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = planes * i / count;
    ranges.push_back({first, planes * (i + 1) / count - first});
  }
  return ranges;
}

inline int64_t MostPlanes(const std::vector<PlaneRange>& ranges) {
  int64_t most = 0;
  for (const PlaneRange& range : ranges) most = std::max(most, range.planes);
  return most;
}

// Channels of plane `plane` out of `channels`.
inline int PlaneChannels(int64_t channels, int64_t plane) {
  return static_cast<int>(std::min<int64_t>(kLanes, channels - plane * kLanes));
}

struct Pixel {
  int64_t image, row, column;
};

// One group of channels of an image tensor.
struct Image {
  Strides strides;
  int64_t batch;
  int64_t height;
  int64_t width;
  int64_t channels;  // of a group
  Patches patches = {};

  // Of its first channel, in a tensor whose pixels are no patches.
  int64_t OffsetOf(const Pixel& pixel) const {
    return pixel.image * strides.batch + pixel.row * strides.height +
           pixel.column * strides.width;
  }
};

inline Image InputImage(const Geometry& geometry) {
  return {geometry.input,       geometry.batch,      geometry.height.input,
          geometry.width.input, geometry.group_in(), geometry.patches};
}

inline Image OutputImage(const Geometry& geometry) {
  return {geometry.output, geometry.batch, geometry.height.output,
          geometry.width.output, geometry.group_out()};
}

// A block of destinations and the group it belongs to.
struct BlockOrigin {
  int64_t image, images;
  int64_t row, rows;
  int64_t column, columns;
  int64_t group;
};

// The pixels of a batch of images, cut into tiles.
struct TileGrid {
  int64_t batch, height, width;
  int64_t images, rows, columns;  // of a tile

  int64_t size() const {
    return CeilDiv(batch, images) * CeilDiv(height, rows) *
           CeilDiv(width, columns);
  }

  // Tile number `tile`, of group 0; those at the ends may be smaller.
  BlockOrigin At(int64_t tile) const {
    const auto take = [&tile](int64_t count) {
      const int64_t digit = tile % count;
      tile /= count;
      return digit;
    };
    BlockOrigin at;
    at.column = take(CeilDiv(width, columns)) * columns;
    at.row = take(CeilDiv(height, rows)) * rows;
    at.image = tile * images;
    at.columns = std::min(columns, width - at.column);
    at.rows = std::min(rows, height - at.row);
    at.images = std::min(images, batch - at.image);
    at.group = 0;
    return at;
  }
};

namespace internal {

// The part of a segment that lies inside 0 .. size-1.
struct Inside {
  int64_t before;  // slots that lie before position 0
  int64_t count;
  int64_t position;  // of the first slot inside
};

inline Inside Clip(const Segment& segment, int64_t start, int64_t step,
                   int64_t size) {
  const int64_t first = start * step + segment.shift;
  const Range range = PositionsInside(first, step, segment.count, size);
  return {range.first, range.count, first + range.first * step};
}

}  // namespace internal

// Calls visit(slot, count, inside, pixel) for every run of neighbouring slots
// of one plane: `pixel` is the first one inside the image, the rest of the run
// is outside.
template <typename Visit>
void ForEachRun(const Image& image, const AxisPlan& rows,
                const AxisPlan& columns, const BlockOrigin& at,
                const Visit& visit) {
  // Of every row; most plans have one segment.
  const auto clip = [&](const Segment& run) {
    return internal::Clip(run, at.column, columns.step, image.width);
  };
  const internal::Inside first = clip(columns.segments[0]);
  for (int64_t n = 0; n < at.images; ++n) {
    for (const Segment& row_run : rows.segments) {
      const internal::Inside row_inside =
          internal::Clip(row_run, at.row, rows.step, image.height);
      for (int64_t i = 0; i < row_run.count; ++i) {
        const int64_t slot =
            (n * rows.slots + row_run.first + i) * columns.slots;
        const int64_t in_row = i - row_inside.before;
        const bool row_exists = in_row >= 0 && in_row < row_inside.count;
        const int64_t row = row_inside.position + in_row * rows.step;
        for (size_t j = 0; j < columns.segments.size(); ++j) {
          const Segment& run = columns.segments[j];
          internal::Inside inside = j == 0 ? first : clip(run);
          if (!row_exists) inside = {run.count, 0, 0};
          visit(slot + run.first, run.count, inside,
                Pixel{at.image + n, row, inside.position});
        }
      }
    }
  }
}

// Calls visit(p, channel, run) for some planes of an image, of which plane p is
// the first of a run and `channel` its first element: whole planes whose
// channels are neighbours in the tensor go together, others one by one. In a
// tile the planes lie `plane_stride` elements apart.
template <typename Visit>
void ForEachPlanes(const Image& image, const AxisPlan& columns, int64_t group,
                   int64_t first_plane, int64_t planes, int64_t plane_stride,
                   const Visit& visit) {
  const bool neighbours = image.strides.channel == 1 && !image.patches.used();
  const int64_t whole =
      neighbours ? std::clamp<int64_t>(image.channels / kLanes - first_plane, 0,
                                       planes)
                 : 0;
  Run run;
  run.pixel_stride = columns.step * image.strides.width;
  run.channel_stride = image.strides.channel;
  run.next_plane = plane_stride;
  for (int64_t p = 0; p < planes; p += run.planes) {
    run.planes = p < whole ? whole - p : 1;
    run.channels = PlaneChannels(image.channels, first_plane + p);
    const int64_t channel = group * image.channels + (first_plane + p) * kLanes;
    visit(p, channel * image.strides.channel, run);
  }
}

// Fills planes first_plane .. first_plane + planes - 1 of the group; positions
// outside the image and lanes beyond the channels become zero.
template <typename T, typename C>
void PackTile(const KernelSet& set, const T* tensor, const Image& image,
              const AxisPlan& rows, const AxisPlan& columns,
              const BlockOrigin& at, int64_t first_plane, int64_t planes,
              int64_t plane_stride, C* tile) {
  const auto pack = CopiesOf<T>(set).pack;
  const auto clear = [&](C* to, int64_t slots, int64_t of_planes) {
    if (slots == 0) return;  // so small a memset costs more than this
    for (int64_t p = 0; p < of_planes; ++p) {
      std::memset(to + p * plane_stride, 0, slots * kLanes * sizeof(C));
    }
  };
  ForEachPlanes(
      image, columns, at.group, first_plane, planes, plane_stride,
      [&](int64_t p, int64_t first, Run run) {
        C* plane = tile + p * plane_stride;
        ForEachRun(image, rows, columns, at,
                   [&](int64_t slot, int64_t count,
                       const internal::Inside& inside, const Pixel& pixel) {
                     const int64_t after = count - inside.before - inside.count;
                     C* to = plane + slot * kLanes;
                     clear(to, inside.before, run.planes);
                     to += inside.before * kLanes;
                     clear(to + inside.count * kLanes, after, run.planes);
                     if (inside.count == 0) return;
                     if (image.patches.used()) {
                       return PackPatches(
                           set, tensor, image.strides, image.patches,
                           {pixel.image, pixel.row, pixel.column, inside.count},
                           (first_plane + p) * kLanes, run.channels, to);
                     }
                     run.count = inside.count;
                     pack(tensor + first + image.OffsetOf(pixel), run, to);
                   });
      });
}

// The opposite, at those positions that exist.
template <typename T, typename C>
void UnpackTile(const KernelSet& set, const C* tile, const Image& image,
                const AxisPlan& rows, const AxisPlan& columns,
                const BlockOrigin& at, int64_t first_plane, int64_t planes,
                int64_t plane_stride, T* tensor) {
  const auto unpack = CopiesOf<T>(set).unpack;
  ForEachPlanes(image, columns, at.group, first_plane, planes, plane_stride,
                [&](int64_t p, int64_t first, Run run) {
                  const C* plane = tile + p * plane_stride;
                  ForEachRun(
                      image, rows, columns, at,
                      [&](int64_t slot, int64_t, const internal::Inside& inside,
                          const Pixel& pixel) {
                        run.count = inside.count;
                        if (run.count > 0) {
                          unpack(plane + (slot + inside.before) * kLanes, run,
                                 tensor + first + image.OffsetOf(pixel));
                        }
                      });
                });
}

// The opposite for all planes of patches, whose places in an image are added
// up: `images` has room for all of the tile's, one behind the other.
template <typename C>
void AddPatchesOfTile(const KernelSet& set, const C* tile, const Image& image,
                      const AxisPlan& rows, const AxisPlan& columns,
                      const BlockOrigin& at, int64_t plane_stride, C* images) {
  const int64_t size = image.patches.image_elements();
  for (int64_t p = 0; p < Planes(image.channels); ++p) {
    const C* plane = tile + p * plane_stride;
    ForEachRun(image, rows, columns, at,
               [&](int64_t slot, int64_t, const internal::Inside& inside,
                   const Pixel& pixel) {
                 if (inside.count == 0) return;
                 AddPatches(
                     set, plane + (slot + inside.before) * kLanes,
                     image.patches,
                     {pixel.image, pixel.row, pixel.column, inside.count},
                     p * kLanes, PlaneChannels(image.channels, p),
                     images + (pixel.image - at.image) * size);
               });
  }
}

// Writes what lies in one piece.
template <typename T, typename C>
void UnpackElements(const KernelSet& set, const C* from, int64_t count, T* to) {
  const auto unpack = CopiesOf<T>(set).unpack;
  const int64_t whole = count / kLanes;
  const int rest = static_cast<int>(count % kLanes);
  unpack(from, Run{whole, kLanes, kLanes, 1}, to);
  if (rest == 0) return;
  unpack(from + whole * kLanes, Run{1, rest, kLanes, 1}, to + whole * kLanes);
}

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_TILE_H_
