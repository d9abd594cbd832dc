#include "core/backward.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "core/engines.h"
#include "core/patches.h"
#include "core/workspace.h"

namespace keras_adder {
namespace internal {
namespace {

// Pixels that a kernel sweeps over: enough to pay for loading filters and
// sums, few enough for inputs, their gradients and outputs of one plane to
// share a first-level cache of 48 KiB.
constexpr int64_t kBandPixels = 200;
// Planes of output gradients that are packed together: what they have of a
// pixel are neighbours in memory.
constexpr int64_t kGradientPlanes = 4;
// Planes of input channels that share the output gradients. More of them if
// there is one tap alone, which does not make up for packing often.
constexpr int64_t kSharedPlanes = 4;
constexpr int64_t kSharedPlanesOfOneTap = 8;
// Bytes of a tile's inputs, or of an image that patches add up to. Bands go
// through them one after the other, so that only memory is the limit.
constexpr int64_t kTileBytes = 4 << 20;
// Whole images of few channels are too few units for many threads: from so many
// bytes on, they need so many planes.
constexpr int64_t kLargeTileBytes = 288 << 10;
constexpr int64_t kManyPlanes = 2;

// Whether every position of the axis has a slot when the plan starts at 0.
bool CoversAxis(const AxisPlan& plan, int64_t size) {
  std::vector<bool> covered(size, false);
  int64_t count = 0;
  for (const Segment& segment : plan.segments) {
    for (int64_t i = 0; i < segment.count; ++i) {
      const int64_t position = segment.shift + i * plan.step;
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
      element_(ComputeBytes(problem.type)),
      threads_(problem.threads),
      groups_(geometry.groups),
      input_size_(geometry.input_size()),
      input_(InputImage(geometry)),
      output_(OutputImage(geometry)),
      height_(geometry.height),
      width_(geometry.width),
      filters_(geometry, FilterOrder::kOutputsToInputs) {
  ChooseBlocks();
  fits_ = Fits();
  if (!fits_) return;
  DealParts();
  by_parts_ = filters_.Outweigh(geometry.output_size());
}

// Must not depend on threads or batch: the other pass sums up in another order.
bool BackwardPlan::Fits() const {
  const int64_t bytes = image_ * element_;
  const int64_t planes = Planes(input_.channels);
  if (input_.patches.used()) {
    return planes * bytes <= kSharedPlanes * kTileBytes &&
           input_.patches.image_elements() * element_ <= kTileBytes;
  }
  return bytes <=
         (groups_ * planes < kManyPlanes ? kLargeTileBytes : kTileBytes);
}

// How planes of input channels are shared out matters to no result, but the
// number of chunks does and must not depend on threads.
void BackwardPlan::DealParts() {
  const int64_t planes = Planes(input_.channels);
  const bool patches = input_.patches.used();  // added up over all planes
  const int64_t shared = height_.kernel * width_.kernel == 1
                             ? kSharedPlanesOfOneTap
                             : kSharedPlanes;
  int64_t most = patches ? planes
                         : std::clamp<int64_t>(kTileBytes / (plane_ * element_),
                                               1, shared);
  parts_ = DealPlanes(planes, most);
  blocks_ = grid().size();
  partials_ = PartialFilters(filters_, element_, all_parts(), blocks_);
  while (threads_ > 1 && !patches && most > 1 &&
         partials_.chunks() * all_parts() < 4 * threads_) {
    most = CeilDiv(most, 2);
    parts_ = DealPlanes(planes, most);
  }
  threads_ = static_cast<int>(
      std::min<int64_t>(threads_, partials_.chunks() * all_parts()));
  input_scratch_ = MostPlanes(parts_) * plane_;
}

// So many rows, of all images of a block, that a kernel sweeps over.
int64_t BackwardPlan::BandRows() const {
  return std::clamp<int64_t>(kBandPixels / (tile_columns_ * block_images_), 1,
                             block_rows_);
}

// Blocks must not overlap in the input: an axis is cut only where the filters
// are one pixel long, and no patches. A tile is a block or, of patches that are
// whole windows and so more than the input that they come from, a band.
void BackwardPlan::ChooseBlocks() {
  const bool patches = input_.patches.used();
  block_columns_ = output_.width;
  if (width_.kernel == 1 && !patches) {
    block_columns_ = std::min(block_columns_, kBandPixels);
  }
  block_rows_ = output_.height;
  if (height_.kernel == 1 && !patches) {
    block_rows_ = std::min(block_rows_,
                           std::max<int64_t>(1, kBandPixels / block_columns_));
  }
  block_images_ = std::clamp<int64_t>(
      kBandPixels / (block_columns_ * block_rows_), 1, output_.batch);
  const bool windows = patches && height_.kernel == 1;
  tile_columns_ =
      windows ? std::min(block_columns_, kBandPixels) : block_columns_;
  tile_rows_ = windows ? BandRows() : block_rows_;
  input_rows_ = PlanAxis(ForwardTaps(height_), height_.stride, tile_rows_);
  input_columns_ = PlanAxis(ForwardTaps(width_), width_.stride, tile_columns_);
  image_ = input_rows_.slots * input_columns_.slots * kLanes;
  const int64_t bytes =
      std::max(image_, input_.patches.image_elements()) * element_;
  block_images_ = std::clamp<int64_t>(kTileBytes / bytes, 1, block_images_);
  band_rows_ = BandRows();
  rows_ = PlanAxis({{0, 0}}, 1, band_rows_);
  columns_ = PlanAxis({{0, 0}}, 1, tile_columns_);
  // A cut axis is of 1x1 filters and covered if no stride leaves gaps.
  const bool all_rows =
      block_rows_ == output_.height
          ? CoversAxis(input_rows_, input_.height)
          : height_.stride == 1 && output_.height == input_.height;
  const bool all_columns =
      block_columns_ == output_.width
          ? CoversAxis(input_columns_, input_.width)
          : width_.stride == 1 && output_.width == input_.width;
  partial_ = !patches && !(all_rows && all_columns);
  plane_ = block_images_ * image_;
  gradient_plane_ = block_images_ * band_rows_ * tile_columns_ * kLanes;
  gradient_scratch_ =
      std::min(kGradientPlanes, Planes(output_.channels)) * gradient_plane_;
  images_scratch_ = block_images_ * input_.patches.image_elements();
  skipped_ = Planes(output_.channels) * height_.kernel * width_.kernel * kLanes;
}

int64_t BackwardPlan::workspace_bytes(bool) const {
  return element_ *
             (SetApart(filters_.size(), element_, threads_) +
              SetApart(partials_.elements(), element_, threads_) +
              SetApart(skipped_elements(), element_, threads_) +
              threads_ * SetApart(worker_elements(), element_, threads_)) -
         GapBytes(threads_);
}

template <typename T, typename O>
void BackwardPlan::Run(ThreadPool& pool, const TypedTensors<T, O>& tensors,
                       void* workspace) const {
  using C = typename ComputeType<T>::type;
  C* const packed = static_cast<C*>(workspace);
  C* const partials = packed + SetApart(filters_.size(), sizeof(C), threads_);
  C* const skipped =
      partials + SetApart(partials_.elements(), sizeof(C), threads_);
  C* const scratch =
      skipped + SetApart(skipped_elements(), sizeof(C), threads_);
  const int64_t scratch_stride =
      SetApart(worker_elements(), sizeof(C), threads_);
  std::atomic<bool> finite{true};
  const auto pack = [&](int64_t unit, int) {
    filters_.Pack(set_, tensors.filters, {unit, 1}, filters_.planes(), packed,
                  &finite);
  };
  const auto run = [&](int64_t unit, int number) {
    Worker<C> worker;
    worker.input = scratch + number * scratch_stride;
    worker.input_gradient = worker.input + input_scratch_;
    worker.gradient = worker.input_gradient + input_scratch_;
    worker.images = worker.gradient + gradient_scratch_;
    RunUnit<C>(unit, tensors.input, tensors.output_gradient, packed, finite,
               partials, skipped, tensors.input_gradient, worker);
  };
  const auto finish = [&](int64_t unit, int) {
    partials_.AddChunks(set_, unit, partials);
    AddPadding(unit, packed, skipped, partials);
    filters_.Unpack(set_, partials, unit, tensors.filter_gradient);
  };
  RunTasks(
      pool, threads_,
      ZeroTask(tensors.input_gradient, partial_ ? input_size_ * sizeof(T) : 0),
      Task{filters_.units(), pack}, Task{partials_.chunks() * all_parts(), run},
      Task{filters_.units(), finish});
}

// A unit is a chunk of blocks, a group and some planes of its input channels.
template <typename C, typename T, typename O>
void BackwardPlan::RunUnit(int64_t unit, const T* input, const O* gradient,
                           const C* packed, bool packed_finite, C* partials,
                           C* all_skipped, T* input_gradient,
                           const Worker<C>& worker) const {
  const int64_t chunks = partials_.chunks();
  const int64_t chunk = by_parts_ ? unit % chunks : unit / all_parts();
  const int64_t group_part = by_parts_ ? unit / chunks : unit % all_parts();
  const PlaneRange& part = parts_[group_part % parts_.size()];
  const int64_t group = group_part / parts_.size();
  const int64_t size = filters_.destination_plane_stride();
  const int64_t offset = (group * Planes(input_.channels) + part.first) * size;
  Unit<C> work{part, packed + offset, packed_finite,
               partials + chunk * partials_.stride() + offset, nullptr};
  std::memset(work.total, 0, part.planes * size * sizeof(C));
  // The same for all parts, so one of them sees to it.
  if (part.first == 0) {
    work.skipped = all_skipped + (chunk * groups_ + group) * skipped_;
    std::fill_n(work.skipped, skipped_, C{0});
  }
  const int64_t end = blocks_ * (chunk + 1) / chunks;
  for (int64_t n = blocks_ * chunk / chunks; n < end; ++n) {
    BlockOrigin block = grid().At(n);
    block.group = group;
    RunBlock(block, work, input, gradient, input_gradient, worker);
  }
}

template <typename C, typename T, typename O>
void BackwardPlan::RunBlock(const BlockOrigin& block, const Unit<C>& unit,
                            const T* input, const O* gradient,
                            T* input_gradient, const Worker<C>& worker) const {
  const int64_t images = block.images * input_.patches.image_elements();
  std::fill_n(worker.images, images, C{0});
  for (int64_t row = 0; row < block.rows; row += tile_rows_) {
    for (int64_t column = 0; column < block.columns; column += tile_columns_) {
      BlockOrigin tile = block;
      tile.row += row;
      tile.rows = std::min(tile_rows_, block.rows - row);
      tile.column += column;
      tile.columns = std::min(tile_columns_, block.columns - column);
      RunTile(tile, unit, input, gradient, input_gradient, worker);
    }
  }
  if (!input_.patches.used()) return;
  UnpackElements(set_, worker.images, images,
                 input_gradient + block.image * input_.strides.batch);
}

template <typename C, typename T, typename O>
void BackwardPlan::RunTile(const BlockOrigin& tile, const Unit<C>& unit,
                           const T* input, const O* gradient, T* input_gradient,
                           const Worker<C>& worker) const {
  const PlaneRange& part = unit.part;
  PackTile(set_, input, input_, input_rows_, input_columns_, tile, part.first,
           part.planes, plane_, worker.input);
  std::memset(worker.input_gradient, 0, part.planes * plane_ * sizeof(C));
  bool finite = unit.finite;
  for (int64_t p = 0; p < part.planes && finite; ++p) {
    finite = KernelsOf<C>(set_).all_finite(worker.input + p * plane_,
                                           tile.images * image_ / kLanes);
  }
  SumTile(tile, unit, finite, gradient, worker);
  if (input_.patches.used()) {
    AddPatchesOfTile(set_, worker.input_gradient, input_, input_rows_,
                     input_columns_, tile, plane_, worker.images);
  } else {
    UnpackTile(set_, worker.input_gradient, input_, input_rows_, input_columns_,
               tile, part.first, part.planes, plane_, input_gradient);
  }
}

template <typename C, typename O>
void BackwardPlan::SumTile(const BlockOrigin& tile, const Unit<C>& unit,
                           bool finite, const O* gradient,
                           const Worker<C>& worker) const {
  const Kernels<C>& kernels = KernelsOf<C>(set_);
  const auto kernel = finite ? kernels.backward : kernels.backward_careful;
  BackwardBlock<C> block;
  block.input_row = input_columns_.slots * kLanes;
  block.input_image = image_;
  block.gradient_row = tile_columns_ * kLanes;
  block.gradient_image = band_rows_ * block.gradient_row;
  block.images = tile.images;
  for (int64_t row = 0; row < tile.rows; row += band_rows_) {
    BlockOrigin band = tile;
    band.row += row;
    band.rows = std::min(band_rows_, tile.rows - row);
    const std::vector<BackwardTap> taps = TapsOf(band, row, unit.finite);
    block.taps = taps.data();
    block.tap_count = taps.size();
    for (int64_t q = 0; q < Planes(output_.channels); ++q) {
      const int64_t turn = q % kGradientPlanes;
      if (turn == 0) {
        PackTile(set_, gradient, output_, rows_, columns_, band, q,
                 std::min(kGradientPlanes, Planes(output_.channels) - q),
                 gradient_plane_, worker.gradient);
      }
      block.gradient = worker.gradient + turn * gradient_plane_;
      if (unit.skipped != nullptr) {
        ForEachTap([&](int64_t i, int64_t j) {
          const int64_t tap = (q * width_.kernel + j) * height_.kernel + i;
          SumSkipped(band, InsideOf(band, i, j, unit.finite), block.gradient,
                     unit.skipped + tap * kLanes);
        });
      }
      block.channels = PlaneChannels(output_.channels, q);
      for (int64_t plane = 0; plane < unit.part.planes; ++plane) {
        const int64_t filters = plane * filters_.destination_plane_stride() +
                                q * filters_.source_plane_stride();
        block.input = worker.input + plane * plane_;
        block.input_gradient = worker.input_gradient + plane * plane_;
        block.filters = unit.filters + filters;
        block.total = unit.total + filters;
        kernel(block);
      }
    }
  }
}

// Pixels that meet a tap in the padding, where the input is zero, add to the
// filters' gradients alone, and to all alike: AddPadding. (A filter of NaN or
// infinity would not be alike.) Whatever the input is: all planes of input
// channels share what was skipped.
BackwardPlan::Inside BackwardPlan::InsideOf(const BlockOrigin& band, int64_t i,
                                            int64_t j, bool finite) const {
  if (!finite) return {{0, band.rows}, {0, band.columns}};
  return {RangeInside(height_, i, band.row, band.rows),
          RangeInside(width_, j, band.column, band.columns)};
}

// Of a band that begins in row `first_row` of the tile.
std::vector<BackwardTap> BackwardPlan::TapsOf(const BlockOrigin& band,
                                              int64_t first_row,
                                              bool finite) const {
  const int64_t input_row = input_columns_.slots * kLanes;
  std::vector<BackwardTap> taps;
  ForEachTap([&](int64_t i, int64_t j) {
    const auto [rows, columns] = InsideOf(band, i, j, finite);
    if (rows.count == 0 || columns.count == 0) return;
    taps.push_back(
        {(input_rows_.tap_slots[i].slot + first_row + rows.first) * input_row +
             (input_columns_.tap_slots[j].slot + columns.first) * kLanes,
         (rows.first * tile_columns_ + columns.first) * kLanes,
         filters_.TapAt(i, j), rows.count, columns.count});
  });
  return taps;
}

// Adds up the output gradients of the band's pixels that are not inside.
template <typename C>
void BackwardPlan::SumSkipped(const BlockOrigin& band, const Inside& inside,
                              const C* gradient, C* sums) const {
  const Range& rows = inside.rows;
  const Range& columns = inside.columns;
  if (rows.count == band.rows && columns.count == band.columns) return;
  OutsideBlock<C> block;
  block.tile = gradient;
  block.next_row = tile_columns_ * kLanes;
  block.next_image = band_rows_ * block.next_row;
  block.images = band.images;
  block.rows = band.rows;
  block.columns = band.columns;
  block.first_row = rows.first;
  block.end_row = rows.first + rows.count;
  block.first_column = columns.first;
  block.end_column = columns.first + columns.count;
  KernelsOf<C>(set_).sum_outside(block, sums);
}

// Adds what was skipped, the sum of gradient * (0 - filter), to the gradient of
// a plane of input channels.
template <typename C>
void BackwardPlan::AddPadding(int64_t unit, const C* packed, const C* skipped,
                              C* total) const {
  const int64_t group = unit / Planes(input_.channels);
  const int64_t plane = unit * filters_.destination_plane_stride();
  const C* at = skipped + group * skipped_;
  for (int64_t q = 0; q < Planes(output_.channels); ++q) {
    const int channels = PlaneChannels(output_.channels, q);
    ForEachTap([&](int64_t i, int64_t j) {
      C sums[kLanes] = {};
      for (int64_t chunk = 0; chunk < partials_.chunks(); ++chunk) {
        const C* of = at + chunk * groups_ * skipped_;
        for (int t = 0; t < kLanes; ++t) sums[t] += of[t];
      }
      at += kLanes;
      const int64_t tap =
          plane + q * filters_.source_plane_stride() + filters_.TapAt(i, j);
      // Sums are zero where filters are not finite, too.
      KernelsOf<C>(set_).subtract_scaled(sums, packed + tap, channels,
                                         total + tap);
    });
  }
}

}  // namespace internal

std::unique_ptr<const Engine> MakeBackward(const Problem& problem) {
  if (problem.pass != Pass::kBackward ||
      problem.mode != FilterGradient::kFullPrecision) {
    return nullptr;
  }
  for (const Geometry& geometry : ForGradients(problem.geometry)) {
    internal::BackwardPlan plan(problem, Folded(geometry));
    if (!plan.fits()) continue;
    return internal::MakeTyped<internal::TypedEngine>(problem, std::move(plan));
  }
  return nullptr;
}

}  // namespace keras_adder
