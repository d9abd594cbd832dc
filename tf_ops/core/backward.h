// Both gradients at once.
//
// A work item handles some regions (whole images, or any pixels where the
// filters are 1x1) of a few blocks of input channels, which share output
// gradients. It keeps the inputs of a region and their gradients in a tile, and
// meets them with every output channel and tap in bands of rows that stay in
// the first-level cache. Input gradients are complete when a region is done,
// since no other region overlaps it; filter gradients are summed as in
// filter_gradient.h, chunk by chunk.
//
// Where pixels are read as im2row, gradients of tiles are added up to those of
// the image; where these are whole windows, a tile is no more than a band.

#ifndef KERAS_ADDER_CORE_BACKWARD_H_
#define KERAS_ADDER_CORE_BACKWARD_H_

#include <cstdint>
#include <vector>

#include "core/axis_plan.h"
#include "core/engine.h"
#include "core/geometry.h"
#include "core/kernels/kernels.h"
#include "core/packed_filters.h"
#include "core/parallel.h"
#include "core/partial_filters.h"
#include "core/tile.h"
#include "core/typed_engine.h"

namespace keras_adder {
namespace internal {

class BackwardPlan {
 public:
  // `geometry` is an equal convolution to the problem's.
  BackwardPlan(const Problem& problem, const Geometry& geometry);

  // Whether the geometry suits this pass at all.
  bool fits() const { return fits_; }

  int64_t workspace_bytes() const;

  template <typename T, typename O>
  void Run(ThreadPool& pool, const TypedTensors<T, O>& tensors,
           void* workspace) const;

 private:
  template <typename C>
  struct Worker {
    C* input;
    C* input_gradient;
    C* gradient;
    C* images;  // of the input's gradient, for im2row
  };

  // What all tiles of a work item share: some blocks of input channels, their
  // filters, and whether all filters are finite; and of its chunk, the sums of
  // their gradients, and of what was skipped (null: another part sees to that).
  template <typename C>
  struct Item {
    BlockRange part;
    const C* filters;
    bool finite;
    C* total;
    C* skipped;
  };

  // The pixels of a band that meet a tap inside the image.
  struct MetPixels {
    Range rows;
    Range columns;
  };

  void ChooseRegions();
  int64_t BandRows() const;
  bool Fits() const;
  bool CoversInput() const;
  void DealParts();
  TileGrid grid() const {
    return {output_.batch,  output_.height, output_.width,
            region_images_, region_rows_,   region_columns_};
  }
  // Parts of all groups.
  int64_t all_parts() const { return groups_ * parts_.size(); }
  template <typename C, typename T, typename O>
  void RunItem(int64_t item, const T* input, const O* gradient, const C* packed,
               bool packed_finite, C* partials, C* all_skipped,
               T* input_gradient, const Worker<C>& worker) const;
  template <typename C, typename T, typename O>
  void RunRegion(const TileBounds& region, const Item<C>& item, const T* input,
                 const O* gradient, T* input_gradient,
                 const Worker<C>& worker) const;
  template <typename C, typename T, typename O>
  void RunTile(const TileBounds& tile, const Item<C>& item, const T* input,
               const O* gradient, T* input_gradient,
               const Worker<C>& worker) const;
  template <typename C, typename O>
  void SumTile(const TileBounds& tile, const Item<C>& item, bool finite,
               const O* gradient, const Worker<C>& worker) const;
  // In the order of packed filters.
  template <typename Visit>
  void ForEachTap(const Visit& visit) const {
    for (int64_t j = 0; j < width_.kernel; ++j) {
      for (int64_t i = 0; i < height_.kernel; ++i) visit(i, j);
    }
  }
  MetPixels MetPixelsOf(const TileBounds& band, int64_t i, int64_t j,
                        bool finite) const;
  std::vector<BackwardTap> TapsOf(const TileBounds& band, int64_t first_row,
                                  bool finite) const;
  template <typename C>
  void SumSkipped(const TileBounds& band, const MetPixels& inside,
                  const C* gradient, C* sums) const;
  template <typename C>
  void AddPadding(int64_t panel, const C* packed, const C* skipped,
                  C* total) const;

  const KernelSet& set_;
  int64_t band_pixels_;
  int64_t compute_bytes_;
  int threads_;
  int64_t groups_;
  int64_t input_size_;
  bool fits_;
  bool partial_ = false;  // some inputs meet no output: their gradient is 0
  Image input_, output_;
  Axis height_, width_;
  PackedFilters filters_;
  std::vector<BlockRange> parts_;  // blocks of input channels of an item
  int64_t region_images_ = 0, region_rows_ = 0, region_columns_ = 0;
  int64_t tile_rows_ = 0, tile_columns_ = 0;
  int64_t band_rows_ = 0;  // of a tile, as many as a kernel sweeps over
  AxisPlan input_rows_, input_columns_, rows_, columns_;
  // Elements of a block of an image's inputs, of a tile's, and of a band's
  // output gradients.
  int64_t image_block_size_ = 0, tile_block_size_ = 0, gradient_block_size_ = 0;
  int64_t regions_ = 0;
  PartialFilters partials_;
  bool by_parts_ = false;  // see PackedFilters::FiltersDominate
  int64_t input_scratch_ = 0, gradient_scratch_ = 0, images_scratch_ = 0;
  int64_t worker_elements() const {
    return 2 * input_scratch_ + gradient_scratch_ + images_scratch_;
  }
  // For each block of output channels and tap: the sum of the output gradients
  // whose inputs lie in the padding. Of one chunk and group.
  int64_t skipped_ = 0;
  int64_t skipped_elements() const {
    return partials_.chunks() * groups_ * skipped_;
  }
};

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_BACKWARD_H_
