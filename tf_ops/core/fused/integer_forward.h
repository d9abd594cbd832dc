// The fused pass over integers (fusion.h).
//
// A work item is a band of output rows of an image, or whole images, of one
// group and some panels of filters. It packs its inputs into a tile
// (integer_tile.h), and makes sums for a panel of filters and a few sources at
// a time, which become outputs while they are in the first-level cache.
//
// Sums are exact, so that no order of terms matters.

#ifndef KERAS_ADDER_CORE_FUSED_INTEGER_FORWARD_H_
#define KERAS_ADDER_CORE_FUSED_INTEGER_FORWARD_H_

#include <cstdint>

#include "core/engine.h"
#include "core/fused/fitting.h"
#include "core/fused/integer_layout.h"
#include "core/fused/integer_tile.h"
#include "core/kernels/fused_kernels.h"

namespace keras_adder {
namespace internal {

class IntegerForward : public Engine {
 public:
  // For NHWC.
  IntegerForward(const Problem& problem, const FusedKernels& kernels);

  int64_t workspace_bytes(bool filters_are_packed) const override;
  void Run(ThreadPool& pool, const Tensors& tensors,
           void* workspace) const override;
  int64_t packed_filters_bytes() const override {
    return panels_ * geometry().groups * panel_bytes_;
  }
  void PackFilters(ThreadPool& pool, const void* filters,
                   void* packed) const override;

 private:
  struct WorkItem {
    OutputRows outputs;
    int64_t first_panel, panels;  // of the group
  };

  // A worker's memory, and how far into it each part begins, in bytes.
  struct Scratch {
    TileMemory tile;
    int32_t* totals;
  };
  struct ScratchOffsets {
    int64_t quantized, tile, sources, pixel_sums, row_sums, totals, end;
  };

  // What all workers read. Of multipliers and offsets there is one for each
  // lane of each panel.
  struct Shared {
    const Tensors& tensors;
    const uint8_t* filters;
    const float* multiplier;
    const float* offset;
    Fitting fitting;
  };

  const Geometry& geometry() const { return layout_.geometry; }
  int64_t panel_lanes(int64_t panel) const;
  int64_t lanes() const { return panels_ * geometry().groups * kLanes; }
  void ChooseItems(int threads);
  int64_t ItemBytes(int64_t rows) const;
  bool SplitItems();
  int64_t items() const {
    return image_parts_ * bands_ * column_parts_ * panel_parts_ *
           geometry().groups;
  }
  void LayOutScratch();
  WorkItem ItemAt(int64_t index) const;
  Scratch ScratchAt(uint8_t* memory) const;

  template <typename Q>
  void PackPanel(const Q* filters, int64_t panel, uint8_t* packed) const;
  void SpreadChannels(const float* values, float none, float* spread) const;
  void RunItem(const WorkItem& item, const Shared& shared,
               const Scratch& scratch) const;
  int64_t PanelsAtOnce(int64_t panels) const;
  StepParams StepsOf(int64_t group, int64_t panel, const Shared& shared,
                     int32_t* totals) const;
  void RunPanels(const OutputRows& outputs, int64_t panel, int64_t panels,
                 const Shared& shared, const Scratch& scratch) const;
  void RunRows(const OutputRows& outputs, int64_t panel, int64_t panels,
               const Shared& shared, const Scratch& scratch) const;
  OutputParams ParamsOf(int64_t group, int64_t panel,
                        const Shared& shared) const;
  void WriteSources(const OutputRows& outputs, int64_t panel, int64_t first,
                    int64_t count, const int32_t* totals, const Shared& shared,
                    const Scratch& scratch) const;
  void WritePixels(const OutputRows& outputs, int64_t panel, int64_t first,
                   int64_t count, const int32_t* totals,
                   const int32_t* pixel_sums, const Shared& shared) const;

  const IntegerLayout layout_;
  const Fusion fusion_;
  const IntegerTile tile_;
  const DataType output_type_;
  void (*const write_)(const OutputParams& params);
  const int64_t panels_;  // of a group
  const int64_t panel_bytes_;
  // Of an item, and how many of these there are.
  int64_t images_, rows_, item_panels_;
  int64_t image_parts_, bands_, panel_parts_, column_parts_ = 1;
  int threads_ = 1;
  ScratchOffsets scratch_{};
};

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_FUSED_INTEGER_FORWARD_H_
