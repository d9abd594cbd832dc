// The filter gradient: for every tap, input channel and filter a sum over all
// output pixels.
//
// Pixels are cut into chunks and filters into parts; a work item sums one chunk
// into its own part of a partial gradient (partial_filters.h), tile by tile.

#ifndef KERAS_ADDER_CORE_FILTER_GRADIENT_H_
#define KERAS_ADDER_CORE_FILTER_GRADIENT_H_

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

class FilterGradientPlan {
 public:
  // `geometry` is an equal convolution to the problem's.
  FilterGradientPlan(const Problem& problem, const Geometry& geometry);

  int64_t workspace_bytes() const;

  template <typename T, typename O>
  void Run(ThreadPool& pool, const TypedTensors<T, O>& tensors,
           void* workspace) const;

 private:
  void ChooseTiles();
  TileGrid grid() const {
    return {output_.batch, output_.height, output_.width,
            tile_images_,  tile_rows_,     tile_columns_};
  }

  template <typename C, typename T, typename O>
  void RunItem(int64_t item, const T* input, const O* gradient, const C* packed,
               C* partial, C* scratch) const;
  template <typename C>
  void SumTile(const TileBounds& at, const BlockRange& inputs,
               const BlockRange& outputs, const C* packed, C* partial,
               const C* input, const C* gradient) const;

  const KernelSet& set_;
  FilterGradientMode mode_;
  int64_t compute_bytes_;
  int64_t groups_;
  Image input_, output_;
  Axis height_, width_;
  PackedFilters filters_;
  std::vector<BlockRange> input_parts_, output_parts_;
  int64_t tile_images_ = 0, tile_rows_ = 0, tile_columns_ = 0;
  AxisPlan input_rows_, input_columns_, rows_, columns_;
  int64_t tiles_ = 0;
  PartialFilters partials_;
  int64_t input_scratch_ = 0, output_scratch_ = 0;
  int threads_ = 1;
};

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_FILTER_GRADIENT_H_
