// The fused pass over integers (fusion.h) where every filter sees one input
// channel: depthwise convolutions.
//
// A lane is an output channel. A tap's filters follow each other as a pixel's
// channels do, so nothing is packed but inputs that are floats, or of which
// several output channels see the same (depthwise_rows.h).
//
// A work item is some rows of outputs. Neighbouring outputs of a row that have
// the same taps in the padding are a run: distances of all channels are made
// for some outputs of it at once, and outputs of these while they are in the
// first-level cache. Taps in the padding meet a pixel of zero points.

#ifndef KERAS_ADDER_CORE_FUSED_INTEGER_DEPTHWISE_H_
#define KERAS_ADDER_CORE_FUSED_INTEGER_DEPTHWISE_H_

#include <cstdint>
#include <vector>

#include "core/engine.h"
#include "core/fused/depthwise_rows.h"
#include "core/kernels/fused_kernels.h"

namespace keras_adder {
namespace internal {

class IntegerDepthwise : public Engine {
 public:
  static bool Takes(const Geometry& geometry) {
    return geometry.group_in() == 1 && geometry.group_out() < kLanes;
  }

  // For NHWC.
  IntegerDepthwise(const Problem& problem, const FusedKernels& kernels);

  int64_t workspace_bytes(bool filters_are_packed) const override;
  void Run(ThreadPool& pool, const Tensors& tensors,
           void* workspace) const override;

 private:
  // Some outputs of a row.
  struct Columns {
    int64_t first, count;
  };

  // Parts of a workspace, and how far into it each begins, in bytes: what all
  // workers read, and a worker's scratch memory.
  struct Shared {
    const Tensors& tensors;
    const uint8_t* padding;
    const uint8_t* filters;
    const float* multiplier;
    const float* offset;
  };
  struct SharedOffsets {
    int64_t padding, filters, multiplier, offset, end;
  };
  struct Scratch {
    DepthwiseRows::Memory memory;
    const uint8_t** rows;  // that an output meets; null in the padding
    DepthwiseTap* taps;
    int32_t* distances;
  };
  struct ScratchOffsets {
    int64_t packed, held, quantized, rows, taps, distances, end;
  };

  int64_t rows() const { return geometry_.batch * geometry_.height.output; }
  int64_t items() const;
  void FindRuns();
  void LayOut();
  Scratch ScratchAt(uint8_t* memory) const;
  // What all workers read, some of which it writes into a workspace.
  Shared Prepare(const Tensors& tensors, uint8_t* memory) const;
  void PadFilters(const uint8_t* filters, uint8_t* padded) const;

  void RunRow(int64_t row, const Shared& shared, const Scratch& scratch) const;
  void MeetTaps(int64_t column, const Shared& shared,
                const Scratch& scratch) const;
  void Write(int64_t pixel, int64_t count, const Shared& shared,
             const Scratch& scratch) const;

  const Geometry geometry_;
  const Fusion fusion_;
  const DataType output_type_;
  // As many as output channels, but a vector's at least.
  const int64_t lanes_;
  const int64_t element_bytes_;
  const DepthwiseRows inputs_;
  const int64_t outputs_at_once_;
  const int64_t item_rows_;
  const int threads_;
  void (*const sum_)(const DepthwiseParams& params);
  void (*write_run_)(const RunOutputParams& params);
  void (*write_pixels_)(const OutputParams& params);
  std::vector<Columns> runs_;
  SharedOffsets shared_{};
  ScratchOffsets scratch_{};
};

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_FUSED_INTEGER_DEPTHWISE_H_
