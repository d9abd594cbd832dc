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

// One group of channels of an image tensor.
struct Image {
  Strides strides;
  int64_t batch;
  int64_t height;
  int64_t width;
  int64_t channels;  // of a group
  RowPatches patches = {};
};

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
  Inside inside;
  inside.before =
      first >= 0 ? 0 : std::min(segment.count, CeilDiv(-first, step));
  inside.position = first + inside.before * step;
  const int64_t fit =
      inside.position < size ? CeilDiv(size - inside.position, step) : 0;
  inside.count = std::min(segment.count - inside.before, fit);
  return inside;
}

// Of patches `first` ... `first + count - 1` of a row of an image, `channels`
// lanes from `lane` on. `row` is the row's first element.
template <typename T, typename C>
void PackPatches(const KernelSet& set, const T* row, const Image& image,
                 int64_t first, int64_t count, int64_t lane, int channels,
                 C* to) {
  const RowPatches& patches = image.patches;
  const auto pack = CopiesOf<T>(set).pack;
  const int64_t taps = image.channels / patches.channels;
  const auto column = [&](int64_t patch) {
    return patch * patches.stride - patches.pad_before;
  };
  const auto inside = [&](int64_t patch) {
    return column(patch) >= 0 && column(patch) + taps <= patches.width;
  };
  const int64_t end = first + count;
  for (int64_t patch = first; patch < end;) {
    const T* from = row + column(patch) * patches.channels + lane;
    Run run{1, kLanes, patches.stride * patches.channels, 1};
    if (inside(patch)) {
      run.channels = channels;
      while (patch + run.count < end && inside(patch + run.count)) ++run.count;
      pack(from, run, to);
    } else {
      T edge[kLanes] = {};
      for (int i = 0; i < channels; ++i) {
        const int64_t at = column(patch) + (lane + i) / patches.channels;
        if (at >= 0 && at < patches.width) edge[i] = from[i];
      }
      pack(edge, run, to);
    }
    patch += run.count;
    to += run.count * kLanes;
  }
}

// Adds the patches of one row up to the row itself, which takes
// image.patches.width pixels.
template <typename C>
void AddPatches(const C* tile, ptrdiff_t plane_stride, const Image& image,
                C* row) {
  const RowPatches& patches = image.patches;
  const int64_t size = patches.width * patches.channels;
  std::fill_n(row, size, C{0});
  for (int64_t patch = 0; patch < image.width; ++patch) {
    const int64_t start =
        (patch * patches.stride - patches.pad_before) * patches.channels;
    const int64_t first = std::max<int64_t>(0, -start);
    const int64_t end = std::min(image.channels, size - start);
    for (int64_t v = first; v < end;) {
      const int64_t lane = v % kLanes;
      const int64_t lanes = std::min(kLanes - lane, end - v);
      const C* from = tile + v / kLanes * plane_stride + patch * kLanes + lane;
      for (int64_t i = 0; i < lanes; ++i) row[start + v + i] += from[i];
      v += lanes;
    }
  }
}

}  // namespace internal

// Calls visit(slot, count, inside, offset) for every run of neighbouring slots
// of one plane: `offset` is that of the run's first element inside the image,
// counted from the plane's first channel; the rest of the run is outside.
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
    const int64_t base = (at.image + n) * image.strides.batch;
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
                base + row * image.strides.height +
                    inside.position * image.strides.width);
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
// outside the image (the padding) become zeros. Whole planes of channels that
// are neighbours go together, pixel by pixel, as they lie in memory.
template <typename T, typename C>
void PackTile(const KernelSet& set, const T* tensor, const Image& image,
              const AxisPlan& rows, const AxisPlan& columns,
              const BlockOrigin& at, int64_t first_plane, int64_t planes,
              int64_t plane_stride, C* tile) {
  const auto pack = CopiesOf<T>(set).pack;
  const auto clear = [&](C* to, int64_t slots, int64_t count) {
    for (int64_t p = 0; p < count; ++p) {
      std::memset(to + p * plane_stride, 0, slots * kLanes * sizeof(C));
    }
  };
  ForEachPlanes(
      image, columns, at.group, first_plane, planes, plane_stride,
      [&](int64_t p, int64_t first, Run run) {
        C* plane = tile + p * plane_stride;
        ForEachRun(
            image, rows, columns, at,
            [&](int64_t slot, int64_t count, const internal::Inside& inside,
                int64_t offset) {
              C* to = plane + slot * kLanes;
              if (image.patches.used() && inside.count > 0) {
                return internal::PackPatches(
                    set,
                    tensor + offset - inside.position * image.strides.width,
                    image, inside.position, inside.count,
                    (first_plane + p) * kLanes, run.channels, to);
              }
              const int64_t after = count - inside.before - inside.count;
              clear(to, inside.before, run.planes);
              to += inside.before * kLanes;
              run.count = inside.count;
              if (run.count > 0) pack(tensor + first + offset, run, to);
              clear(to + inside.count * kLanes, after, run.planes);
            });
      });
}

// Unpacks what PackTile packed of row patches: each element of the image
// becomes the sum of its places in all patches. A tile has whole rows and all
// planes; `row` is scratch memory for one row of the image.
template <typename T, typename C>
void UnpackPatches(const KernelSet& set, const C* tile, const Image& image,
                   const AxisPlan& rows, const AxisPlan& columns,
                   const BlockOrigin& at, int64_t plane_stride, C* row,
                   T* tensor) {
  const auto unpack = CopiesOf<T>(set).unpack;
  const int64_t size = image.patches.width * image.patches.channels;
  ForEachRun(image, rows, columns, at,
             [&](int64_t slot, int64_t, const internal::Inside& inside,
                 int64_t offset) {
               if (inside.count == 0) return;
               internal::AddPatches(tile + slot * kLanes, plane_stride, image,
                                    row);
               T* to = tensor + offset;
               const int64_t whole = size / kLanes;
               unpack(row, Run{whole, kLanes, kLanes, 1}, to);
               const int rest = static_cast<int>(size % kLanes);
               if (rest == 0) return;
               unpack(row + whole * kLanes, Run{1, rest, kLanes, 1},
                      to + whole * kLanes);
             });
}

// The opposite of PackTile, at those positions that exist.
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
                          int64_t offset) {
                        run.count = inside.count;
                        if (run.count > 0) {
                          unpack(plane + (slot + inside.before) * kLanes, run,
                                 tensor + first + offset);
                        }
                      });
                });
}

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_TILE_H_
