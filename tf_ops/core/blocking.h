// How a correlation is cut into work items. Two passes correlate a source image
// with filters, and share this:
//
//   pass             source            destination       inner operation
//   forward          input             output            |F - x|
//   input gradient   output gradient   input gradient    g HT(F - centre)
//
// A work item is a tile of destination pixels of one group and a few blocks of
// its channels. It packs its sources into a tile (with real zeros where the
// padding is), unless kernels read them in place, and sums in a tile of totals.
// Nothing else is kept: scratch memory is fixed per thread, whatever the batch.
//
// The order in which a destination's terms are summed depends on the geometry
// of images, filters and channels alone, not on tiles, batch or threads.
//
// A blocking takes memory for each tap along an axis and each block of
// channels, and none for each pixel: geometry.cc limits the former.

#ifndef KERAS_ADDER_CORE_BLOCKING_H_
#define KERAS_ADDER_CORE_BLOCKING_H_

#include <cstdint>
#include <vector>

#include "core/axis_plan.h"
#include "core/geometry.h"
#include "core/kernels/kernels.h"
#include "core/packed_filters.h"
#include "core/tile.h"

namespace keras_adder {
namespace internal {

// The positions of an axis that a pass visits: destinations `destination_step`
// apart, whose sources lie `source_step` apart. The forward pass has one phase,
// the input gradient one for each residue modulo the stride.
struct AxisPhases {
  std::vector<Phase> phases;  // the first is the longest
  int64_t source_step;
  int64_t destination_step;
};

// A phase, planned for tiles of one length.
struct PlannedPhase {
  AxisPlan source;
  AxisPlan destination;
  int64_t count;
};

// Where a work item works. In phases that are shorter than the first, it may
// have no rows or no columns.
struct WorkItem {
  const PlannedPhase* rows;
  const PlannedPhase* columns;
  TileBounds at;
  BlockRange blocks;  // of destinations

  bool empty() const { return at.rows <= 0 || at.columns <= 0; }
  // The source that the first destination meets under a tap without a shift.
  Pixel source_origin() const {
    return {at.image, at.row * rows->source.step,
            at.column * columns->source.step};
  }
};

// Runs of a work item's pixels that meet the same rows of taps inside the
// image: its rows or, where nothing overlaps, whole images.
struct RowSegments {
  int64_t first_tap_row, tap_rows;
  int64_t pixels;             // of each
  bool starts_row, ends_row;  // of the image: columns of taps may be outside
  std::vector<RunOffsets> starts;
};

// Of some columns of taps, how many lie in the padding for the first and for
// the last pixel of an image's row.
struct OutsideColumns {
  int64_t leading = 0;
  int64_t trailing = 0;
};

// How kernels meet sources, which decides what the segments of a row are.
struct SourceAccess {
  bool in_place = false;   // they read the tensor where it lies, and no tile
  OutsideColumns outside;  // they leave these columns of taps out
};

// Cuts the terms of a sum, channel blocks and taps, into reduction blocks.
// `by_taps`: taps may belong to several; `phases`: so many meet different taps.
std::vector<ReductionBlock> SplitReduction(int64_t channel_blocks,
                                           const Axis& height,
                                           const Axis& width, int64_t phases,
                                           bool by_taps);

struct Blocking {
  // `compute_bytes` is the size in bytes of the type that is computed in.
  Blocking(const Image& source, const Image& destination, int64_t groups,
           const PackedFilters& filters, const AxisPhases& rows,
           const AxisPhases& columns,
           const std::vector<ReductionBlock>& reduction_blocks,
           int64_t compute_bytes, int threads);

  WorkItem WorkItemAt(int64_t index) const;
  // Those of a work item for rows first_tap ... first_tap + taps - 1 of taps.
  std::vector<RowSegments> SegmentsOf(const WorkItem& item,
                                      const SourceAccess& access,
                                      int64_t first_tap, int64_t taps) const;

  // Destination pixels of a tile, and the most sources that it meets.
  int64_t tile_pixels() const { return tile_images * tile_rows * tile_columns; }
  int64_t most_source_slots() const;
  // Elements of a block of channels of so many images of an item's sources.
  static int64_t SourceBlockElements(const WorkItem& item, int64_t images) {
    return images * item.rows->source.slots * item.columns->source.slots *
           kLanes;
  }
  // The filter panel of a block of destinations of an item.
  int64_t PanelOf(const WorkItem& item, int64_t block) const {
    return item.at.group * ChannelBlocks(destination.channels) +
           item.blocks.first + block;
  }

  Image source, destination;
  int64_t groups;
  int64_t compute_bytes;
  // A sum is made up of sums over these, in this order: a matter of accuracy,
  // so of the filters' geometry alone.
  std::vector<ReductionBlock> reduction_blocks;
  // The destination blocks that an item handles are one of these.
  std::vector<BlockRange> destination_ranges;
  int64_t tile_images, tile_rows, tile_columns;
  std::vector<PlannedPhase> row_phases, column_phases;
  int64_t work_items = 0;
  int threads;
  bool ranges_outermost = false;  // see PackedFilters::FiltersDominate

 private:
  void ChooseTiles(const AxisPhases& rows, const AxisPhases& columns);
  void MakeManyItems(int64_t rows, int64_t columns, int64_t phases);
  int64_t ItemsOfPhase(int64_t rows, int64_t columns) const;
  bool MeetsPadding(const PlannedPhase& rows,
                    const OutsideColumns& outside) const;
};

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_BLOCKING_H_
