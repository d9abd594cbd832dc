#include "core/fused/integer_forward.h"

#include <algorithm>
#include <cstring>

#include "core/tile.h"
#include "core/workspace.h"

namespace keras_adder {
namespace internal {
namespace {

// What an item reads and writes stays in the second-level cache while all
// filters pass by.
constexpr int64_t kItemBytes = 256 << 10;

// What fits into the first-level cache, almost.
constexpr int64_t kFewBytes = 32 << 10;

// Totals become outputs when there are those of so many pixels, or almost.
constexpr int64_t kBatch = 64;
static_assert(kBatch >= kMaxSources && kBatch >= 8 * kSlidingOutputs);

// The sums of a panel's filters lie behind it.
constexpr int64_t kFilterSumsBytes = kLanes * sizeof(int32_t);

// The largest number of rows or images that leaves parts equal, and how many
// these are.
void Split(int64_t all, int64_t most, int64_t* part, int64_t* parts) {
  *parts = CeilDiv(all, most);
  *part = CeilDiv(all, *parts);
  *parts = CeilDiv(all, *part);
}

// Totals that wait to become outputs, until there are almost kBatch pixels of
// them. `write` is called with the first unit (a source or a pixel, with so
// many outputs) that waits, and how many do.
template <typename Write>
class Batch {
 public:
  // `most`: units that come at once.
  Batch(int32_t* totals, int64_t outputs, int64_t most, const Write& write)
      : totals_(totals), outputs_(outputs), most_(most), write_(write) {}

  int32_t* totals() const { return totals_ + waiting_ * outputs_ * kLanes; }
  void Add(int64_t count) {
    done_ += count;
    waiting_ += count;
    if ((waiting_ + most_) * outputs_ > kBatch) Finish();
  }
  void Finish() {
    if (waiting_ > 0) write_(done_ - waiting_, waiting_);
    waiting_ = 0;
  }

 private:
  int32_t* const totals_;
  const int64_t outputs_, most_;
  const Write write_;
  int64_t done_ = 0, waiting_ = 0;
};

}  // namespace

IntegerForward::IntegerForward(const Problem& problem,
                               const FusedKernels& kernels)
    : layout_(problem.geometry, problem.type, problem.fusion.filter_type,
              kernels),
      fusion_(problem.fusion),
      tile_(layout_, problem.type, problem.fusion.filter_type,
            problem.fusion.input, kernels),
      output_type_(problem.output_type),
      write_(
          kernels.outputs[problem.fusion.has_residual
                              ? TypeIndex(problem.fusion.residual_type)
                              : kNoResidual][TypeIndex(problem.output_type)]),
      panels_(ChannelBlocks(problem.geometry.group_out())),
      panel_bytes_(layout_.steps() * layout_.step_bytes() * kLanes +
                   kFilterSumsBytes) {
  ChooseItems(problem.threads);
  LayOutScratch();
}

int64_t IntegerForward::panel_lanes(int64_t panel) const {
  return std::min<int64_t>(kLanes, geometry().group_out() - panel * kLanes);
}

// Items as large as tiles allow, or smaller ones where threads are idle else.
void IntegerForward::ChooseItems(int threads) {
  const int64_t rows = geometry().height.output;
  int64_t most = rows;
  while (most > 1 && ItemBytes(most) > kItemBytes) {
    most = CeilDiv(most, 2);
  }
  Split(rows, most, &rows_, &bands_);
  // Several images save nothing but the way of filters through the caches.
  const int64_t budget =
      std::clamp(packed_filters_bytes(), kFewBytes, kItemBytes);
  const int64_t fit = budget / std::max<int64_t>(1, ItemBytes(rows));
  Split(geometry().batch, std::clamp<int64_t>(fit, 1, geometry().batch),
        &images_, &image_parts_);
  Split(panels_, panels_, &item_panels_, &panel_parts_);
  // Columns of outputs follow each other in one row alone.
  if (layout_.columns < geometry().width.output) {
    Split(rows, 1, &rows_, &bands_);
    Split(geometry().batch, 1, &images_, &image_parts_);
  }
  column_parts_ = CeilDiv(geometry().width.output, layout_.columns);
  if (threads > 1) {
    while (items() < kItemsPerThread * threads && SplitItems()) {
    }
  }
  threads_ = static_cast<int>(std::min<int64_t>(threads, items()));
}

// Of a tile and of outputs, for so many rows of an image.
int64_t IntegerForward::ItemBytes(int64_t rows) const {
  int64_t output = SizeOf(output_type_);
  if (fusion_.has_residual) output += SizeOf(fusion_.residual_type);
  return layout_.TileBytes(rows) +
         rows * layout_.columns * geometry().out_channels * output;
}

// Makes items smaller; false if they cannot be.
bool IntegerForward::SplitItems() {
  // Bands of fewer rows would mostly pack what their neighbours pack, too.
  constexpr int64_t kFewRows = 4;
  if (images_ > 1) {
    Split(geometry().batch, CeilDiv(images_, 2), &images_, &image_parts_);
  } else if (rows_ > kFewRows) {
    Split(geometry().height.output, CeilDiv(rows_, 2), &rows_, &bands_);
  } else if (item_panels_ > 1) {
    Split(panels_, CeilDiv(item_panels_, 2), &item_panels_, &panel_parts_);
  } else {
    return false;
  }
  return true;
}

void IntegerForward::LayOutScratch() {
  Places places;
  const int64_t sources = tile_.Sources(images_, rows_, layout_.columns);
  scratch_.quantized = places.Take(tile_.QuantizedBytes(rows_));
  scratch_.tile = places.Take(tile_.TileBytes(images_, rows_));
  scratch_.sources = places.Take(sources * sizeof(uint8_t*));
  scratch_.pixel_sums = places.Take(
      tile_.has_pixel_sums() ? sources * layout_.outputs() * sizeof(int32_t)
                             : 0);
  scratch_.row_sums = places.Take(tile_.RowSums(rows_) * sizeof(int32_t));
  scratch_.totals = places.Take(kMaxPanels * kBatch * kLanes * sizeof(int32_t));
  scratch_.end = PaddedSize(places.end(), 1, threads_);
}

IntegerForward::Scratch IntegerForward::ScratchAt(uint8_t* memory) const {
  const auto ints = [memory](int64_t offset) {
    return reinterpret_cast<int32_t*>(memory + offset);
  };
  return {{memory + scratch_.quantized, memory + scratch_.tile,
           reinterpret_cast<const uint8_t**>(memory + scratch_.sources),
           ints(scratch_.pixel_sums), ints(scratch_.row_sums)},
          ints(scratch_.totals)};
}

int64_t IntegerForward::workspace_bytes(bool filters_are_packed) const {
  const int64_t filters =
      filters_are_packed ? 0
                         : RoundUp(packed_filters_bytes(), kWorkspaceAlignment);
  return filters + 2 * lanes() * sizeof(float) + threads_ * scratch_.end;
}

IntegerForward::WorkItem IntegerForward::ItemAt(int64_t index) const {
  // Neighbours share their filters.
  const int64_t column = index % column_parts_ * layout_.columns;
  index /= column_parts_;
  const int64_t band = index % bands_;
  index /= bands_;
  const int64_t image = index % image_parts_ * images_;
  index /= image_parts_;
  const int64_t panel = index % panel_parts_ * item_panels_;
  WorkItem item;
  item.outputs.group = index / panel_parts_;
  item.outputs.first_image = image;
  item.outputs.images = std::min(images_, geometry().batch - image);
  item.outputs.first = band * rows_;
  item.outputs.rows =
      std::min(rows_, geometry().height.output - item.outputs.first);
  item.outputs.first_column = column;
  item.outputs.columns =
      std::min(layout_.columns, geometry().width.output - column);
  item.first_panel = panel;
  item.panels = std::min(item_panels_, panels_ - panel);
  return item;
}

template <typename Q>
void IntegerForward::PackPanel(const Q* filters, int64_t panel,
                               uint8_t* packed) const {
  const int64_t group = panel / panels_;
  const int64_t of_group = panel % panels_;
  const int64_t first = group * geometry().group_out() + of_group * kLanes;
  const int64_t elements = layout_.sums.step_elements;
  auto* to = reinterpret_cast<Q*>(packed);
  std::memset(packed, 0, panel_bytes_);
  auto* sums =
      reinterpret_cast<int32_t*>(packed + panel_bytes_ - kFilterSumsBytes);
  const int64_t filled = panel_lanes(of_group);
  for (int64_t step = 0; step < layout_.steps(); ++step) {
    for (int64_t e = 0; e < elements; ++e) {
      const int64_t at = layout_.FilterElement(step, e);
      if (at < 0) continue;
      for (int64_t lane = 0; lane < filled; ++lane) {
        const Q value = filters[at + first + lane];
        to[layout_.sums.positions[lane] * elements + e] = value;
        if (layout_.sums.maxima) sums[lane] += value;
      }
    }
    to += elements * kLanes;
  }
}

void IntegerForward::PackFilters(ThreadPool& pool, const void* filters,
                                 void* packed) const {
  auto* bytes = static_cast<uint8_t*>(packed);
  const auto pack = [&](int64_t panel, int) {
    uint8_t* to = bytes + panel * panel_bytes_;
    if (fusion_.filter_type == DataType::kUint8) {
      PackPanel(static_cast<const uint8_t*>(filters), panel, to);
    } else {
      PackPanel(static_cast<const int16_t*>(filters), panel, to);
    }
  };
  RunTasks(pool, threads_, Task{panels_ * geometry().groups, pack});
}

// A value for each lane of each panel; `none` where there are none at all.
void IntegerForward::SpreadChannels(const float* values, float none,
                                    float* spread) const {
  std::fill_n(spread, lanes(), none);
  if (values == nullptr) return;
  const int64_t channels = geometry().group_out();
  for (int64_t group = 0; group < geometry().groups; ++group) {
    std::copy_n(values + group * channels, channels,
                spread + group * panels_ * kLanes);
  }
}

void IntegerForward::Run(ThreadPool& pool, const Tensors& tensors,
                         void* workspace) const {
  auto* memory = static_cast<uint8_t*>(workspace);
  const auto* filters = static_cast<const uint8_t*>(tensors.packed_filters);
  if (filters == nullptr) {
    PackFilters(pool, tensors.filters, memory);
    filters = memory;
    memory += RoundUp(packed_filters_bytes(), kWorkspaceAlignment);
  }
  auto* multiplier = reinterpret_cast<float*>(memory);
  float* offset = multiplier + lanes();
  uint8_t* scratch = memory + 2 * lanes() * sizeof(float);
  const Epilogue& epilogue = *tensors.epilogue;
  SpreadChannels(epilogue.multiplier, 1, multiplier);
  // To add it changes nothing, not even a negative zero.
  SpreadChannels(epilogue.offset, -0.0f, offset);
  const Shared shared = {
      tensors, filters, multiplier, offset,
      FittingOf(geometry(), fusion_, output_type_, epilogue)};
  const auto run = [&](int64_t index, int worker) {
    RunItem(ItemAt(index), shared, ScratchAt(scratch + worker * scratch_.end));
  };
  RunTasks(pool, threads_, Task{items(), run});
}

void IntegerForward::RunItem(const WorkItem& item, const Shared& shared,
                             const Scratch& scratch) const {
  tile_.Pack(item.outputs, shared.tensors.input, scratch.tile);
  const bool by_rows = layout_.kind == IntegerLayout::kRows;
  for (int64_t done = 0; done < item.panels;) {
    const int64_t left = item.panels - done;
    const int64_t some =
        by_rows ? std::min<int64_t>(left, kMaxRowPanels) : PanelsAtOnce(left);
    const int64_t first = item.first_panel + done;
    if (by_rows) {
      RunRows(item.outputs, first, some, shared, scratch);
    } else {
      RunPanels(item.outputs, first, some, shared, scratch);
    }
    done += some;
  }
}

// As many as there are sums for.
int64_t IntegerForward::PanelsAtOnce(int64_t panels) const {
  panels = std::min<int64_t>(panels, kMaxPanels);
  while (layout_.sums.max_sources[panels - 1] == 0) --panels;
  return panels;
}

StepParams IntegerForward::StepsOf(int64_t group, int64_t panel,
                                   const Shared& shared,
                                   int32_t* totals) const {
  const int64_t of_all = group * panels_ + panel;
  return {layout_.runs.data(), static_cast<int64_t>(layout_.runs.size()),
          layout_.step,        shared.filters + of_all * panel_bytes_,
          panel_bytes_,        totals,
          kBatch * kLanes};
}

void IntegerForward::RunPanels(const OutputRows& outputs, int64_t panel,
                               int64_t panels, const Shared& shared,
                               const Scratch& scratch) const {
  const int64_t sources =
      tile_.Sources(outputs.images, outputs.rows, outputs.columns);
  const int64_t most = layout_.sums.max_sources[panels - 1];
  const int64_t chunks = CeilDiv(sources, most);
  Batch batch(scratch.totals, layout_.outputs(), most,
              [&](int64_t first, int64_t count) {
                for (int64_t p = 0; p < panels; ++p) {
                  WriteSources(outputs, panel + p, first, count,
                               scratch.totals + p * kBatch * kLanes, shared,
                               scratch);
                }
              });
  for (int64_t chunk = 0, done = 0; chunk < chunks; ++chunk) {
    const int64_t count = CeilDiv(sources - done, chunks - chunk);
    layout_.sums.run(static_cast<int>(count), static_cast<int>(panels),
                     scratch.tile.sources + done,
                     StepsOf(outputs.group, panel, shared, batch.totals()));
    batch.Add(count);
    done += count;
  }
  batch.Finish();
}

void IntegerForward::RunRows(const OutputRows& outputs, int64_t panel,
                             int64_t panels, const Shared& shared,
                             const Scratch& scratch) const {
  const int64_t columns = outputs.columns;
  const int64_t most = layout_.row_sums.max_outputs[panels - 1];
  const int64_t parts = CeilDiv(columns, most);
  Batch batch(scratch.totals, 1, most, [&](int64_t first, int64_t count) {
    for (int64_t p = 0; p < panels; ++p) {
      WritePixels(outputs, panel + p, first, count,
                  scratch.totals + p * kBatch * kLanes,
                  scratch.tile.pixel_sums + first, shared);
    }
  });
  for (int64_t row = 0; row < outputs.images * outputs.rows; ++row) {
    for (int64_t part = 0, column = 0; part < parts; ++part) {
      const int64_t count = CeilDiv(columns - column, parts - part);
      layout_.row_sums.run(
          static_cast<int>(count), static_cast<int>(panels),
          scratch.tile.sources[row] + column * layout_.pixel_bytes,
          layout_.pixel_bytes,
          StepsOf(outputs.group, panel, shared, batch.totals()));
      batch.Add(count);
      column += count;
    }
  }
  batch.Finish();
}

OutputParams IntegerForward::ParamsOf(int64_t group, int64_t panel,
                                      const Shared& shared) const {
  const int64_t of_all = group * panels_ + panel;
  OutputParams params{};
  params.shift = layout_.sums.maxima ? 1 : 0;
  params.filter_sums = reinterpret_cast<const int32_t*>(
      shared.filters + (of_all + 1) * panel_bytes_ - kFilterSumsBytes);
  params.multiplier = shared.multiplier + of_all * kLanes;
  params.offset = shared.offset + of_all * kLanes;
  params.lower = shared.tensors.epilogue->lower;
  params.upper = shared.tensors.epilogue->upper;
  params.fitting = shared.fitting;
  params.residual = fusion_.residual;
  params.output = fusion_.output;
  params.pixel_stride = geometry().out_channels;
  params.lanes = panel_lanes(panel);
  return params;
}

// Of sources first ... first + count - 1 of an item. Its outputs follow each
// other: they are all columns of some rows, or all rows of images.
void IntegerForward::WriteSources(const OutputRows& outputs, int64_t panel,
                                  int64_t first, int64_t count,
                                  const int32_t* totals, const Shared& shared,
                                  const Scratch& scratch) const {
  const int64_t of_source = layout_.outputs();
  const int64_t columns = outputs.columns;
  const int32_t* const pixel_sums = scratch.tile.pixel_sums + first * of_source;
  if (columns % of_source == 0) {
    return WritePixels(outputs, panel, first * of_source, count * of_source,
                       totals, pixel_sums, shared);
  }
  // A row's last source has fewer outputs.
  const int64_t of_row = layout_.SourcesOf(columns);
  for (int64_t i = 0; i < count;) {
    const int64_t at = (first + i) % of_row;
    const int64_t some = std::min(count - i, of_row - at);
    WritePixels(outputs, panel, (first + i) / of_row * columns + at * of_source,
                std::min(some * of_source, columns - at * of_source),
                totals + i * of_source * kLanes, pixel_sums + i * of_source,
                shared);
    i += some;
  }
}

// Of pixels that follow each other, first ... first + count - 1 of an item.
void IntegerForward::WritePixels(const OutputRows& outputs, int64_t panel,
                                 int64_t first, int64_t count,
                                 const int32_t* totals,
                                 const int32_t* pixel_sums,
                                 const Shared& shared) const {
  const Tensors& tensors = shared.tensors;
  OutputParams params = ParamsOf(outputs.group, panel, shared);
  params.totals = totals;
  params.pixels = count;
  if (tile_.has_pixel_sums()) params.pixel_sums = pixel_sums;
  const int64_t first_pixel =
      (outputs.first_image * geometry().height.output + outputs.first) *
          geometry().width.output +
      outputs.first_column;
  const int64_t element = (first_pixel + first) * geometry().out_channels +
                          outputs.group * geometry().group_out() +
                          panel * kLanes;
  if (tensors.residual != nullptr) {
    params.residuals = static_cast<const uint8_t*>(tensors.residual) +
                       element * SizeOf(fusion_.residual_type);
  }
  params.outputs =
      static_cast<uint8_t*>(tensors.output) + element * SizeOf(output_type_);
  write_(params);
}

}  // namespace internal
}  // namespace keras_adder
