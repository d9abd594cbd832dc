// How the terms of an integer sum are laid out, inputs and filters alike: in
// steps, each of some elements a lane (kernels/fused_kernels.h). Two ways:
//
//   sliding  A step is a row of taps, a channel and four neighbouring columns
//            of taps, for four neighbouring outputs. Inputs lie
//            [row][channel][column]. It suits filters of three and more
//            columns, without horizontal stride or dilation.
//   window   A step is some neighbours of what a window of taps sees, which
//            lies [tap row][tap column][channel], as filters do. Everything
//            else.
//
// Where taps or channels end amid a step, filters are 0. In a window inputs
// are, too; a sliding step meets columns that its filters do not have, and adds
// what these hold: |x - 0|. That is the `excess` of an output, to be taken off.

#ifndef KERAS_ADDER_CORE_INTEGER_LAYOUT_H_
#define KERAS_ADDER_CORE_INTEGER_LAYOUT_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/geometry.h"
#include "core/kernels/fused_kernels.h"

namespace keras_adder {
namespace internal {

// Steps that follow each other at one distance.
struct StepRun {
  ptrdiff_t shift;  // of the first, from where sources begin, in bytes
  ptrdiff_t step;   // in bytes
  int64_t steps;
};

struct IntegerLayout {
  // The best of what `kernels` have. `type` is that of filters.
  IntegerLayout(const Geometry& geometry, DataType type,
                const FusedKernels& kernels);

  // Where in a filter an element of a step is: the index of its first output
  // channel, negative if the filter ends before.
  int64_t FilterElement(int64_t step, int64_t element) const;

  int64_t steps() const;
  int64_t step_bytes() const { return sums.step_elements * element_bytes; }
  // Outputs of a source.
  int64_t outputs() const { return sliding ? kSlidingOutputs : 1; }
  int64_t sources_of_row() const {
    return (geometry.width.output + outputs() - 1) / outputs();
  }
  // Columns of taps that sliding steps take.
  int64_t sliding_columns() const;
  int64_t excess_columns() const {
    return sliding ? sliding_columns() - geometry.width.kernel : 0;
  }
  // Rows of the input that so many rows of outputs meet, padding included.
  int64_t InputRows(int64_t rows) const {
    const Axis& height = geometry.height;
    return (rows - 1) * height.stride + (height.kernel - 1) * height.dilation +
           1;
  }
  // Bytes of a tile for so many rows of an image's outputs.
  int64_t TileBytes(int64_t rows) const;

  Geometry geometry;
  bool sliding;
  IntegerSums sums;
  int64_t element_bytes;
  // Of a sliding tile, a row of a channel; of another, a window. In bytes.
  int64_t pitch;
  std::vector<StepRun> runs;
};

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_INTEGER_LAYOUT_H_
