#include "core/correlation.h"

#include <algorithm>
#include <atomic>

#include "core/workspace.h"

namespace keras_adder {
namespace internal {
namespace {

// A unit handles about this many bytes of totals, so that packed filters, which
// stream through the cache once a unit, are used often, and no more than this
// many pixels.
constexpr int64_t kTotalsBytes = 256 << 10;
constexpr int64_t kUnitPixels = 1024;
// Filters stream through the caches once a unit: not for fewer pixels than this
// if it can be helped.
constexpr int64_t kLeastPixels = 256;
// Columns of a block where rows overlap (filters taller than one pixel): wide
// enough for any kernel, narrow enough that several rows share their sources.
constexpr int64_t kUnitColumns = 64;
// Destination planes of a unit.
constexpr int64_t kUnitPlanes = 8;
// Pixels that lie farther apart than this many bytes, and are met by several
// taps, are better packed: few of them would share a page or the first-level
// cache.
constexpr int64_t kScatteredBytes = 512;
// Bytes of a unit's sources, in a tile or in place: a fraction of a core's
// second-level cache.
constexpr int64_t kTileBytes = 256 << 10;
// Terms summed in registers before they are added to the totals, about: every
// term of a chain rounds, so short chains are accurate ones.
constexpr int64_t kChainTerms = 576;

int64_t Spread(int64_t count, int64_t most) {
  return CeilDiv(count, CeilDiv(count, most));
}

}  // namespace

CorrelationPlan::CorrelationPlan(const Geometry& original, Pass pass,
                                 const KernelSet& set, int64_t element,
                                 bool converts, int threads)
    : set_(set),
      pass_(pass),
      element_(element),
      threads_(threads),
      groups_(original.groups),
      filters_(original, pass == Pass::kForward
                             ? FilterOrder::kInputsToOutputs
                             : FilterOrder::kOutputsToInputs) {
  const Geometry geometry = Folded(original);
  height_ = geometry.height;
  width_ = geometry.width;
  const Image input{geometry.input, geometry.batch,      height_.input,
                    width_.input,   geometry.group_in(), geometry.patches};
  const Image output{geometry.output, geometry.batch, height_.output,
                     width_.output, geometry.group_out()};
  const bool forward = pass == Pass::kForward;
  source_ = forward ? input : output;
  destination_ = forward ? output : input;
  destination_size_ = forward ? geometry.output_size() : geometry.input_size();
  if (destination_size_ == 0) return;

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
  if (forward) {
    FindOutsideColumns();
    in_place_ = !converts && source_.height > 0 && source_.width > 0 &&
                source_.strides.channel == 1 && !source_.patches.used() &&
                SkipsAllColumnsOutside() &&
                (geometry.kernel_taps() == 1 ||
                 source_.strides.width * element_ <= kScatteredBytes);
    by_rows_ =
        element_ == sizeof(float) ? SuitsRows<float>() : SuitsRows<double>();
  }
  ChooseTerms(rows.size() * columns.size());
  ChooseBlocks(rows, columns);
  for (const Phase& phase : rows) {
    row_phases_.push_back(PlanPhase(phase, height_, block_rows_));
  }
  for (const Phase& phase : columns) {
    column_phases_.push_back(PlanPhase(phase, width_, block_columns_));
  }
  SizeScratch();
}

// The same for every block of an image, since results must not depend on
// blocks: only an image's very first and last column leave out taps, and no tap
// is left out by both.
void CorrelationPlan::FindOutsideColumns() {
  if (width_.kernel == 1) return;
  const std::vector<AxisTap> taps = ForwardTaps(width_);
  const auto outside = [&](int64_t tap, int64_t pixel) {
    const int64_t source = pixel * width_.stride + taps[tap].shift;
    return source < 0 || source >= source_.width;
  };
  while (outside_.first < width_.kernel && outside(outside_.first, 0)) {
    ++outside_.first;
  }
  if (width_.output == 1) return;
  while (outside_.first + outside_.last < width_.kernel &&
         outside(width_.kernel - 1 - outside_.last, width_.output - 1)) {
    ++outside_.last;
  }
}

// Whether no pixel meets a column of taps in the padding but those that
// `outside_` leaves out.
bool CorrelationPlan::SkipsAllColumnsOutside() const {
  const std::vector<AxisTap> taps = ForwardTaps(width_);
  const auto inside = [&](int64_t first, int64_t end, int64_t pixel) {
    if (first >= end) return true;
    const int64_t source = pixel * width_.stride;
    return source + taps[first].shift >= 0 &&
           source + taps[end - 1].shift < source_.width;
  };
  const int64_t last = width_.output - 1;
  const int64_t end = width_.kernel - outside_.last;
  if (last == 0) return inside(outside_.first, width_.kernel, 0);
  if (last > 1 &&
      !(inside(0, width_.kernel, 1) && inside(0, width_.kernel, last - 1))) {
    return false;
  }
  return inside(outside_.first, width_.kernel, 0) && inside(0, end, last);
}

CorrelationPlan::Outside CorrelationPlan::OutsideOf(const Terms& terms) const {
  const int64_t after = width_.kernel - terms.first_column - terms.columns;
  return {std::clamp<int64_t>(outside_.first - terms.first_column, 0,
                              terms.columns),
          std::clamp<int64_t>(outside_.last - after, 0, terms.columns)};
}

// In the forward pass, sums of sources and filters belong to each of the terms,
// so taps are named by them too; the input gradient's phases have taps of their
// own and take all of them at once.
void CorrelationPlan::ChooseTerms(int64_t phases) {
  const int64_t source_planes = Planes(source_.channels);
  Terms most{0, 0, 0, height_.kernel, 0, width_.kernel};
  if (pass_ == Pass::kForward) {
    most.columns = Spread(width_.kernel, kChainTerms / kLanes);
    most.rows =
        Spread(height_.kernel,
               std::max<int64_t>(1, kChainTerms / (kLanes * most.columns)));
  }
  const int64_t taps = CeilDiv(most.rows * most.columns, phases);
  most.planes =
      std::clamp<int64_t>(kChainTerms / (taps * kLanes), 1, source_planes);
  int64_t rows = 0;
  for (int64_t plane = 0; plane < source_planes; plane += most.planes) {
    for (int64_t row = 0; row < height_.kernel; row += most.rows) {
      for (int64_t column = 0; column < width_.kernel; column += most.columns) {
        terms_.push_back({plane, std::min(most.planes, source_planes - plane),
                          row, std::min(most.rows, height_.kernel - row),
                          column,
                          std::min(most.columns, width_.kernel - column)});
        term_rows_.push_back(rows);
        rows += terms_.back().rows;
      }
    }
  }
  term_rows_.push_back(rows);
}

int64_t CorrelationPlan::SourceSlots(const Phase& rows,
                                     const Phase& columns) const {
  return PlanPhase(rows, height_, block_rows_).source.slots *
         PlanPhase(columns, width_, block_columns_).source.slots *
         block_images_;
}

int64_t CorrelationPlan::UnitsOfPhase(int64_t rows, int64_t columns) const {
  return CeilDiv(destination_.batch, block_images_) * groups_ *
         CeilDiv(rows, block_rows_) * CeilDiv(columns, block_columns_) *
         parts_.size();
}

// Blocks are a matter of speed and memory alone: no result depends on them. All
// phases share them, and the first is the longest.
void CorrelationPlan::ChooseBlocks(const std::vector<Phase>& rows,
                                   const std::vector<Phase>& columns) {
  const int64_t row_count = rows[0].count;
  const int64_t column_count = columns[0].count;
  const int64_t phases = rows.size() * columns.size();

  const int64_t all_planes = Planes(destination_.channels);
  const int64_t planes = std::min(all_planes, kUnitPlanes);
  parts_ = DealPlanes(all_planes, planes);
  const int64_t pixels =
      std::min(kUnitPixels, kTotalsBytes / (planes * kLanes * element_));
  const bool overlap = rows[0].taps.size() > 1 && row_count > 1;
  block_columns_ =
      Spread(column_count, overlap ? std::min(kUnitColumns, pixels) : pixels);
  block_rows_ =
      Spread(row_count, std::max<int64_t>(1, pixels / block_columns_));
  block_images_ =
      Spread(destination_.batch,
             std::max<int64_t>(1, pixels / (block_columns_ * block_rows_)));

  const auto halve = [](int64_t* size) { *size = CeilDiv(*size, 2); };
  const auto shrink = [&]() {
    if (block_images_ > 1) return halve(&block_images_), true;
    if (block_rows_ > 1) return halve(&block_rows_), true;
    if (block_columns_ > 1) return halve(&block_columns_), true;
    return false;
  };
  while (SourceSlots(rows[0], columns[0]) * terms_[0].planes * kLanes *
                 element_ >
             kTileBytes &&
         shrink()) {
  }

  // Many units, so that no thread waits long for another's last one.
  while (threads_ > 1 && block_images_ > 1 &&
         block_slots() >= 2 * kLeastPixels &&
         phases * UnitsOfPhase(row_count, column_count) < 16 * threads_) {
    halve(&block_images_);
  }
  // Enough of them for all threads.
  while (threads_ > 1 &&
         phases * UnitsOfPhase(row_count, column_count) < 4 * threads_) {
    if (block_images_ > 1) {
      halve(&block_images_);
    } else if (block_rows_ > 4) {
      halve(&block_rows_);
    } else if (parts_[0].planes > 1) {
      parts_ = DealPlanes(all_planes, CeilDiv(parts_[0].planes, 2));
    } else if (block_columns_ > 32) {
      halve(&block_columns_);
    } else if (block_rows_ > 1) {
      halve(&block_rows_);
    } else {
      break;
    }
  }
  units_ = phases * UnitsOfPhase(row_count, column_count);
  by_parts_ = filters_.Outweigh(source_.batch * source_.height * source_.width *
                                source_.channels * groups_);
  threads_ = static_cast<int>(std::min<int64_t>(threads_, units_));
}

CorrelationPlan::AxisPhase CorrelationPlan::PlanPhase(const Phase& phase,
                                                      const Axis& axis,
                                                      int64_t length) const {
  const bool forward = pass_ == Pass::kForward;
  return {PlanAxis(phase.taps, forward ? axis.stride : 1, length),
          PlanAxis({{0, phase.residue}}, forward ? 1 : axis.stride, length),
          phase.count};
}

void CorrelationPlan::SizeScratch() {
  const auto most_slots = [](const std::vector<AxisPhase>& phases) {
    int64_t most = 0;
    for (const AxisPhase& phase : phases) {
      most = std::max(most, phase.source.slots);
    }
    return most;
  };
  const int64_t slots =
      most_slots(row_phases_) * most_slots(column_phases_) * block_images_;
  if (!in_place_) scratch_.source = slots * terms_[0].planes * kLanes;
  scratch_.totals = block_slots() * MostPlanes(parts_) * kLanes;
  if (pass_ == Pass::kForward) {
    // Kernels that sum up slots may touch so many more.
    scratch_.slots = slots + kLanes;
    scratch_.pixels = block_slots() + kLanes;
  } else {
    scratch_.centre = scratch_.totals;
  }
}

// Packed filters and, in the forward pass, some sums for each row of taps of
// each of the terms and each destination lane.
int64_t CorrelationPlan::filters_elements() const {
  const int64_t sums =
      pass_ == Pass::kForward
          ? FilterSums<float>::kArrays * FilterSumsOffset(filters_.units())
          : 0;
  return SetApart(filters_.size() + sums, element_, threads_);
}

int64_t CorrelationPlan::FilterSumsOffset(int64_t filter_unit) const {
  return filter_unit * term_rows_.back() * kLanes;
}

int64_t CorrelationPlan::workspace_bytes() const {
  if (units_ == 0) return 0;
  return (filters_elements() +
          threads_ * SetApart(scratch_.total(), element_, threads_)) *
             element_ -
         GapBytes(threads_);
}

// In phases that are shorter than the first, a unit may have no rows or no
// columns.
CorrelationPlan::Unit CorrelationPlan::UnitAt(int64_t index) const {
  const auto take = [&index](int64_t count) {
    const int64_t digit = index % count;
    index /= count;
    return digit;
  };
  Unit unit;
  BlockOrigin& at = unit.at;
  if (!by_parts_) unit.planes = parts_[take(parts_.size())];
  at.column =
      take(CeilDiv(column_phases_[0].count, block_columns_)) * block_columns_;
  at.row = take(CeilDiv(row_phases_[0].count, block_rows_)) * block_rows_;
  at.image = take(CeilDiv(destination_.batch, block_images_)) * block_images_;
  unit.columns = &column_phases_[take(column_phases_.size())];
  unit.rows = &row_phases_[take(row_phases_.size())];
  if (by_parts_) unit.planes = parts_[take(parts_.size())];
  at.group = index;
  at.columns = std::min(block_columns_, unit.columns->count - at.column);
  at.rows = std::min(block_rows_, unit.rows->count - at.row);
  at.images = std::min(block_images_, destination_.batch - at.image);
  return unit;
}

template <Pass kPass, typename Source, typename Filter, typename Destination>
void CorrelationPlan::Run(ThreadPool& pool, const Source* source,
                          const Filter* filters, const Filter* centre,
                          Destination* destination, void* workspace) const {
  using C = typename ComputeType<Filter>::type;
  if (destination_size_ == 0) return;
  const auto zero = ZeroTask(
      destination, partial_ ? destination_size_ * sizeof(Destination) : 0);
  if (units_ == 0) return RunTasks(pool, threads_, zero);
  Filters<C> packed;
  packed.packed = static_cast<C*>(workspace);
  packed.sums = FilterSums<C>::At(packed.packed + filters_.size(),
                                  FilterSumsOffset(filters_.units()));
  std::atomic<bool> finite{true};
  const std::vector<PlaneRange> shares = filters_.Share(threads_);
  const auto pack = [&](int64_t share, int) {
    constexpr bool forward = kPass == Pass::kForward;
    for (const Terms& terms : terms_) {
      if (terms.first_row == 0 && terms.first_column == 0) {
        filters_.Pack(set_, filters, shares[share],
                      {terms.first_plane, terms.planes}, packed.packed,
                      forward ? nullptr : &finite);
      }
      if (forward) SumPackedFilters(shares[share], terms, packed);
    }
  };
  C* const scratch = packed.packed + filters_elements();
  const int64_t scratch_stride =
      SetApart(scratch_.total(), sizeof(C), threads_);
  std::vector<std::vector<TapLines>> known(threads_);
  const auto run = [&](int64_t index, int number) {
    const Unit unit = UnitAt(index);
    if (unit.at.rows <= 0 || unit.at.columns <= 0) return;
    Worker<C> worker;
    worker.source = scratch + number * scratch_stride;
    worker.totals = worker.source + scratch_.source;
    worker.centre = worker.totals + scratch_.totals;
    worker.slot_sums = worker.centre + scratch_.centre;
    worker.slot_magnitudes = worker.slot_sums + scratch_.slots;
    worker.sums = worker.slot_magnitudes + scratch_.slots;
    worker.magnitudes = worker.sums + scratch_.pixels;
    worker.known = &known[number];
    if constexpr (kPass == Pass::kForward) {
      RunForward<C>(unit, source, packed, destination, worker);
    } else {
      RunInputGradient<C>(unit, source, packed, finite, centre, destination,
                          worker);
    }
  };
  RunTasks(pool, threads_, zero,
           Task{static_cast<int64_t>(shares.size()), pack}, Task{units_, run});
}

// Whether a tap of any pixel lies in the padding that is skipped: above or
// below the image or, in the forward pass, beside it.
bool CorrelationPlan::MeetsPadding(const AxisPhase& rows) const {
  if (outside_.first > 0 || outside_.last > 0) return true;
  const AxisPlan& plan = rows.source;
  return std::any_of(
      plan.taps.begin(), plan.taps.end(), [&](const AxisTap& tap) {
        return tap.shift < 0 ||
               (rows.count - 1) * plan.step + tap.shift >= source_.height;
      });
}

std::vector<CorrelationPlan::Lines> CorrelationPlan::LinesOf(
    const Unit& unit, int64_t first_tap, int64_t taps) const {
  const AxisPlan& plan = unit.rows->source;
  const int64_t row_slots = unit.columns->source.slots;
  const BlockOrigin& at = unit.at;
  // Without overlap, full rows follow each other in both tiles, and may do so
  // in the destination. Whether a pixel meets taps in the padding does not
  // depend on the block.
  const Strides& strides = destination_.strides;
  const bool joined =
      !MeetsPadding(*unit.rows) && at.columns == row_slots &&
      (!in_place_ || (at.rows == 1 && at.images == 1)) &&
      at.columns == block_columns_ && at.rows == plan.slots &&
      (at.rows == 1 || strides.height == at.columns * strides.width);
  const bool all_joined =
      joined && at.rows == block_rows_ &&
      (at.images == 1 || strides.batch == at.rows * at.columns * strides.width);
  const int64_t images = all_joined ? 1 : at.images;
  const int64_t rows = joined ? 1 : at.rows;
  std::vector<Lines> all_lines;
  for (int64_t row = 0; row < rows; ++row) {
    Lines lines{
        first_tap,
        taps,
        at.columns * (joined ? at.rows : 1) * (all_joined ? at.images : 1),
        !joined && outside_.first > 0 && at.column == 0,
        !joined && outside_.last > 0 &&
            at.column + at.columns == unit.columns->count,
        {},
        {}};
    if (!joined) {
      // Taps come in the order of their shifts, or against it.
      const auto outside = [&](int64_t tap) {
        const int64_t source =
            (at.row + row) * plan.step + plan.taps[tap].shift;
        return source < 0 || source >= source_.height;
      };
      while (lines.taps > 0 && outside(lines.first_tap)) {
        ++lines.first_tap;
        --lines.taps;
      }
      while (lines.taps > 0 && outside(lines.first_tap + lines.taps - 1)) {
        --lines.taps;
      }
    }
    const auto same = [&](const Lines& other) {
      return other.first_tap == lines.first_tap && other.taps == lines.taps;
    };
    auto found = std::find_if(all_lines.begin(), all_lines.end(), same);
    if (found == all_lines.end()) {
      all_lines.push_back(lines);
      found = all_lines.end() - 1;
      found->starts.reserve(rows * images);
    }
    for (int64_t image = 0; image < images; ++image) {
      const int64_t pixel = (image * block_rows_ + row) * block_columns_;
      const int64_t source =
          in_place_ ? image * source_.strides.batch +
                          row * plan.step * source_.strides.height
                    : (image * plan.slots + row) * row_slots * kLanes;
      found->starts.push_back({source, pixel, pixel * kLanes,
                               image * strides.batch + row * strides.height});
    }
  }
  return all_lines;
}

#define INSTANTIATE(T, O)                                            \
  template void CorrelationPlan::Run<Pass::kForward, T, T, O>(       \
      ThreadPool&, const T*, const T*, const T*, O*, void*) const;   \
  template void CorrelationPlan::Run<Pass::kInputGradient, O, T, T>( \
      ThreadPool&, const O*, const T*, const T*, T*, void*) const
KERAS_ADDER_FOR_EACH_TYPES(INSTANTIATE);
#undef INSTANTIATE

}  // namespace internal
}  // namespace keras_adder
