#include "core/correlation.h"

#include <algorithm>
#include <atomic>

#include "core/passes.h"

namespace keras_adder {
namespace internal {
namespace {

// A unit handles about this many destination pixels, so that packed filters,
// which stream through the cache once a unit, are used often.
constexpr int64_t kUnitPixels = 256;
// Columns of a block where rows overlap (filters taller than one pixel): wide
// enough for any kernel, narrow enough that several rows share their sources.
constexpr int64_t kUnitColumns = 64;
// Destination planes of a unit: with kUnitPixels, totals of at most 128 KiB.
constexpr int64_t kUnitPlanes = 8;
// Bytes of a unit's source tile: a fraction of a core's second-level cache.
constexpr int64_t kTileBytes = 256 << 10;
// Terms summed in registers before they are added to the totals.
constexpr int64_t kChainTerms = 256;
// Differences below which a second thread costs more than it saves.
constexpr int64_t kThreadWork = 1 << 17;

int64_t Spread(int64_t count, int64_t most) {
  return CeilDiv(count, CeilDiv(count, most));
}

int64_t RoundUp(int64_t value, int64_t multiple) {
  return CeilDiv(value, multiple) * multiple;
}

int MaxPlanes(const KernelSet& set, int64_t element) {
  return element == sizeof(double) ? set.f64.max_planes : set.f32.max_planes;
}

AxisPlan Consecutive(int64_t residue, int64_t step, int64_t length) {
  return PlanAxis({{0, residue}}, step, length);
}

}  // namespace

CorrelationPlan::CorrelationPlan(const Geometry& original, Pass pass,
                                 const KernelSet& set, int64_t element,
                                 int threads)
    : set_(set),
      pass_(pass),
      element_(element),
      threads_(threads),
      filter_taps_(original.kernel_taps()),
      groups_(original.groups),
      filters_(original,
               pass == Pass::kForward ? FilterOrder::kInputsToOutputs
                                      : FilterOrder::kOutputsToInputs,
               MaxPlanes(set, element)) {
  const Geometry geometry = Folded(original);
  height_ = geometry.height;
  width_ = geometry.width;
  const Image input{geometry.input, geometry.batch, height_.input,
                    width_.input, geometry.group_in()};
  const Image output{geometry.output, geometry.batch, height_.output,
                     width_.output, geometry.group_out()};
  const bool forward = pass == Pass::kForward;
  source_ = forward ? input : output;
  destination_ = forward ? output : input;
  destination_size_ = forward ? geometry.output_size() : geometry.input_size();
  empty_ = destination_size_ == 0;
  partial_ = false;
  if (empty_) return;

  std::vector<Phase> rows, columns;
  if (forward) {
    rows = {{0, height_.output, ForwardTaps(height_)}};
    columns = {{0, width_.output, ForwardTaps(width_)}};
  } else if (geometry.output_size() > 0) {
    rows = BackwardPhases(height_);
    columns = BackwardPhases(width_);
    partial_ = static_cast<int64_t>(rows.size()) <
                   std::min(height_.stride, height_.input) ||
               static_cast<int64_t>(columns.size()) <
                   std::min(width_.stride, width_.input);
  }
  if (rows.empty() || columns.empty()) {
    partial_ = true;
    return;
  }
  ChooseBlocks(rows, columns);
  for (const Phase& row : rows) {
    for (const Phase& column : columns) AddPhase(row, column);
  }
}

int64_t CorrelationPlan::SourceSlots(const Phase& rows,
                                     const Phase& columns) const {
  const int64_t step_rows = pass_ == Pass::kForward ? height_.stride : 1;
  const int64_t step_columns = pass_ == Pass::kForward ? width_.stride : 1;
  return PlanAxis(rows.taps, step_rows, block_rows_).slots *
         PlanAxis(columns.taps, step_columns, block_columns_).slots *
         block_images_;
}

int64_t CorrelationPlan::UnitsOf(int64_t row_count,
                                 int64_t column_count) const {
  return CeilDiv(destination_.batch, block_images_) * groups_ *
         CeilDiv(row_count, block_rows_) *
         CeilDiv(column_count, block_columns_) * parts_.size();
}

// Blocks are a matter of speed and memory alone: no result depends on them.
void CorrelationPlan::ChooseBlocks(const std::vector<Phase>& rows,
                                   const std::vector<Phase>& columns) {
  const int64_t row_count = rows[0].count;
  const int64_t column_count = columns[0].count;
  const int64_t phases = rows.size() * columns.size();
  const int64_t taps = CeilDiv(filter_taps_, phases);
  pass_planes_ = std::clamp<int64_t>(kChainTerms / (taps * kLanes), 1,
                                     Planes(source_.channels));

  parts_ = DealPlanes(filters_.blocks().size(),
                      std::max<int64_t>(1, kUnitPlanes /
                                               filters_.blocks()[0].planes));
  const bool overlap = rows[0].taps.size() > 1 && row_count > 1;
  block_columns_ =
      Spread(column_count, overlap ? kUnitColumns : kUnitPixels);
  block_rows_ = Spread(
      row_count, std::max<int64_t>(1, kUnitPixels / block_columns_));
  block_images_ =
      Spread(destination_.batch,
             std::max<int64_t>(1, kUnitPixels / (block_columns_ * block_rows_)));

  const auto halve = [](int64_t* size) { *size = CeilDiv(*size, 2); };
  const auto shrink = [&]() {
    if (block_images_ > 1) return halve(&block_images_), true;
    if (block_rows_ > 1) return halve(&block_rows_), true;
    if (block_columns_ > 1) return halve(&block_columns_), true;
    return false;
  };
  while (SourceSlots(rows[0], columns[0]) * pass_planes_ * kLanes * element_ >
             kTileBytes &&
         shrink()) {
  }

  // Enough units for all threads, and no threads for a handful of differences.
  const int64_t work = destination_size_ * filter_taps_ * source_.channels /
                       std::max<int64_t>(1, phases);
  threads_ = static_cast<int>(std::clamp<int64_t>(
      work / kThreadWork, 1, std::max(threads_, 1)));
  while (threads_ > 1 &&
         phases * UnitsOf(row_count, column_count) < 4 * threads_) {
    if (block_images_ > 1) {
      halve(&block_images_);
    } else if (block_rows_ > 4) {
      halve(&block_rows_);
    } else if (parts_[0].planes > 1) {
      parts_ = DealPlanes(filters_.blocks().size(), parts_[0].planes - 1);
    } else if (block_columns_ > 32) {
      halve(&block_columns_);
    } else if (block_rows_ > 1) {
      halve(&block_rows_);
    } else {
      break;
    }
  }
}

void CorrelationPlan::AddPhase(const Phase& rows, const Phase& columns) {
  const bool forward = pass_ == Pass::kForward;
  PhasePlan phase;
  phase.source_rows =
      PlanAxis(rows.taps, forward ? height_.stride : 1, block_rows_);
  phase.source_columns =
      PlanAxis(columns.taps, forward ? width_.stride : 1, block_columns_);
  phase.rows =
      Consecutive(rows.residue, forward ? 1 : height_.stride, block_rows_);
  phase.columns =
      Consecutive(columns.residue, forward ? 1 : width_.stride, block_columns_);
  phase.row_count = rows.count;
  phase.column_count = columns.count;
  for (const PlaneBlock& block : filters_.blocks()) {
    std::vector<Tap>& taps = phase.taps[block.planes];
    if (!taps.empty()) continue;
    for (size_t i = 0; i < rows.taps.size(); ++i) {
      for (size_t j = 0; j < columns.taps.size(); ++j) {
        const int64_t slot =
            phase.source_rows.tap_slot[i] * phase.source_columns.slots +
            phase.source_columns.tap_slot[j];
        const int64_t tap =
            rows.taps[i].tap * width_.kernel + columns.taps[j].tap;
        taps.push_back(
            {slot * kLanes, tap * filters_.tap_stride(block.planes)});
      }
    }
  }
  phase.first_unit = units_;
  units_ += UnitsOf(rows.count, columns.count);

  const int64_t source_slots = phase.source_rows.slots *
                               phase.source_columns.slots * block_images_;
  const int64_t slots = block_images_ * block_rows_ * block_columns_;
  int64_t planes = 0;
  for (const PlaneBlock& part : parts_) {
    int64_t count = 0;
    for (int i = 0; i < part.planes; ++i) {
      count += filters_.blocks()[part.first + i].planes;
    }
    planes = std::max(planes, count);
  }
  scratch_.source =
      std::max(scratch_.source, source_slots * pass_planes_ * kLanes);
  scratch_.totals = std::max(scratch_.totals, slots * planes * kLanes);
  if (forward) {
    scratch_.slots = source_slots;
    scratch_.pixels = slots;
  } else {
    scratch_.centre = scratch_.totals;
  }
  phases_.push_back(std::move(phase));
}

// Packed filters and, in the forward pass, two sums for each pass over source
// planes and each destination lane.
int64_t CorrelationPlan::filters_elements() const {
  const int64_t sums = pass_ == Pass::kForward
                           ? 2 * FilterSumsOffset(groups_, 0)
                           : 0;
  return RoundUp(filters_.size() + sums, kWorkspaceAlignment / element_);
}

int64_t CorrelationPlan::FilterSumsOffset(int64_t group, int64_t plane) const {
  const int64_t passes = CeilDiv(Planes(source_.channels), pass_planes_);
  return (group * Planes(destination_.channels) + plane) * passes * kLanes;
}

int64_t CorrelationPlan::workspace_bytes() const {
  if (units_ == 0) return 0;
  return (filters_elements() +
          threads_ * RoundUp(scratch_.total(),
                             kWorkspaceAlignment / element_)) *
         element_;
}

const CorrelationPlan::PhasePlan& CorrelationPlan::PhaseOf(
    int64_t unit) const {
  const auto next = std::upper_bound(
      phases_.begin(), phases_.end(), unit,
      [](int64_t u, const PhasePlan& phase) { return u < phase.first_unit; });
  return *(next - 1);
}

// Parts vary slowest but for images, so that neighbouring units share sources.
BlockOrigin CorrelationPlan::OriginOf(const PhasePlan& phase, int64_t index,
                                      int64_t* part) const {
  const auto take = [&index](int64_t count) {
    const int64_t digit = index % count;
    index /= count;
    return digit;
  };
  BlockOrigin at;
  *part = take(parts_.size());
  at.column = take(CeilDiv(phase.column_count, block_columns_)) *
              block_columns_;
  at.row = take(CeilDiv(phase.row_count, block_rows_)) * block_rows_;
  at.group = take(groups_);
  at.image = index * block_images_;
  at.columns = std::min(block_columns_, phase.column_count - at.column);
  at.rows = std::min(block_rows_, phase.row_count - at.row);
  at.images = std::min(block_images_, destination_.batch - at.image);
  return at;
}

template <typename Source, typename Filter, typename Destination>
void CorrelationPlan::Run(ThreadPool& pool, const Source* source,
                          const Filter* filters, const Filter* centre,
                          Destination* destination, void* workspace) const {
  using C = typename ComputeType<Filter>::type;
  if (empty_) return;
  if (partial_) {
    std::memset(destination, 0, destination_size_ * sizeof(Destination));
  }
  if (units_ == 0) return;
  const Filters<C> packed =
      PackFilters(pool, filters, static_cast<C*>(workspace));
  C* const scratch = packed.packed + filters_elements();
  const int64_t scratch_stride =
      RoundUp(scratch_.total(), kWorkspaceAlignment / sizeof(C));
  ForEachUnit(pool, units_, threads_, [&](int64_t unit, int worker_number) {
    Worker<C> worker;
    worker.source = scratch + worker_number * scratch_stride;
    worker.totals = worker.source + scratch_.source;
    worker.centre = worker.totals + scratch_.totals;
    worker.slot_sums = worker.centre + scratch_.centre;
    worker.slot_magnitudes = worker.slot_sums + scratch_.slots;
    worker.sums = worker.slot_magnitudes + scratch_.slots;
    worker.magnitudes = worker.sums + scratch_.pixels;
    RunUnit<C>(unit, source, packed, centre, destination, worker);
  });
}

template <typename C, typename Filter>
CorrelationPlan::Filters<C> CorrelationPlan::PackFilters(
    ThreadPool& pool, const Filter* filters, C* workspace) const {
  Filters<C> result;
  result.packed = workspace;
  result.sums = workspace + filters_.size();
  result.magnitudes = result.sums + FilterSumsOffset(groups_, 0);
  std::atomic<bool> finite{true};
  const int packers =
      filters_.size() > (1 << 16) ? threads_ : 1;  // not worth a thread below
  ForEachUnit(pool, filters_.units(), packers, [&](int64_t unit, int) {
    if (!filters_.Pack(set_, filters, unit, result.packed)) finite = false;
    if (pass_ != Pass::kForward) return;
    const int64_t group = unit / filters_.blocks().size();
    const PlaneBlock& block = filters_.blocks()[unit % filters_.blocks().size()];
    int64_t offset = FilterSumsOffset(group, block.first);
    const int64_t source_planes = Planes(source_.channels);
    for (int64_t plane = 0; plane < source_planes; plane += pass_planes_) {
      filters_.Sum(result.packed, unit, plane,
                   std::min(pass_planes_, source_planes - plane),
                   result.sums + offset, result.magnitudes + offset);
      offset += block.planes * kLanes;
    }
  });
  result.finite = finite;
  return result;
}

template <typename C, typename Source, typename Filter, typename Destination>
void CorrelationPlan::RunUnit(int64_t unit, const Source* source,
                              const Filters<C>& filters,
                              const Filter* centre, Destination* destination,
                              const Worker<C>& worker) const {
  const PhasePlan& phase = PhaseOf(unit);
  int64_t part;
  BlockOrigin at = OriginOf(phase, unit - phase.first_unit, &part);
  const PlaneBlock& first = filters_.blocks()[parts_[part].first];
  const PlaneBlock& last = filters_.blocks()[parts_[part].first +
                                             parts_[part].planes - 1];
  const int64_t planes = last.first + last.planes - first.first;
  const int64_t slots = block_images_ * block_rows_ * block_columns_;
  std::memset(worker.totals, 0, slots * planes * kLanes * sizeof(C));
  bool careful = false;
  if (pass_ == Pass::kInputGradient) {
    careful = !filters.finite;
    PackTile(set_, centre, destination_, phase.rows, phase.columns, at,
             first.first, planes, slots * kLanes, worker.centre);
    const int64_t filled =
        at.images * block_rows_ * block_columns_ * kLanes;
    for (int64_t p = 0; p < planes && !careful; ++p) {
      careful = !AllFinite(worker.centre + p * slots * kLanes, filled);
    }
  }
  const int64_t source_plane = phase.source_rows.slots *
                               phase.source_columns.slots * block_images_ *
                               kLanes;
  const int64_t source_planes = Planes(source_.channels);
  for (int64_t plane = 0; plane < source_planes; plane += pass_planes_) {
    const int64_t count = std::min(pass_planes_, source_planes - plane);
    PackTile(set_, source, source_, phase.source_rows, phase.source_columns,
             at, plane, count, source_plane, worker.source);
    if (pass_ == Pass::kForward) SumSources(phase, at, count, worker);
    SumPlanes(phase, at, part, plane, count, careful, filters, worker);
  }
  const C scale = pass_ == Pass::kForward ? -1 : 1;
  UnpackTile(set_, worker.totals, destination_, phase.rows, phase.columns, at,
             first.first, planes, slots * kLanes, scale, destination);
}

// Sums up what the taps of each pixel see of the packed source planes.
template <typename C>
void CorrelationPlan::SumSources(const PhasePlan& phase, const BlockOrigin& at,
                                 int64_t planes,
                                 const Worker<C>& worker) const {
  const int64_t columns = phase.source_columns.slots;
  const int64_t image_slots = phase.source_rows.slots * columns;
  KernelsOf<C>(set_).slot_sums(worker.source,
                               block_images_ * image_slots * kLanes, planes,
                               at.images * image_slots, worker.slot_sums,
                               worker.slot_magnitudes);
  for (int64_t image = 0; image < at.images; ++image) {
    for (int64_t row = 0; row < at.rows; ++row) {
      const int64_t pixel = (image * block_rows_ + row) * block_columns_;
      C* const sums = worker.sums + pixel;
      C* const magnitudes = worker.magnitudes + pixel;
      std::fill_n(sums, at.columns, C{0});
      std::fill_n(magnitudes, at.columns, C{0});
      for (const int64_t row_slot : phase.source_rows.tap_slot) {
        for (const int64_t column_slot : phase.source_columns.tap_slot) {
          const int64_t slot =
              image * image_slots + (row_slot + row) * columns + column_slot;
          for (int64_t i = 0; i < at.columns; ++i) {
            sums[i] += worker.slot_sums[slot + i];
            magnitudes[i] += worker.slot_magnitudes[slot + i];
          }
        }
      }
    }
  }
}

// Adds what source planes first_plane ... contribute to all of a unit's totals.
template <typename C>
void CorrelationPlan::SumPlanes(const PhasePlan& phase, const BlockOrigin& at,
                                int64_t part, int64_t first_plane,
                                int64_t planes, bool careful,
                                const Filters<C>& filters,
                                const Worker<C>& worker) const {
  const int64_t slots = block_images_ * block_rows_ * block_columns_;
  const int64_t part_plane = filters_.blocks()[parts_[part].first].first;
  for (int i = 0; i < parts_[part].planes; ++i) {
    const PlaneBlock& lanes = filters_.blocks()[parts_[part].first + i];
    const int64_t offset =
        (lanes.first - part_plane) * slots * kLanes;
    CorrelationBlock<C> block;
    block.source = worker.source;
    block.source_plane = phase.source_rows.slots * phase.source_columns.slots *
                         block_images_ * kLanes;
    block.filter_plane = filters_.source_plane_stride(lanes.planes);
    block.filters = filters.packed + at.group * filters_.group_stride() +
                    lanes.first * filters_.destination_plane_stride() +
                    first_plane * block.filter_plane;
    block.taps = phase.taps[lanes.planes].data();
    block.tap_count = phase.taps[lanes.planes].size();
    block.channels = std::min(planes * kLanes,
                              source_.channels - first_plane * kLanes);
    block.total = worker.totals + offset;
    block.centre =
        pass_ == Pass::kForward ? block.total : worker.centre + offset;
    block.total_plane = slots * kLanes;
    block.source_sums = worker.sums;
    block.source_magnitudes = worker.magnitudes;
    const int64_t sums = FilterSumsOffset(at.group, lanes.first) +
                         first_plane / pass_planes_ * lanes.planes * kLanes;
    block.filter_sums = filters.sums + sums;
    block.filter_magnitudes = filters.magnitudes + sums;
    if (careful) {
      SumBlockInside(phase, at, lanes.planes, block);
    } else {
      SumBlock(phase, at, lanes.planes, block);
    }
  }
}

// Walks over a unit's pixels in runs that a kernel takes at once.
template <typename C>
void CorrelationPlan::SumBlock(const PhasePlan& phase, const BlockOrigin& at,
                               int planes, CorrelationBlock<C> block) const {
  const Kernels<C>& kernels = KernelsOf<C>(set_);
  const auto kernel = pass_ == Pass::kForward ? kernels.forward
                                              : kernels.input_gradient;
  const int64_t source_row = phase.source_columns.slots * kLanes;
  const int64_t source_image = phase.source_rows.slots * source_row;
  int64_t images = at.images, rows = at.rows, columns = at.columns;
  // Without overlap, full rows follow each other in both tiles.
  if (columns == phase.source_columns.slots && columns == block_columns_) {
    if (rows == phase.source_rows.slots && rows == block_rows_) {
      rows *= images;
      images = 1;
    }
    columns *= rows;
    rows = 1;
  }
  const int64_t runs = CeilDiv(
      columns, pass_ == Pass::kForward ? kernels.forward_pixels[planes]
                                       : kernels.input_gradient_pixels[planes]);
  for (int64_t image = 0; image < images; ++image) {
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t source = image * source_image + row * source_row;
      const int64_t pixel = (image * block_rows_ + row) * block_columns_;
      for (int64_t run = 0; run < runs; ++run) {
        const int64_t first = columns * run / runs;
        CorrelationBlock<C> here = block;
        here.source += source + first * kLanes;
        here.total += (pixel + first) * kLanes;
        here.centre += (pixel + first) * kLanes;
        here.source_sums += pixel + first;
        here.source_magnitudes += pixel + first;
        kernel(here, static_cast<int>(columns * (run + 1) / runs - first),
               planes);
      }
    }
  }
}

// The same, slowly, for an input gradient that may meet NaNs: pixel by pixel, with
// only those taps whose output exists. The others add 0 * HT(filter - centre),
// which is nothing unless it is NaN.
template <typename C>
void CorrelationPlan::SumBlockInside(const PhasePlan& phase,
                                     const BlockOrigin& at, int planes,
                                     CorrelationBlock<C> block) const {
  const auto inside = [](const AxisTap& tap, int64_t at, int64_t size) {
    return at + tap.shift >= 0 && at + tap.shift < size;
  };
  const std::vector<AxisTap>& row_taps = phase.source_rows.taps;
  const std::vector<AxisTap>& column_taps = phase.source_columns.taps;
  std::vector<Tap> taps;
  for (int64_t row = 0; row < at.rows; ++row) {
    for (int64_t column = 0; column < at.columns; ++column) {
      taps.clear();
      for (size_t i = 0; i < row_taps.size(); ++i) {
        if (!inside(row_taps[i], at.row + row, source_.height)) continue;
        for (size_t j = 0; j < column_taps.size(); ++j) {
          if (!inside(column_taps[j], at.column + column, source_.width)) {
            continue;
          }
          taps.push_back(block.taps[i * column_taps.size() + j]);
        }
      }
      for (int64_t image = 0; image < at.images; ++image) {
        CorrelationBlock<C> here = block;
        const int64_t slot =
            (image * block_rows_ + row) * block_columns_ + column;
        here.taps = taps.data();
        here.tap_count = taps.size();
        here.source += ((image * phase.source_rows.slots + row) *
                            phase.source_columns.slots +
                        column) *
                       kLanes;
        here.total += slot * kLanes;
        here.centre += slot * kLanes;
        KernelsOf<C>(set_).input_gradient(here, 1, planes);
      }
    }
  }
}

}  // namespace internal

template <typename T, typename O>
AdderForward<T, O>::AdderForward(const Geometry& geometry,
                                 const KernelSet& kernels, int threads)
    : plan_(new internal::CorrelationPlan(
          geometry, internal::Pass::kForward, kernels,
          sizeof(typename ComputeType<T>::type), threads)) {}

template <typename T, typename O>
AdderForward<T, O>::~AdderForward() = default;

template <typename T, typename O>
int64_t AdderForward<T, O>::workspace_bytes() const {
  return plan_->workspace_bytes();
}

template <typename T, typename O>
void AdderForward<T, O>::Run(ThreadPool& pool, const T* input,
                             const T* filters, O* output,
                             void* workspace) const {
  plan_->Run<T, T, O>(pool, input, filters, nullptr, output, workspace);
}

template <typename T, typename O>
AdderInputGradient<T, O>::AdderInputGradient(const Geometry& geometry,
                                             const KernelSet& kernels,
                                             int threads)
    : plan_(new internal::CorrelationPlan(
          geometry, internal::Pass::kInputGradient, kernels,
          sizeof(typename ComputeType<T>::type), threads)) {}

template <typename T, typename O>
AdderInputGradient<T, O>::~AdderInputGradient() = default;

template <typename T, typename O>
int64_t AdderInputGradient<T, O>::workspace_bytes() const {
  return plan_->workspace_bytes();
}

template <typename T, typename O>
void AdderInputGradient<T, O>::Run(ThreadPool& pool, const T* input,
                                   const T* filters, const O* gradient,
                                   T* input_gradient, void* workspace) const {
  plan_->Run<O, T, T>(pool, gradient, filters, input, input_gradient,
                      workspace);
}

#define INSTANTIATE(T, O)              \
  template class AdderForward<T, O>;   \
  template class AdderInputGradient<T, O>
INSTANTIATE(Half, Half);
INSTANTIATE(Half, float);
INSTANTIATE(BFloat16, BFloat16);
INSTANTIATE(BFloat16, float);
INSTANTIATE(float, float);
INSTANTIATE(double, double);
#undef INSTANTIATE

}  // namespace keras_adder
