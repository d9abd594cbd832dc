#include "core/backward.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "core/engines.h"
#include "core/im2row.h"
#include "core/workspace.h"

namespace keras_adder {
namespace internal {
namespace {

// These sizes were found with `benchmarks/conv2d.py --parts main
// configurations` on Zen 5, that of 1x1 filters by `--parts pointwise` on
// Zen 4.

// Channel blocks of output gradients that are packed together: what they have
// of a pixel are neighbours in memory.
constexpr int64_t kGradientBlocks = 4;
// Channel blocks of the input that share the output gradients. More of them
// if there is one tap alone, which does not make up for packing often.
constexpr int64_t kSharedBlocks = 4;
constexpr int64_t kSharedBlocksOfOneTap = 16;
// Bytes of a tile's inputs, or of an image that im2row pixels add up to. Bands
// go through them one after the other, so that only memory is the limit.
constexpr int64_t kTileBytes = 4 << 20;
// Whole images of few channels are too few work items for many threads: those
// of more bytes than this need kManyBlocks channel blocks.
constexpr int64_t kLargeTileBytes = 288 << 10;
constexpr int64_t kManyBlocks = 2;

// Whether every position of the axis has a slot when the plan starts at 0.
bool CoversAxis(const AxisPlan& plan, int64_t size) {
  std::vector<bool> covered(size, false);
  int64_t count = 0;
  for (const SlotRun& run : plan.slot_runs) {
    for (int64_t i = 0; i < run.count; ++i) {
      const int64_t position = run.shift + i * plan.step;
      if (position < 0 || position >= size || covered[position]) continue;
      covered[position] = true;
      ++count;
    }
  }
  return count == size;
}

}  // namespace

BackwardPlan::BackwardPlan(const Problem& problem, const Geometry& geometry)
    : set_(*problem.kernels),
      band_pixels_(KernelsOf<float>(set_).band_pixels),
      compute_bytes_(ComputeBytes(problem.type)),
      threads_(problem.threads),
      groups_(geometry.groups),
      input_size_(geometry.input_size()),
      input_(InputImage(geometry)),
      output_(OutputImage(geometry)),
      height_(geometry.height),
      width_(geometry.width),
      filters_(geometry, FilterOrder::kOutputsToInputs) {
  ChooseRegions();
  fits_ = Fits();
  if (!fits_) return;
  partial_ = !CoversInput();
  DealParts();
  by_parts_ = filters_.FiltersDominate(geometry.output_size());
}

// Does not depend on threads or batch: the other engine sums up in another
// order.
bool BackwardPlan::Fits() const {
  const int64_t bytes = image_block_size_ * compute_bytes_;
  const int64_t blocks = ChannelBlocks(input_.channels);
  if (input_.im2row.used()) {
    return blocks * bytes <= kSharedBlocks * kTileBytes &&
           input_.im2row.image_elements() * compute_bytes_ <= kTileBytes;
  }
  return bytes <=
         (groups_ * blocks < kManyBlocks ? kLargeTileBytes : kTileBytes);
}

// How blocks of input channels are shared out matters to no result, but the
// number of chunks does and must not depend on threads.
void BackwardPlan::DealParts() {
  const int64_t blocks = ChannelBlocks(input_.channels);
  const bool im2row = input_.im2row.used();  // added up over all blocks
  const int64_t shared = height_.kernel * width_.kernel == 1
                             ? kSharedBlocksOfOneTap
                             : kSharedBlocks;
  int64_t most =
      im2row ? blocks
             : std::clamp<int64_t>(
                   kTileBytes / (tile_block_size_ * compute_bytes_), 1, shared);
  parts_ = SplitBlocks(blocks, most);
  regions_ = grid().size();
  partials_ = PartialFilters(filters_, compute_bytes_, all_parts(), regions_);
  while (threads_ > 1 && !im2row && most > 1 &&
         partials_.chunks() * all_parts() < 4 * threads_) {
    most = CeilDiv(most, 2);
    parts_ = SplitBlocks(blocks, most);
  }
  threads_ = static_cast<int>(
      std::min<int64_t>(threads_, partials_.chunks() * all_parts()));
  input_scratch_ = MostBlocks(parts_) * tile_block_size_;
}

// Returns how many rows, of all images of a region, a kernel sweeps over. Bands
// are dealt out evenly: 14 rows are 7 and 7, not 9 and 5.
int64_t BackwardPlan::BandRows() const {
  const int64_t most =
      std::max<int64_t>(band_pixels_ / (tile_columns_ * region_images_), 1);
  return CeilDiv(region_rows_, CeilDiv(region_rows_, most));
}

// Regions must not overlap in the input: an axis is cut only where the filters
// are one pixel long, without im2row. A tile is a region or, for im2row of
// whole windows, which hold more than the input that they come from, a band.
void BackwardPlan::ChooseRegions() {
  const bool im2row = input_.im2row.used();
  region_columns_ = output_.width;
  if (width_.kernel == 1 && !im2row) {
    region_columns_ = std::min(region_columns_, band_pixels_);
  }
  region_rows_ = output_.height;
  if (height_.kernel == 1 && !im2row) {
    region_rows_ = std::min(
        region_rows_, std::max<int64_t>(1, band_pixels_ / region_columns_));
  }
  region_images_ = std::clamp<int64_t>(
      band_pixels_ / (region_columns_ * region_rows_), 1, output_.batch);
  const bool windows = im2row && height_.kernel == 1;
  tile_columns_ =
      windows ? std::min(region_columns_, band_pixels_) : region_columns_;
  tile_rows_ = windows ? BandRows() : region_rows_;
  input_rows_ = PlanAxis(ForwardTaps(height_), height_.stride, tile_rows_);
  input_columns_ = PlanAxis(ForwardTaps(width_), width_.stride, tile_columns_);
  image_block_size_ = input_rows_.slots * input_columns_.slots * kLanes;
  const int64_t bytes =
      std::max(image_block_size_, input_.im2row.image_elements()) *
      compute_bytes_;
  region_images_ = std::clamp<int64_t>(kTileBytes / bytes, 1, region_images_);
  band_rows_ = BandRows();
  rows_ = PlanAxis({{0, 0}}, 1, band_rows_);
  columns_ = PlanAxis({{0, 0}}, 1, tile_columns_);
  tile_block_size_ = region_images_ * image_block_size_;
  gradient_block_size_ = region_images_ * band_rows_ * tile_columns_ * kLanes;
  gradient_scratch_ =
      std::min(kGradientBlocks, ChannelBlocks(output_.channels)) *
      gradient_block_size_;
  images_scratch_ = region_images_ * input_.im2row.image_elements();
  skipped_ =
      ChannelBlocks(output_.channels) * height_.kernel * width_.kernel * kLanes;
}

// Whether every input meets an output, so that its gradient is written. This
// looks at each position: only where the geometry fits, which bounds them.
bool BackwardPlan::CoversInput() const {
  if (input_.im2row.used()) return true;
  // A cut axis is of 1x1 filters and covered if no stride leaves gaps.
  const bool all_rows =
      region_rows_ == output_.height
          ? CoversAxis(input_rows_, input_.height)
          : height_.stride == 1 && output_.height == input_.height;
  const bool all_columns =
      region_columns_ == output_.width
          ? CoversAxis(input_columns_, input_.width)
          : width_.stride == 1 && output_.width == input_.width;
  return all_rows && all_columns;
}

int64_t BackwardPlan::workspace_bytes() const {
  return compute_bytes_ *
             (PaddedSize(filters_.size(), compute_bytes_, threads_) +
              PaddedSize(partials_.elements(), compute_bytes_, threads_) +
              PaddedSize(skipped_elements(), compute_bytes_, threads_) +
              threads_ *
                  PaddedSize(worker_elements(), compute_bytes_, threads_)) -
         GapBytes(threads_);
}

template <typename T, typename O>
void BackwardPlan::Run(ThreadPool& pool, const TypedTensors<T, O>& tensors,
                       void* workspace) const {
  using C = typename ComputeType<T>::type;
  C* const packed = static_cast<C*>(workspace);
  C* const partials = packed + PaddedSize(filters_.size(), sizeof(C), threads_);
  C* const skipped =
      partials + PaddedSize(partials_.elements(), sizeof(C), threads_);
  C* const scratch =
      skipped + PaddedSize(skipped_elements(), sizeof(C), threads_);
  const int64_t scratch_stride =
      PaddedSize(worker_elements(), sizeof(C), threads_);
  std::atomic<bool> finite{true};
  const auto pack = [&](int64_t panel, int) {
    filters_.Pack(set_, tensors.filters, {panel, 1}, filters_.blocks(), packed,
                  &finite);
  };
  const auto run = [&](int64_t item, int number) {
    Worker<C> worker;
    worker.input = scratch + number * scratch_stride;
    worker.input_gradient = worker.input + input_scratch_;
    worker.gradient = worker.input_gradient + input_scratch_;
    worker.images = worker.gradient + gradient_scratch_;
    RunItem<C>(item, tensors.input, tensors.output_gradient, packed, finite,
               partials, skipped, tensors.input_gradient, worker);
  };
  const auto finish = [&](int64_t panel, int) {
    partials_.AddChunks(set_, panel, partials);
    AddPadding(panel, packed, skipped, partials);
    filters_.Unpack(set_, partials, panel, tensors.filter_gradient);
  };
  RunTasks(
      pool, threads_,
      ZeroTask(tensors.input_gradient, partial_ ? input_size_ * sizeof(T) : 0),
      Task{filters_.panels(), pack},
      Task{partials_.chunks() * all_parts(), run},
      Task{filters_.panels(), finish});
}

// A work item is a chunk of regions, a group and some blocks of its input
// channels.
template <typename C, typename T, typename O>
void BackwardPlan::RunItem(int64_t item, const T* input, const O* gradient,
                           const C* packed, bool packed_finite, C* partials,
                           C* all_skipped, T* input_gradient,
                           const Worker<C>& worker) const {
  const int64_t chunks = partials_.chunks();
  const int64_t chunk = by_parts_ ? item % chunks : item / all_parts();
  const int64_t group_part = by_parts_ ? item / chunks : item % all_parts();
  const BlockRange& part = parts_[group_part % parts_.size()];
  const int64_t group = group_part / parts_.size();
  const int64_t size = filters_.panel_stride();
  const int64_t offset =
      (group * ChannelBlocks(input_.channels) + part.first) * size;
  Item<C> work{part, packed + offset, packed_finite,
               partials + chunk * partials_.stride() + offset, nullptr};
  std::memset(work.total, 0, part.count * size * sizeof(C));
  // This is the same for all parts, so one of them sees to it.
  if (part.first == 0) {
    work.skipped = all_skipped + (chunk * groups_ + group) * skipped_;
    std::fill_n(work.skipped, skipped_, C{0});
  }
  const int64_t end = regions_ * (chunk + 1) / chunks;
  for (int64_t n = regions_ * chunk / chunks; n < end; ++n) {
    TileBounds region = grid().At(n);
    region.group = group;
    RunRegion(region, work, input, gradient, input_gradient, worker);
  }
}

template <typename C, typename T, typename O>
void BackwardPlan::RunRegion(const TileBounds& region, const Item<C>& item,
                             const T* input, const O* gradient,
                             T* input_gradient, const Worker<C>& worker) const {
  const int64_t images = region.images * input_.im2row.image_elements();
  std::fill_n(worker.images, images, C{0});
  for (int64_t row = 0; row < region.rows; row += tile_rows_) {
    for (int64_t column = 0; column < region.columns; column += tile_columns_) {
      TileBounds tile = region;
      tile.row += row;
      tile.rows = std::min(tile_rows_, region.rows - row);
      tile.column += column;
      tile.columns = std::min(tile_columns_, region.columns - column);
      RunTile(tile, item, input, gradient, input_gradient, worker);
    }
  }
  if (!input_.im2row.used()) return;
  UnpackElements(set_, worker.images, images,
                 input_gradient + region.image * input_.strides.batch);
}

template <typename C, typename T, typename O>
void BackwardPlan::RunTile(const TileBounds& tile, const Item<C>& item,
                           const T* input, const O* gradient, T* input_gradient,
                           const Worker<C>& worker) const {
  const BlockRange& part = item.part;
  PackTile(set_, input, input_, input_rows_, input_columns_, tile, part.first,
           part.count, tile_block_size_, worker.input);
  std::memset(worker.input_gradient, 0,
              part.count * tile_block_size_ * sizeof(C));
  bool finite = item.finite;
  for (int64_t p = 0; p < part.count && finite; ++p) {
    finite =
        KernelsOf<C>(set_).all_finite(worker.input + p * tile_block_size_,
                                      tile.images * image_block_size_ / kLanes);
  }
  SumTile(tile, item, finite, gradient, worker);
  if (input_.im2row.used()) {
    AddIm2rowOfTile(set_, worker.input_gradient, input_, input_rows_,
                    input_columns_, tile, tile_block_size_, worker.images);
  } else {
    UnpackTile(set_, worker.input_gradient, input_, input_rows_, input_columns_,
               tile, part.first, part.count, tile_block_size_, input_gradient);
  }
}

template <typename C, typename O>
void BackwardPlan::SumTile(const TileBounds& tile, const Item<C>& item,
                           bool finite, const O* gradient,
                           const Worker<C>& worker) const {
  const Kernels<C>& kernels = KernelsOf<C>(set_);
  const auto kernel =
      finite ? kernels.backward : kernels.backward_propagate_nan;
  BackwardParams<C> params;
  params.input_row_stride = input_columns_.slots * kLanes;
  params.input_image_stride = image_block_size_;
  params.gradient_row_stride = tile_columns_ * kLanes;
  params.gradient_image_stride = band_rows_ * params.gradient_row_stride;
  params.images = tile.images;
  for (int64_t row = 0; row < tile.rows; row += band_rows_) {
    TileBounds band = tile;
    band.row += row;
    band.rows = std::min(band_rows_, tile.rows - row);
    const std::vector<BackwardTap> taps = TapsOf(band, row, item.finite);
    params.taps = taps.data();
    params.tap_count = taps.size();
    for (int64_t q = 0; q < ChannelBlocks(output_.channels); ++q) {
      const int64_t turn = q % kGradientBlocks;
      if (turn == 0) {
        PackTile(set_, gradient, output_, rows_, columns_, band, q,
                 std::min(kGradientBlocks, ChannelBlocks(output_.channels) - q),
                 gradient_block_size_, worker.gradient);
      }
      params.gradient = worker.gradient + turn * gradient_block_size_;
      if (item.skipped != nullptr) {
        ForEachTap([&](int64_t i, int64_t j) {
          const int64_t tap = (q * width_.kernel + j) * height_.kernel + i;
          SumSkipped(band, MetPixelsOf(band, i, j, item.finite),
                     params.gradient, item.skipped + tap * kLanes);
        });
      }
      params.channels = BlockChannels(output_.channels, q);
      for (int64_t block = 0; block < item.part.count; ++block) {
        const int64_t filters =
            block * filters_.panel_stride() + q * filters_.block_stride();
        params.input = worker.input + block * tile_block_size_;
        params.input_gradient =
            worker.input_gradient + block * tile_block_size_;
        params.filters = item.filters + filters;
        params.total = item.total + filters;
        kernel(params);
      }
    }
  }
}

// Pixels that meet a tap in the padding, where the input is zero, add to the
// filters' gradients alone, and to all alike: AddPadding. (A filter of NaN or
// infinity would not be alike.) They do so whatever the input is: all blocks of
// input channels share what was skipped.
BackwardPlan::MetPixels BackwardPlan::MetPixelsOf(const TileBounds& band,
                                                  int64_t i, int64_t j,
                                                  bool finite) const {
  if (!finite) return {{0, band.rows}, {0, band.columns}};
  return {RangeInside(height_, i, band.row, band.rows),
          RangeInside(width_, j, band.column, band.columns)};
}

// Lists the taps of a band that begins in row `first_row` of the tile.
std::vector<BackwardTap> BackwardPlan::TapsOf(const TileBounds& band,
                                              int64_t first_row,
                                              bool finite) const {
  const int64_t input_row_stride = input_columns_.slots * kLanes;
  std::vector<BackwardTap> taps;
  ForEachTap([&](int64_t i, int64_t j) {
    const auto [rows, columns] = MetPixelsOf(band, i, j, finite);
    if (rows.count == 0 || columns.count == 0) return;
    taps.push_back(
        {(input_rows_.tap_slots[i].slot + first_row + rows.first) *
                 input_row_stride +
             (input_columns_.tap_slots[j].slot + columns.first) * kLanes,
         (rows.first * tile_columns_ + columns.first) * kLanes,
         filters_.TapAt(i, j), rows.count, columns.count});
  });
  return taps;
}

// Adds up the output gradients of the band's pixels that are not inside.
template <typename C>
void BackwardPlan::SumSkipped(const TileBounds& band, const MetPixels& inside,
                              const C* gradient, C* sums) const {
  const Range& rows = inside.rows;
  const Range& columns = inside.columns;
  if (rows.count == band.rows && columns.count == band.columns) return;
  OutsideParams<C> params;
  params.tile = gradient;
  params.row_stride = tile_columns_ * kLanes;
  params.image_stride = band_rows_ * params.row_stride;
  params.images = band.images;
  params.rows = band.rows;
  params.columns = band.columns;
  params.first_row = rows.first;
  params.end_row = rows.first + rows.count;
  params.first_column = columns.first;
  params.end_column = columns.first + columns.count;
  KernelsOf<C>(set_).sum_outside(params, sums);
}

// Adds what was skipped, the sum of gradient * (0 - filter), to the gradient of
// a block of input channels.
template <typename C>
void BackwardPlan::AddPadding(int64_t panel, const C* packed, const C* skipped,
                              C* total) const {
  const int64_t group = panel / ChannelBlocks(input_.channels);
  const int64_t block = panel * filters_.panel_stride();
  const C* at = skipped + group * skipped_;
  for (int64_t q = 0; q < ChannelBlocks(output_.channels); ++q) {
    const int channels = BlockChannels(output_.channels, q);
    ForEachTap([&](int64_t i, int64_t j) {
      C sums[kLanes] = {};
      for (int64_t chunk = 0; chunk < partials_.chunks(); ++chunk) {
        const C* of = at + chunk * groups_ * skipped_;
        for (int t = 0; t < kLanes; ++t) sums[t] += of[t];
      }
      at += kLanes;
      const int64_t tap =
          block + q * filters_.block_stride() + filters_.TapAt(i, j);
      // Sums are zero where filters are not finite, too.
      KernelsOf<C>(set_).subtract_scaled(sums, packed + tap, channels,
                                         total + tap);
    });
  }
}

}  // namespace internal

std::unique_ptr<const Engine> MakeBackward(const Problem& problem) {
  if (problem.pass != Pass::kBackward ||
      problem.mode != FilterGradientMode::kFullPrecision) {
    return nullptr;
  }
  for (const Geometry& geometry : GradientLowerings(problem.geometry)) {
    internal::BackwardPlan plan(problem, Folded(geometry));
    if (!plan.fits()) continue;
    return internal::MakeTyped<internal::TypedEngine>(problem, std::move(plan));
  }
  return nullptr;
}

}  // namespace keras_adder
