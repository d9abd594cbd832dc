// How the terms of an integer sum are laid out, inputs and filters alike: in
// steps, each of some elements a lane (kernels/fused_kernels.h). Four ways:
//
//   kSliding  [row][channel][column]: a step is a row of taps, a channel and
//             four neighbouring columns of taps, for four neighbouring outputs.
//             For filters of three and more columns, without horizontal stride
//             or dilation, where there are sums for it.
//   kDirect   [row][column][channel], as in the tensor, with padding around it:
//             a step is some channels of a tap. For channels that fill steps.
//   kRows     The same, for runs of neighbouring outputs: filters of three
//             columns, without horizontal stride or dilation, where there are
//             sums for them.
//   kIm2row   [output][tap][channel]: a step is some neighbours of those, with
//             zeros behind the last. For all others.
//
// A tile holds what some rows of outputs meet, or `columns` outputs of one row
// where a whole one would be too large.
//
// A sliding step meets columns that its filters do not have, where these are
// zero: it adds what inputs hold there, |x - 0|. That is an output's `excess`.

#ifndef KERAS_ADDER_CORE_FUSED_INTEGER_LAYOUT_H_
#define KERAS_ADDER_CORE_FUSED_INTEGER_LAYOUT_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/geometry.h"
#include "core/kernels/fused_kernels.h"

namespace keras_adder {
namespace internal {

struct IntegerLayout {
  enum Kind { kSliding, kDirect, kRows, kIm2row };

  // The best of what `kernels` have, for NHWC.
  IntegerLayout(const Geometry& geometry, DataType input_type,
                DataType filter_type, const FusedKernels& kernels);

  // Where in a filter an element of a step is: the index of its first output
  // channel, negative if the filter ends before.
  int64_t FilterElement(int64_t step, int64_t element) const;

  int64_t steps() const;
  int64_t step_bytes() const { return sums.step_elements * element_bytes; }
  // Outputs of a source, and sources of so many outputs of a row.
  int64_t outputs() const {
    return kind == kSliding ? kSlidingOutputs : kind == kRows ? columns : 1;
  }
  int64_t SourcesOf(int64_t outputs_of_row) const {
    return (outputs_of_row + outputs() - 1) / outputs();
  }
  // Columns of taps that sliding steps take, and how many filters have not.
  int64_t sliding_columns() const;
  int64_t excess_columns() const {
    return kind == kSliding ? sliding_columns() - geometry.width.kernel : 0;
  }
  // Rows of the input that so many rows of outputs meet, padding included, and
  // the same of columns.
  int64_t InputRows(int64_t rows) const { return Met(geometry.height, rows); }
  int64_t InputColumns(int64_t outputs_of_row) const {
    return Met(geometry.width, outputs_of_row);
  }
  // Bytes of a tile for so many rows of an image's outputs.
  int64_t TileBytes(int64_t rows) const;

  Geometry geometry;
  IntegerSums sums;
  IntegerRowSums row_sums;
  Kind kind;
  int64_t element_bytes;
  int64_t columns;  // outputs of a row that a tile has at most
  bool in_place;    // a direct one, or of rows, that is the tensor itself
  // From a row to the next: of a sliding tile's channel, of an image, or from
  // one output to the next of im2row. In bytes.
  int64_t pitch;
  int64_t pixel_bytes;  // from a pixel to the next of an image
  ptrdiff_t step;       // from a step to the next of a run
  std::vector<StepRun> runs;

 private:
  static int64_t Met(const Axis& axis, int64_t outputs) {
    return (outputs - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1;
  }
  Kind ChooseKind(const FusedKernels& kernels, DataType type) const;
  bool MeetsPadding() const;
  void ChooseColumns(const IntegerSums& of_windows);
  double RowBytes() const;
  void Slide();
  void LieDirectly();
};

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_FUSED_INTEGER_LAYOUT_H_
