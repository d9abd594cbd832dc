#include "core/blocking.h"

#include <algorithm>

namespace keras_adder {
namespace internal {
namespace {

// These sizes were found with `benchmarks/conv2d.py --destination_ranges main`
// on Zen 5, whose cores have 1 MiB of second-level cache. But for kChainTerms,
// no result depends on them.

// An item handles about this many bytes of totals, so that packed filters,
// which stream through the cache once an item, are used often, and no more than
// this many pixels.
constexpr int64_t kTotalsBytes = 256 << 10;
constexpr int64_t kItemPixels = 1024;
// Filters stream through the caches once an item: not for fewer pixels than
// this if it can be helped.
constexpr int64_t kLeastPixels = 256;
// Columns of a tile where rows overlap (filters taller than one pixel): wide
// enough for any kernel, narrow enough that several rows share their sources.
constexpr int64_t kTileColumns = 64;
// Destination blocks of an item.
constexpr int64_t kItemBlocks = 8;
// Bytes of an item's sources, in a tile or in place: a fraction of a core's
// second-level cache.
constexpr int64_t kSourceBytes = 256 << 10;
// How many terms are summed in registers before they are added to the totals,
// about: every term of a chain rounds, so short chains are accurate ones. At
// this length tests/ops/test_accuracy.py keeps its promise.
constexpr int64_t kChainTerms = 576;

// The largest of as few even destination_ranges of `count` as are no larger
// than `most`.
int64_t EvenPart(int64_t count, int64_t most) {
  return CeilDiv(count, CeilDiv(count, most));
}

PlannedPhase PlanPhase(const AxisPhases& axis, const Phase& phase,
                       int64_t length) {
  return {PlanAxis(phase.taps, axis.source_step, length),
          PlanAxis({{0, phase.residue}}, axis.destination_step, length),
          phase.count};
}

std::vector<PlannedPhase> PlanPhases(const AxisPhases& axis, int64_t length) {
  std::vector<PlannedPhase> planned;
  for (const Phase& phase : axis.phases) {
    planned.push_back(PlanPhase(axis, phase, length));
  }
  return planned;
}

int64_t MostSlots(const std::vector<PlannedPhase>& phases) {
  int64_t most = 0;
  for (const PlannedPhase& phase : phases) {
    most = std::max(most, phase.source.slots);
  }
  return most;
}

void Halve(int64_t* size) { *size = CeilDiv(*size, 2); }

}  // namespace

std::vector<ReductionBlock> SplitReduction(int64_t channel_blocks,
                                           const Axis& height,
                                           const Axis& width, int64_t phases,
                                           bool by_taps) {
  ReductionBlock most{0, 0, 0, height.kernel, 0, width.kernel, 0};
  if (by_taps) {
    most.columns = EvenPart(width.kernel, kChainTerms / kLanes);
    most.rows =
        EvenPart(height.kernel,
                 std::max<int64_t>(1, kChainTerms / (kLanes * most.columns)));
  }
  const int64_t taps = CeilDiv(most.rows * most.columns, phases);
  most.blocks =
      std::clamp<int64_t>(kChainTerms / (taps * kLanes), 1, channel_blocks);
  std::vector<ReductionBlock> all;
  int64_t rows = 0;
  for (int64_t block = 0; block < channel_blocks; block += most.blocks) {
    for (int64_t row = 0; row < height.kernel; row += most.rows) {
      for (int64_t column = 0; column < width.kernel; column += most.columns) {
        all.push_back({block, std::min(most.blocks, channel_blocks - block),
                       row, std::min(most.rows, height.kernel - row), column,
                       std::min(most.columns, width.kernel - column), rows});
        rows += all.back().rows;
      }
    }
  }
  return all;
}

Blocking::Blocking(const Image& source, const Image& destination,
                   int64_t groups, const PackedFilters& filters,
                   const AxisPhases& rows, const AxisPhases& columns,
                   const std::vector<ReductionBlock>& reduction_blocks,
                   int64_t compute_bytes, int threads)
    : source(source),
      destination(destination),
      groups(groups),
      compute_bytes(compute_bytes),
      reduction_blocks(reduction_blocks),
      threads(threads) {
  ChooseTiles(rows, columns);
  ranges_outermost = filters.FiltersDominate(
      source.batch * source.height * source.width * source.channels * groups);
  this->threads = static_cast<int>(std::min<int64_t>(threads, work_items));
  row_phases = PlanPhases(rows, tile_rows);
  column_phases = PlanPhases(columns, tile_columns);
}

// Tiles are a matter of speed and memory alone: no result depends on them. All
// phases share them, and the first is the longest.
void Blocking::ChooseTiles(const AxisPhases& row_axis,
                           const AxisPhases& column_axis) {
  const Phase& rows = row_axis.phases[0];
  const Phase& columns = column_axis.phases[0];
  const int64_t blocks =
      std::min(ChannelBlocks(destination.channels), kItemBlocks);
  destination_ranges = SplitBlocks(ChannelBlocks(destination.channels), blocks);
  const int64_t pixels =
      std::min(kItemPixels, kTotalsBytes / (blocks * kLanes * compute_bytes));
  const bool overlap = rows.taps.size() > 1 && rows.count > 1;
  tile_columns = EvenPart(columns.count,
                          overlap ? std::min(kTileColumns, pixels) : pixels);
  tile_rows = EvenPart(rows.count, std::max<int64_t>(1, pixels / tile_columns));
  tile_images =
      EvenPart(destination.batch,
               std::max<int64_t>(1, pixels / (tile_columns * tile_rows)));

  const auto shrink = [&]() {
    for (int64_t* size : {&tile_images, &tile_rows, &tile_columns}) {
      if (*size > 1) return Halve(size), true;
    }
    return false;
  };
  const auto source_slots = [&]() {
    return PlanPhase(row_axis, rows, tile_rows).source.slots *
           PlanPhase(column_axis, columns, tile_columns).source.slots *
           tile_images;
  };
  while (source_slots() * reduction_blocks[0].blocks * kLanes * compute_bytes >
             kSourceBytes &&
         shrink()) {
  }
  const int64_t phases = row_axis.phases.size() * column_axis.phases.size();
  MakeManyItems(rows.count, columns.count, phases);
  work_items = phases * ItemsOfPhase(rows.count, columns.count);
}

void Blocking::MakeManyItems(int64_t rows, int64_t columns, int64_t phases) {
  if (threads <= 1) return;
  const auto items = [&]() { return phases * ItemsOfPhase(rows, columns); };
  // So many that no thread waits long for another's last one.
  while (tile_images > 1 && tile_pixels() >= 2 * kLeastPixels &&
         items() < 16 * threads) {
    Halve(&tile_images);
  }
  // Enough of them for all threads.
  while (items() < 4 * threads) {
    if (tile_images > 1) {
      Halve(&tile_images);
    } else if (tile_rows > 4) {
      Halve(&tile_rows);
    } else if (destination_ranges[0].count > 1) {
      destination_ranges = SplitBlocks(ChannelBlocks(destination.channels),
                                       CeilDiv(destination_ranges[0].count, 2));
    } else if (tile_columns > 32) {
      Halve(&tile_columns);
    } else if (tile_rows > 1) {
      Halve(&tile_rows);
    } else {
      break;
    }
  }
}

int64_t Blocking::ItemsOfPhase(int64_t rows, int64_t columns) const {
  return CeilDiv(destination.batch, tile_images) * groups *
         CeilDiv(rows, tile_rows) * CeilDiv(columns, tile_columns) *
         destination_ranges.size();
}

int64_t Blocking::most_source_slots() const {
  return MostSlots(row_phases) * MostSlots(column_phases) * tile_images;
}

WorkItem Blocking::WorkItemAt(int64_t index) const {
  const auto take = [&index](int64_t count) {
    const int64_t digit = index % count;
    index /= count;
    return digit;
  };
  WorkItem item;
  TileBounds& at = item.at;
  if (!ranges_outermost)
    item.blocks = destination_ranges[take(destination_ranges.size())];
  at.column =
      take(CeilDiv(column_phases[0].count, tile_columns)) * tile_columns;
  at.row = take(CeilDiv(row_phases[0].count, tile_rows)) * tile_rows;
  at.image = take(CeilDiv(destination.batch, tile_images)) * tile_images;
  item.columns = &column_phases[take(column_phases.size())];
  item.rows = &row_phases[take(row_phases.size())];
  if (ranges_outermost)
    item.blocks = destination_ranges[take(destination_ranges.size())];
  at.group = index;
  at.columns = std::min(tile_columns, item.columns->count - at.column);
  at.rows = std::min(tile_rows, item.rows->count - at.row);
  at.images = std::min(tile_images, destination.batch - at.image);
  return item;
}

// Whether a tap of any pixel lies in the padding that is skipped: above or
// below the image or, in the forward pass, beside it.
bool Blocking::MeetsPadding(const PlannedPhase& rows,
                            const OutsideColumns& outside) const {
  if (outside.leading > 0 || outside.trailing > 0) return true;
  const AxisPlan& plan = rows.source;
  return std::any_of(
      plan.taps.begin(), plan.taps.end(), [&](const AxisTap& tap) {
        return tap.shift < 0 ||
               (rows.count - 1) * plan.step + tap.shift >= source.height;
      });
}

std::vector<RowSegments> Blocking::SegmentsOf(const WorkItem& item,
                                              const SourceAccess& access,
                                              int64_t first_tap,
                                              int64_t taps) const {
  const AxisPlan& plan = item.rows->source;
  const int64_t row_slots = item.columns->source.slots;
  const TileBounds& at = item.at;
  // Without overlap, full rows follow each other in both tiles, and may do so
  // in the destination. Whether a pixel meets taps in the padding does not
  // depend on the tile.
  const ImageStrides& strides = destination.strides;
  const bool joined =
      !MeetsPadding(*item.rows, access.outside) && at.columns == row_slots &&
      (!access.in_place || (at.rows == 1 && at.images == 1)) &&
      at.columns == tile_columns && at.rows == plan.slots &&
      (at.rows == 1 || strides.height == at.columns * strides.width);
  const bool all_joined =
      joined && at.rows == tile_rows &&
      (at.images == 1 || strides.batch == at.rows * at.columns * strides.width);
  const int64_t images = all_joined ? 1 : at.images;
  const int64_t rows = joined ? 1 : at.rows;
  RowSegments one{
      first_tap,
      taps,
      at.columns * (joined ? at.rows : 1) * (all_joined ? at.images : 1),
      !joined && access.outside.leading > 0 && at.column == 0,
      !joined && access.outside.trailing > 0 &&
          at.column + at.columns == item.columns->count,
      {}};
  std::vector<RowSegments> all;
  for (int64_t row = 0; row < rows; ++row) {
    one.first_tap_row = first_tap;
    one.tap_rows = taps;
    if (!joined) {
      // Taps come in the order of their shifts, or against it.
      const auto outside = [&](int64_t tap) {
        const int64_t position =
            (at.row + row) * plan.step + plan.taps[tap].shift;
        return position < 0 || position >= source.height;
      };
      while (one.tap_rows > 0 && outside(one.first_tap_row)) {
        ++one.first_tap_row;
        --one.tap_rows;
      }
      while (one.tap_rows > 0 && outside(one.first_tap_row + one.tap_rows - 1))
        --one.tap_rows;
    }
    auto found =
        std::find_if(all.begin(), all.end(), [&](const RowSegments& other) {
          return other.first_tap_row == one.first_tap_row &&
                 other.tap_rows == one.tap_rows;
        });
    if (found == all.end()) {
      all.push_back(one);
      found = all.end() - 1;
      found->starts.reserve(rows * images);
    }
    for (int64_t image = 0; image < images; ++image) {
      const int64_t pixel = (image * tile_rows + row) * tile_columns;
      const int64_t from =
          access.in_place ? source.OffsetOf({image, row * plan.step, 0})
                          : (image * plan.slots + row) * row_slots * kLanes;
      found->starts.push_back(
          {from, pixel, pixel * kLanes, destination.OffsetOf({image, row, 0})});
    }
  }
  return all;
}

}  // namespace internal
}  // namespace keras_adder
