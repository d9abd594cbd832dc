// The filter gradient: for every tap, input channel and filter a sum over all
// output pixels.
//
// Pixels are cut into chunks and filters into units; a unit sums one chunk into
// its own region of a partial gradient (partial_filters.h), tile by tile.

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

  int64_t workspace_bytes(bool filters_are_packed) const;

  template <typename T, typename O>
  void Run(ThreadPool& pool, const TypedTensors<T, O>& tensors,
           void* workspace) const;

 private:
  void ChooseBlocks();
  TileGrid grid() const {
    return {output_.batch, output_.height, output_.width,
            block_images_, block_rows_,    block_columns_};
  }

  template <typename C, typename T, typename O>
  void RunUnit(int64_t unit, const T* input, const O* gradient, const C* packed,
               C* partial, C* scratch) const;
  template <typename C>
  void SumTile(const BlockOrigin& at, const PlaneRange& inputs,
               const PlaneRange& outputs, const C* packed, C* partial,
               const C* input, const C* gradient) const;

  const KernelSet& set_;
  FilterGradient mode_;
  int64_t element_;
  int64_t groups_;
  Image input_, output_;
  Axis height_, width_;
  PackedFilters filters_;
  std::vector<PlaneRange> input_parts_, output_parts_;
  int64_t block_images_ = 0, block_rows_ = 0, block_columns_ = 0;
  AxisPlan input_rows_, input_columns_, rows_, columns_;
  int64_t tiles_ = 0;
  PartialFilters partials_;
  int64_t input_scratch_ = 0, output_scratch_ = 0;
  int threads_ = 1;
};

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_FILTER_GRADIENT_H_
