// Packs pixels of image tensors into tiles, and unpacks them.

#ifndef KERAS_ADDER_CORE_TILE_H_
#define KERAS_ADDER_CORE_TILE_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/axis_plan.h"
#include "core/geometry.h"
#include "core/im2row.h"
#include "core/kernels/kernels.h"

namespace keras_adder {

inline int64_t CeilDiv(int64_t value, int64_t by) {
  return value / by + (value % by != 0);
}

inline int64_t RoundUp(int64_t value, int64_t multiple) {
  return CeilDiv(value, multiple) * multiple;
}

// How many blocks of kLanes channels there are; oneDNN's nChw16c has the same.
inline int64_t ChannelBlocks(int64_t channels) {
  return CeilDiv(channels, kLanes);
}

// Some neighbouring channel blocks.
struct BlockRange {
  int64_t first;
  int64_t count;
};

// Deals channel blocks out evenly into ranges of at most `most`.
inline std::vector<BlockRange> SplitBlocks(int64_t blocks, int64_t most) {
  std::vector<BlockRange> ranges;
  const int64_t count = CeilDiv(blocks, most);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = blocks * i / count;
    ranges.push_back({first, blocks * (i + 1) / count - first});
  }
  return ranges;
}

inline int64_t MostBlocks(const std::vector<BlockRange>& ranges) {
  int64_t most = 0;
  for (const BlockRange& range : ranges) most = std::max(most, range.count);
  return most;
}

// How many of `channels` channel block `block` has: the last may be short.
inline int BlockChannels(int64_t channels, int64_t block) {
  return static_cast<int>(std::min<int64_t>(kLanes, channels - block * kLanes));
}

struct Pixel {
  int64_t image, row, column;
};

// One group of channels of an image tensor.
struct Image {
  ImageStrides strides;
  int64_t batch;
  int64_t height;
  int64_t width;
  int64_t channels;  // of a group
  Im2row im2row = {};

  // Where a pixel's first channel lies, in a tensor that is not read as im2row.
  int64_t OffsetOf(const Pixel& pixel) const {
    return pixel.image * strides.batch + pixel.row * strides.height +
           pixel.column * strides.width;
  }
};

inline Image InputImage(const Geometry& geometry) {
  return {geometry.input_strides, geometry.batch,      geometry.height.input,
          geometry.width.input,   geometry.group_in(), geometry.im2row};
}

inline Image OutputImage(const Geometry& geometry) {
  return {geometry.output_strides, geometry.batch, geometry.height.output,
          geometry.width.output, geometry.group_out()};
}

// The pixels of a tile, and the group of channels that it belongs to.
struct TileBounds {
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
  TileBounds At(int64_t tile) const {
    const auto take = [&tile](int64_t count) {
      const int64_t digit = tile % count;
      tile /= count;
      return digit;
    };
    TileBounds at;
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

// The part of a run of slots that lies inside 0 .. size-1.
struct ClippedSlotRun {
  int64_t before;  // slots that lie before position 0
  int64_t count;
  int64_t position;  // of the first slot inside
};

inline ClippedSlotRun Clip(const SlotRun& run, int64_t start, int64_t step,
                           int64_t size) {
  const int64_t first = start * step + run.shift;
  const Range range = PositionsInside(first, step, run.count, size);
  return {range.first, range.count, first + range.first * step};
}

}  // namespace internal

// Calls visit(slot, count, inside, pixel) for every span of neighbouring slots
// of one block: `pixel` is the first one inside the image, the rest of the span
// is outside.
template <typename Visit>
void ForEachSpan(const Image& image, const AxisPlan& rows,
                 const AxisPlan& columns, const TileBounds& at,
                 const Visit& visit) {
  // Of every row; most plans have one run.
  const auto clip = [&](const SlotRun& run) {
    return internal::Clip(run, at.column, columns.step, image.width);
  };
  const internal::ClippedSlotRun first = clip(columns.slot_runs[0]);
  for (int64_t n = 0; n < at.images; ++n) {
    for (const SlotRun& row_run : rows.slot_runs) {
      const internal::ClippedSlotRun row_inside =
          internal::Clip(row_run, at.row, rows.step, image.height);
      for (int64_t i = 0; i < row_run.count; ++i) {
        const int64_t slot =
            (n * rows.slots + row_run.first + i) * columns.slots;
        const int64_t in_row = i - row_inside.before;
        const bool row_exists = in_row >= 0 && in_row < row_inside.count;
        const int64_t row = row_inside.position + in_row * rows.step;
        for (size_t j = 0; j < columns.slot_runs.size(); ++j) {
          const SlotRun& run = columns.slot_runs[j];
          internal::ClippedSlotRun inside = j == 0 ? first : clip(run);
          if (!row_exists) inside = {run.count, 0, 0};
          visit(slot + run.first, run.count, inside,
                Pixel{at.image + n, row, inside.position});
        }
      }
    }
  }
}

// Calls visit(p, channel, span) for some blocks of an image, of which block p
// is the first of a span and `channel` its first element: whole blocks whose
// channels are neighbours in the tensor go together, others one by one. In a
// tile the blocks lie `block_stride` elements apart.
template <typename Visit>
void ForEachBlocks(const Image& image, const AxisPlan& columns, int64_t group,
                   int64_t first_block, int64_t blocks, int64_t block_stride,
                   const Visit& visit) {
  const bool neighbours = image.strides.channel == 1 && !image.im2row.used();
  const int64_t whole =
      neighbours ? std::clamp<int64_t>(image.channels / kLanes - first_block, 0,
                                       blocks)
                 : 0;
  PixelSpan span;
  span.pixel_stride = columns.step * image.strides.width;
  span.channel_stride = image.strides.channel;
  span.block_stride = block_stride;
  for (int64_t p = 0; p < blocks; p += span.blocks) {
    span.blocks = p < whole ? whole - p : 1;
    span.channels = BlockChannels(image.channels, first_block + p);
    const int64_t channel = group * image.channels + (first_block + p) * kLanes;
    visit(p, channel * image.strides.channel, span);
  }
}

// Fills blocks first_block .. first_block + blocks - 1 of the group; positions
// outside the image and lanes beyond the channels become zero.
template <typename T, typename C>
void PackTile(const KernelSet& set, const T* tensor, const Image& image,
              const AxisPlan& rows, const AxisPlan& columns,
              const TileBounds& at, int64_t first_block, int64_t blocks,
              int64_t block_stride, C* tile) {
  const auto pack = CopiesOf<T>(set).pack;
  const auto clear = [&](C* to, int64_t slots, int64_t of_blocks) {
    if (slots == 0) return;  // so small a memset costs more than this
    for (int64_t p = 0; p < of_blocks; ++p) {
      std::memset(to + p * block_stride, 0, slots * kLanes * sizeof(C));
    }
  };
  ForEachBlocks(
      image, columns, at.group, first_block, blocks, block_stride,
      [&](int64_t p, int64_t first, PixelSpan span) {
        C* block = tile + p * block_stride;
        ForEachSpan(
            image, rows, columns, at,
            [&](int64_t slot, int64_t count,
                const internal::ClippedSlotRun& inside, const Pixel& pixel) {
              const int64_t after = count - inside.before - inside.count;
              C* to = block + slot * kLanes;
              clear(to, inside.before, span.blocks);
              to += inside.before * kLanes;
              clear(to + inside.count * kLanes, after, span.blocks);
              if (inside.count == 0) return;
              if (image.im2row.used()) {
                return PackIm2row(
                    set, tensor, image.strides, image.im2row,
                    {pixel.image, pixel.row, pixel.column, inside.count},
                    (first_block + p) * kLanes, span.channels, to);
              }
              span.count = inside.count;
              pack(tensor + first + image.OffsetOf(pixel), span, to);
            });
      });
}

// UnpackTile does the opposite, at those positions that exist.
template <typename T, typename C>
void UnpackTile(const KernelSet& set, const C* tile, const Image& image,
                const AxisPlan& rows, const AxisPlan& columns,
                const TileBounds& at, int64_t first_block, int64_t blocks,
                int64_t block_stride, T* tensor) {
  const auto unpack = CopiesOf<T>(set).unpack;
  ForEachBlocks(
      image, columns, at.group, first_block, blocks, block_stride,
      [&](int64_t p, int64_t first, PixelSpan span) {
        const C* block = tile + p * block_stride;
        ForEachSpan(
            image, rows, columns, at,
            [&](int64_t slot, int64_t, const internal::ClippedSlotRun& inside,
                const Pixel& pixel) {
              span.count = inside.count;
              if (span.count > 0) {
                unpack(block + (slot + inside.before) * kLanes, span,
                       tensor + first + image.OffsetOf(pixel));
              }
            });
      });
}

// AddIm2rowOfTile does it for all blocks of im2row pixels, whose places in an
// image are added up (col2im): `images` has room for all of the tile's images,
// one behind the other.
template <typename C>
void AddIm2rowOfTile(const KernelSet& set, const C* tile, const Image& image,
                     const AxisPlan& rows, const AxisPlan& columns,
                     const TileBounds& at, int64_t block_stride, C* images) {
  const int64_t size = image.im2row.image_elements();
  for (int64_t p = 0; p < ChannelBlocks(image.channels); ++p) {
    const C* block = tile + p * block_stride;
    ForEachSpan(
        image, rows, columns, at,
        [&](int64_t slot, int64_t, const internal::ClippedSlotRun& inside,
            const Pixel& pixel) {
          if (inside.count == 0) return;
          AddIm2row(set, block + (slot + inside.before) * kLanes, image.im2row,
                    {pixel.image, pixel.row, pixel.column, inside.count},
                    p * kLanes, BlockChannels(image.channels, p),
                    images + (pixel.image - at.image) * size);
        });
  }
}

// Writes elements that lie in one piece.
template <typename T, typename C>
void UnpackElements(const KernelSet& set, const C* from, int64_t count, T* to) {
  const auto unpack = CopiesOf<T>(set).unpack;
  const int64_t whole = count / kLanes;
  const int rest = static_cast<int>(count % kLanes);
  unpack(from, PixelSpan{whole, kLanes, kLanes, 1}, to);
  if (rest == 0) return;
  unpack(from + whole * kLanes, PixelSpan{1, rest, kLanes, 1},
         to + whole * kLanes);
}

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_TILE_H_
