// The fused pass over integers (fusion.h) where every filter sees one input
// channel: depthwise convolutions.
//
// A lane is an output channel. Filters and inputs are read where they are, or
// packed where that would not do (depthwise_filters.h, depthwise_rows.h).
//
// A work item is some rows of outputs. Distances of all channels are made for
// some neighbours of a row at once, and outputs of these while they are in the
// first-level cache. There are two ways:
//
//   by taps     For outputs that have the same taps in the padding, which meet
//               a pixel of zero points there.
//   by windows  For filters of 3 x 3 taps that meet neighbouring columns, where
//               there are sums for it.

#ifndef KERAS_ADDER_CORE_FUSED_INTEGER_DEPTHWISE_H_
#define KERAS_ADDER_CORE_FUSED_INTEGER_DEPTHWISE_H_

#include <cstdint>
#include <vector>

#include "core/engine.h"
#include "core/fused/depthwise_filters.h"
#include "core/fused/depthwise_rows.h"
#include "core/fused/fitting.h"
#include "core/kernels/fused_kernels.h"

namespace keras_adder {
namespace internal {

class IntegerDepthwise : public Engine {
 public:
  // For NHWC, and for depthwise convolutions alone (IsDepthwise).
  IntegerDepthwise(const Problem& problem, const FusedKernels& kernels);

  int64_t workspace_bytes(bool filters_are_packed) const override;
  void Run(ThreadPool& pool, const Tensors& tensors,
           void* workspace) const override;
  int64_t packed_filters_bytes() const override {
    return filters_.PackedBytes();
  }
  void PackFilters(ThreadPool& /*pool*/, const void* filters,
                   void* packed) const override {
    filters_.Pack(filters, packed);
  }

 private:
  // Neighbours in a row of outputs.
  struct Columns {
    int64_t first, count;
  };

  // What all workers read, and where in a workspace it begins, in bytes.
  struct Shared {
    const Tensors& tensors;
    const uint8_t* filters;
    const uint8_t* padding;  // a pixel
    const float* multiplier;
    const float* offset;
    Fitting fitting;
  };
  struct SharedOffsets {
    int64_t padding, multiplier, offset, end;
  };

  // The same of a worker's scratch memory.
  struct Scratch {
    DepthwiseRows::Memory memory;
    // The first pixels of rows that rows of taps meet, and of those that are
    // met next; what taps meet, and what is met next.
    IntegerTap* rows;
    IntegerTap* taps;
    int32_t* distances;
  };
  struct ScratchOffsets {
    int64_t packed, quantized, rows, taps, distances, end;
  };

  int64_t rows() const { return geometry_.batch * geometry_.height.output; }
  int64_t items() const;
  void FindRuns();
  void LayOut();
  Scratch ScratchAt(uint8_t* memory, PackedRows::Held* held) const;

  Shared Prepare(const Tensors& tensors, const uint8_t* filters,
                 uint8_t* memory) const;
  const uint8_t* FillPadding(uint8_t* pixel) const;
  const float* Repeat(const float* values, float none, uint8_t* memory) const;

  void RunRow(int64_t row, const Shared& shared, const Scratch& scratch) const;
  void MeetRows(int64_t image, int64_t output_row, const Shared& shared,
                const Scratch& scratch) const;
  void SumTaps(const Columns& columns, const Shared& shared,
               const Scratch& scratch) const;
  void SumWindows(const Columns& columns, const Shared& shared,
                  const Scratch& scratch) const;
  void Write(int64_t pixel, int64_t count, const Shared& shared,
             const Scratch& scratch) const;

  const Geometry geometry_;
  const Fusion fusion_;
  const DataType output_type_;
  // As many as output channels, but a vector's at least.
  const int64_t lanes_;
  void (*const sum_taps_)(const DepthwiseParams& params);
  void (*const sum_windows_)(const DepthwiseWindowParams& params);  // or null
  const DepthwiseFilters filters_;
  const DepthwiseRows inputs_;
  const int64_t outputs_at_once_;
  const int64_t item_rows_;
  const int threads_;
  void (*write_run_)(const RunOutputParams& params);
  void (*write_pixels_)(const OutputParams& params);
  // Outputs of a row that are alike, of which no more than some go at once.
  std::vector<Columns> runs_;
  SharedOffsets shared_{};
  ScratchOffsets scratch_{};
};

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_FUSED_INTEGER_DEPTHWISE_H_
