#include "core/correlation.h"

#include <algorithm>
#include <atomic>
#include <type_traits>

#include "core/passes.h"
#include "core/patches.h"
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
// Sums of a forward block that keep the arithmetic units busy.
constexpr int64_t kManySums = 20;
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

// Places of units in their images whose lines a worker remembers.
constexpr size_t kKnownPlaces = 8;

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

template <typename Source, typename Filter, typename Destination>
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
    const bool forward = pass_ == Pass::kForward;
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
    if (pass_ == Pass::kForward) {
      RunForward<C>(unit, source, packed, destination, worker);
    } else {
      RunInputGradient<C>(unit, source, packed, finite, centre, destination,
                          worker);
    }
  };
  RunTasks(pool, threads_, zero,
           Task{static_cast<int64_t>(shares.size()), pack}, Task{units_, run});
}

// Of some of the terms, which have just been packed.
template <typename C>
void CorrelationPlan::SumPackedFilters(const PlaneRange& units,
                                       const Terms& terms,
                                       const Filters<C>& filters) const {
  const Outside outside = OutsideOf(terms);
  FilterWindow window = filters_.Window(terms);
  window.leading = outside.first;
  window.trailing = outside.last;
  for (int64_t i = 0; i < units.planes; ++i) {
    const int64_t unit = units.first + i;
    KernelsOf<C>(set_).filter_sums(
        filters.packed + unit * filters_.destination_plane_stride() +
            filters_.WindowAt(terms),
        window,
        filters.sums.From(FilterSumsOffset(unit) +
                          term_rows_[&terms - terms_.data()] * kLanes));
  }
}

template <typename C, typename Source>
void CorrelationPlan::PackSources(const Unit& unit, const Terms& terms,
                                  const Source* source,
                                  const Worker<C>& worker) const {
  PackTile(set_, source, source_, unit.rows->source, unit.columns->source,
           unit.at, terms.first_plane, terms.planes,
           SourcePlane(unit, block_images_), worker.source);
}

// Packs them first, if they are not read in place.
template <typename C, typename Source>
CorrelationPlan::Sources<C> CorrelationPlan::SourcesOf(
    const Unit& unit, const Terms& terms, const Source* source,
    const Worker<C>& worker) const {
  if constexpr (std::is_same_v<Source, C>) {
    if (in_place_) {
      const BlockOrigin& at = unit.at;
      const Strides& strides = source_.strides;
      const int64_t pixel = unit.columns->source.step * strides.width;
      return {source + at.image * strides.batch +
                  at.row * unit.rows->source.step * strides.height +
                  at.column * pixel + at.group * source_.channels +
                  terms.first_plane * kLanes,
              kLanes, pixel};
    }
  }
  PackSources(unit, terms, source, worker);
  return {worker.source, SourcePlane(unit, block_images_), kLanes};
}

// Of all channels of some terms, for each slot that a tile has; zero in the
// padding. Returns whether magnitudes may differ from sums.
template <typename C>
bool CorrelationPlan::SumSlots(const Unit& unit, const Terms& terms,
                               const Sources<C>& sources,
                               const Worker<C>& worker) const {
  SlotBlock<C> block{sources.first, sources.plane, sources.pixel,
                     filters_.ChannelsOf(terms),
                     SourcePlane(unit, unit.at.images) / kLanes};
  const auto sum = KernelsOf<C>(set_).slot_sums;
  bool differ = false;
  if (!in_place_) {
    sum(block, worker.slot_sums, worker.slot_magnitudes, &differ);
    return differ;
  }
  const auto clear = [&](int64_t slot, int64_t count) {
    std::fill_n(worker.slot_sums + slot, count, C{0});
    std::fill_n(worker.slot_magnitudes + slot, count, C{0});
  };
  const BlockOrigin& at = unit.at;
  const Strides& strides = source_.strides;
  const int64_t origin = at.image * strides.batch +
                         at.row * unit.rows->source.step * strides.height +
                         at.column * sources.pixel;
  ForEachRun(source_, unit.rows->source, unit.columns->source, at,
             [&](int64_t slot, int64_t count, const internal::Inside& inside,
                 const Pixel& pixel) {
               clear(slot, inside.before);
               slot += inside.before;
               block.first = sources.first + (source_.OffsetOf(pixel) - origin);
               block.slots = inside.count;
               sum(block, worker.slot_sums + slot,
                   worker.slot_magnitudes + slot, &differ);
               clear(slot + inside.count, count - inside.before - inside.count);
             });
  return differ;
}

// From totals, those of `first` ... on.
template <typename C, typename Destination>
void CorrelationPlan::Unpack(const Unit& unit, int64_t first,
                             const Worker<C>& worker,
                             Destination* destination) const {
  const int64_t plane = block_slots() * kLanes;
  UnpackTile(set_, worker.totals + first * plane, destination_,
             unit.rows->destination, unit.columns->destination, unit.at,
             unit.planes.first + first, unit.planes.planes - first, plane,
             destination);
}

template <typename C, typename Source, typename Destination>
void CorrelationPlan::RunForward(const Unit& unit, const Source* source,
                                 const Filters<C>& filters,
                                 Destination* destination,
                                 Worker<C> worker) const {
  const Results<C> results = ResultsOf<C>(unit, destination);
  C* const magnitudes = worker.magnitudes;
  Sources<C> sources{};
  for (const Terms& terms : terms_) {
    if (terms.first_row == 0 && terms.first_column == 0) {
      sources = SourcesOf(unit, terms, source, worker);
      const bool differ = SumSlots(unit, terms, sources, worker);
      // After a ReLU, for example, nothing is negative.
      worker.magnitudes = differ ? magnitudes : worker.sums;
    }
    const TapLines& here = LinesAt(unit, terms, worker.known);
    SumSources(unit, here.taps, worker);
    for (const Lines& some : here.lines) {
      SubtractDistances(unit, terms, some, sources, filters, worker, results);
    }
  }
  Unpack(unit, results.planes, worker, destination);
}

template <typename C, typename Source, typename Filter, typename Destination>
void CorrelationPlan::RunInputGradient(const Unit& unit, const Source* source,
                                       const Filters<C>& filters, bool finite,
                                       const Filter* centre,
                                       Destination* destination,
                                       const Worker<C>& worker) const {
  const BlockOrigin& at = unit.at;
  const int64_t plane = block_slots() * kLanes;
  std::memset(worker.totals, 0, plane * unit.planes.planes * sizeof(C));
  PackTile(set_, centre, destination_, unit.rows->destination,
           unit.columns->destination, at, unit.planes.first, unit.planes.planes,
           plane, worker.centre);
  bool careful = !finite;
  const int64_t filled = at.images * block_rows_ * block_columns_;
  for (int64_t p = 0; p < unit.planes.planes && !careful; ++p) {
    careful = !KernelsOf<C>(set_).all_finite(worker.centre + p * plane, filled);
  }
  const std::vector<Lines> lines =
      LinesOf(unit, 0, unit.rows->source.tap_slots.size());
  for (const Terms& terms : terms_) {
    PackSources(unit, terms, source, worker);
    AddInputGradients(unit, terms, lines, careful, filters, worker);
  }
  Unpack(unit, 0, worker, destination);
}

// Kernels write whole planes of pixels whose channels are neighbours, when they
// add the last terms.
template <typename C, typename Destination>
CorrelationPlan::Results<C> CorrelationPlan::ResultsOf(
    const Unit& unit, Destination* destination) const {
  Results<C> results{nullptr, 0};
  if constexpr (std::is_same_v<C, Destination>) {
    const Strides& strides = destination_.strides;
    if (pass_ != Pass::kForward || strides.channel != 1) return results;
    const BlockOrigin& at = unit.at;
    const int64_t channel =
        at.group * destination_.channels + unit.planes.first * kLanes;
    results.first = destination + at.image * strides.batch +
                    at.row * strides.height + at.column * strides.width +
                    channel;
    results.planes = std::min(
        unit.planes.planes, destination_.channels / kLanes - unit.planes.first);
  }
  return results;
}

const CorrelationPlan::TapLines& CorrelationPlan::LinesAt(
    const Unit& unit, const Terms& terms, std::vector<TapLines>* known) const {
  const BlockOrigin& at = unit.at;
  const std::array<int64_t, 9> place = {
      at.row,          at.rows,    at.column,          at.columns,   at.images,
      terms.first_row, terms.rows, terms.first_column, terms.columns};
  const auto found =
      std::find_if(known->begin(), known->end(),
                   [&](const TapLines& one) { return one.place == place; });
  if (found != known->end()) return *found;
  if (known->size() == kKnownPlaces) known->erase(known->begin());
  known->push_back({place,
                    TapsOf(unit, terms, terms.first_row, terms.rows, false),
                    LinesOf(unit, terms.first_row, terms.rows)});
  for (Lines& some : known->back().lines) {
    some.list = TapsOf(unit, terms, some.first_tap, some.taps, in_place_);
  }
  return known->back();
}

// Rows of taps from `first` on, of some terms, column by column. Their sources
// lie in the tensor or in a tile (of one plane).
std::vector<ForwardTap> CorrelationPlan::TapsOf(const Unit& unit,
                                                const Terms& terms,
                                                int64_t first, int64_t rows,
                                                bool in_place) const {
  const AxisPlan& row_plan = unit.rows->source;
  const AxisPlan& column_plan = unit.columns->source;
  std::vector<ForwardTap> taps;
  taps.reserve(terms.columns * rows);
  for (int64_t j = 0; j < terms.columns; ++j) {
    const int64_t column = terms.first_column + j;
    for (int64_t row = first; row < first + rows; ++row) {
      const int64_t in_tile = row_plan.tap_slots[row].slot * column_plan.slots +
                              column_plan.tap_slots[column].slot;
      taps.push_back(
          {in_place ? row_plan.taps[row].shift * source_.strides.height +
                          column_plan.taps[column].shift * source_.strides.width
                    : in_tile * kLanes,
           filters_.TapAt(row_plan.tap_slots[row].tap,
                          column_plan.tap_slots[column].tap)});
    }
  }
  return taps;
}

// Sums up what the taps of each pixel see of the slots' sums, and of their
// magnitudes if these are kept apart.
template <typename C>
void CorrelationPlan::SumSources(const Unit& unit,
                                 const std::vector<ForwardTap>& taps,
                                 const Worker<C>& worker) const {
  const int64_t row_slots = unit.columns->source.slots;
  const auto tap_sums = KernelsOf<C>(set_).tap_sums;
  for (int64_t image = 0; image < unit.at.images; ++image) {
    for (int64_t row = 0; row < unit.at.rows; ++row) {
      const int64_t pixel = (image * block_rows_ + row) * block_columns_;
      const int64_t slot = (image * unit.rows->source.slots + row) * row_slots;
      tap_sums(worker.slot_sums + slot, taps.data(), taps.size(),
               unit.at.columns, worker.sums + pixel);
      if (worker.magnitudes == worker.sums) continue;
      tap_sums(worker.slot_magnitudes + slot, taps.data(), taps.size(),
               unit.at.columns, worker.magnitudes + pixel);
    }
  }
}

// For lines that start and end an image's row, or do not.
template <typename C>
LaneValues<C> ValuesOf(const C* inner, const C* first, const C* last,
                       bool starts, bool ends, bool one_pixel) {
  const C* at_end = ends ? last : inner;
  return {inner, starts ? first : one_pixel ? at_end : inner, at_end};
}

// Of a part of a line that has its first pixel, or its last.
template <typename C>
LaneValues<C> PartOf(const LaneValues<C>& values, bool first, bool last,
                     bool one_pixel) {
  return ValuesOf(values.inner, values.first, values.last, first, last,
                  one_pixel);
}

// Subtracts what some terms contribute from totals or results of some lines.
template <typename C>
void CorrelationPlan::SubtractDistances(const Unit& unit, const Terms& terms,
                                        const Lines& lines,
                                        const Sources<C>& sources,
                                        const Filters<C>& filters,
                                        const Worker<C>& worker,
                                        const Results<C>& results) const {
  const Kernels<C>& kernels = KernelsOf<C>(set_);
  const Outside outside = OutsideOf(terms);
  ForwardBlock<C> block{};
  block.source = sources.first;
  block.source_plane = sources.plane;
  block.source_pixel = sources.pixel;
  block.filter_plane = filters_.source_plane_stride();
  block.next_filters = filters_.destination_plane_stride();
  block.taps = lines.list.data();
  block.leading = lines.starts_row ? outside.first * lines.taps : 0;
  block.trailing = lines.ends_row ? outside.last * lines.taps : 0;
  block.inner = lines.list.size() - block.leading - block.trailing;
  block.channels = filters_.ChannelsOf(terms);
  block.source_sums = worker.sums;
  block.source_magnitudes = worker.magnitudes;
  block.padded = lines.taps < terms.rows;
  block.before_plane = block_slots() * kLanes;
  int64_t planes = 0;
  for (int64_t p = 0; p < unit.planes.planes; p += planes) {
    const bool direct = &terms == &terms_.back() && p < results.planes;
    C* const totals = worker.totals + p * block_slots() * kLanes;
    block.before = &terms == &terms_.front() ? nullptr : totals;
    planes = (direct ? results.planes : unit.planes.planes) - p;
    planes = by_rows_ ? std::min<int64_t>(planes, kMostRowPlanes)
                      : PlanesAtOnce<C>(planes, lines.pixels).planes;
    if (direct) {
      block.output = results.first + p * kLanes;
      block.start = &RunStart::result;
      block.output_pixel = destination_.strides.width;
      block.output_plane = kLanes;
    } else {
      block.output = totals;
      block.start = &RunStart::total;
      block.output_pixel = kLanes;
      block.output_plane = block_slots() * kLanes;
    }
    const int64_t filter_unit =
        unit.at.group * Planes(destination_.channels) + unit.planes.first + p;
    block.filters = filters.packed +
                    filter_unit * filters_.destination_plane_stride() +
                    terms.first_plane * filters_.source_plane_stride();
    const int64_t sums = FilterSumsOffset(filter_unit) +
                         term_rows_[&terms - terms_.data()] * kLanes;
    const int64_t skipped = lines.first_tap - terms.first_row;
    FilterParts<C> parts;
    kernels.filter_parts(filters.sums.From(sums), planes, FilterSumsOffset(1),
                         skipped, skipped + lines.taps, terms.rows, &parts);
    const auto values = [&](const C* inner, const C* first, const C* last) {
      return ValuesOf(inner, first, last, lines.starts_row, lines.ends_row,
                      lines.pixels == 1);
    };
    block.filter_magnitudes = parts.magnitudes;
    block.filter_sums = values(parts.sums, parts.first_sums, parts.last_sums);
    block.padding =
        values(parts.padding, parts.first_padding, parts.last_padding);
    RunBlocks(lines, block, planes);
  }
}

// Where rows of taps make up for fewer planes: two at most have little else to
// share, and more gain nothing where no more sums stay in registers. All lanes
// are summed up in the same order, so how threads share planes must not matter.
template <typename C>
bool CorrelationPlan::SuitsRows() const {
  const int64_t most = KernelsOf<C>(set_).forward_rows[1].most_pixels;
  if (most == 0 || width_.kernel != 3 || width_.stride != 1 ||
      width_.dilation != 1 || outside_.first > 1 || outside_.last > 1) {
    return false;
  }
  const int64_t planes = Planes(destination_.channels);
  const int64_t pixels = destination_.width;
  return planes <= kMostRowPlanes ||
         PlanesAtOnce<C>(planes, pixels).sums <=
             kMostRowPlanes * (pixels / CeilDiv(pixels, most));
}

// Runs blocks of some planes of destinations over all of some lines. Short ones
// go two at a time.
template <typename C>
void CorrelationPlan::RunBlocks(const Lines& lines,
                                const ForwardBlock<C>& block,
                                int64_t planes) const {
  const Kernels<C>& kernels = KernelsOf<C>(set_);
  const int64_t count = lines.starts.size();
  if (by_rows_) {
    return RunKernel(kernels.forward_rows[planes - 1], lines, 0, count, block);
  }
  const ForwardKernel<C>& once = kernels.forward[planes - 1];
  const ForwardKernel<C>& twice = kernels.forward_twice[planes - 1];
  const int64_t paired = lines.pixels <= twice.most_pixels ? count / 2 * 2 : 0;
  if (paired > 0) RunKernel(twice, lines, 0, paired, block);
  if (paired < count) RunKernel(once, lines, paired, count, block);
}

// Over lines begin ... end - 1, cut into runs that a kernel takes at once; all
// those that are alike by one call.
template <typename C>
void CorrelationPlan::RunKernel(const ForwardKernel<C>& kernel,
                                const Lines& lines, int64_t begin, int64_t end,
                                const ForwardBlock<C>& block) const {
  const int64_t runs = CeilDiv(lines.pixels, kernel.most_pixels);
  const int64_t longer = lines.pixels % runs;  // so many, by one pixel
  int64_t alike;
  int64_t first = 0;
  for (int64_t i = 0; i < runs; i += alike) {
    const bool starts = i == 0 && lines.starts_row;
    const bool ends = i + 1 == runs && lines.ends_row;
    const int64_t pixels = lines.pixels / runs + (i < longer ? 1 : 0);
    alike = (i < longer ? longer : runs - (lines.ends_row ? 1 : 0)) - i;
    if (starts || ends) alike = 1;
    ForwardBlock<C> here = block;
    here.source += first * block.source_pixel;
    here.source_sums += first;
    here.source_magnitudes += first;
    here.output += first * block.output_pixel;
    if (block.before != nullptr) here.before += first * kLanes;
    here.leading = starts ? block.leading : 0;
    here.trailing = ends ? block.trailing : 0;
    here.inner += block.leading - here.leading;
    here.inner += block.trailing - here.trailing;
    here.filter_sums = PartOf(block.filter_sums, starts, ends, pixels == 1);
    here.padding = PartOf(block.padding, starts, ends, pixels == 1);
    kernel.run(here, lines.starts.data() + begin, end - begin, alike,
               static_cast<int>(pixels));
    first += alike * pixels;
  }
}

// As many planes as fill the registers: blocks of few sums wait for each other,
// and spend more of their time on beginning and ending. Of several ways to do
// so, the most planes, which read sources least often; one plane only if there
// is no other way, since it has nothing to share broadcasts with.
template <typename C>
CorrelationPlan::AtOnce CorrelationPlan::PlanesAtOnce(int64_t planes,
                                                      int64_t pixels) const {
  const Kernels<C>& kernels = KernelsOf<C>(set_);
  AtOnce best{1, 0};
  for (int64_t most = kMostPlanes; most > 0; --most) {
    // Dealt out evenly: five are three and two.
    const int64_t at_once = CeilDiv(planes, CeilDiv(planes, most));
    const int64_t in_run = kernels.forward[at_once - 1].most_pixels;
    if (in_run == 0 || (at_once == 1 && best.sums > 0)) continue;
    const bool twice = pixels <= kernels.forward_twice[at_once - 1].most_pixels;
    const int64_t runs = twice ? 1 : CeilDiv(pixels, in_run);
    const int64_t blocks = runs * CeilDiv(planes, at_once);
    const int64_t sums =
        std::min((twice ? 2 : 1) * pixels * planes / blocks, kManySums);
    if (sums > best.sums) best = {at_once, sums};
  }
  return best;
}

// Adds what some terms contribute to all of a unit's totals. Carefully where an
// input gradient may meet NaNs.
template <typename C>
void CorrelationPlan::AddInputGradients(const Unit& unit, const Terms& terms,
                                        const std::vector<Lines>& lines,
                                        bool careful, const Filters<C>& filters,
                                        const Worker<C>& worker) const {
  const AxisPlan& columns = unit.columns->source;
  InputGradientBlock<C> block{};
  block.source = worker.source;
  block.source_plane = SourcePlane(unit, block_images_);
  block.source_row = columns.slots * kLanes;
  block.filter_plane = filters_.source_plane_stride();
  block.filter_row = filters_.TapAt(1, 0);
  block.filter_column = filters_.TapAt(0, 1);
  block.column_taps = columns.tap_slots.data();
  block.column_tap_count = columns.tap_slots.size();
  block.channels = filters_.ChannelsOf(terms);
  for (int64_t p = 0; p < unit.planes.planes; ++p) {
    const int64_t filter_unit =
        unit.at.group * Planes(destination_.channels) + unit.planes.first + p;
    block.filters = filters.packed +
                    filter_unit * filters_.destination_plane_stride() +
                    terms.first_plane * block.filter_plane;
    block.total = worker.totals + p * block_slots() * kLanes;
    block.centre = worker.centre + p * block_slots() * kLanes;
    if (careful) {
      AddGradientsInside(unit, block);
      continue;
    }
    for (const Lines& some : lines) AddGradientsOf(unit, some, block);
  }
}

template <typename C>
void CorrelationPlan::AddGradientsOf(const Unit& unit, const Lines& lines,
                                     const InputGradientBlock<C>& block) const {
  if (lines.taps == 0) return;
  const Kernels<C>& kernels = KernelsOf<C>(set_);
  InputGradientBlock<C> here = block;
  here.row_taps = unit.rows->source.tap_slots.data() + lines.first_tap;
  here.row_tap_count = lines.taps;
  const int64_t runs = CeilDiv(lines.pixels, kernels.max_input_gradient);
  for (int64_t i = 0; i < runs; ++i) {
    const int64_t first = lines.pixels * i / runs;
    const int64_t end = lines.pixels * (i + 1) / runs;
    for (const RunStart& start : lines.starts) {
      const int64_t at = start.total + first * kLanes;
      here.source = block.source + start.source + first * kLanes;
      here.total = block.total + at;
      here.centre = block.centre + at;
      kernels.input_gradient(here, static_cast<int>(end - first));
    }
  }
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

// The same, slowly, for an input gradient that may meet NaNs: pixel by pixel,
// with only those taps whose output exists. The others add
// 0 * HT(filter - centre), which is nothing unless it is NaN.
template <typename C>
void CorrelationPlan::AddGradientsInside(
    const Unit& unit, const InputGradientBlock<C>& block) const {
  const auto inside = [](const AxisPlan& plan, int64_t at, int64_t size) {
    std::vector<TapSlot> taps;
    for (size_t i = 0; i < plan.taps.size(); ++i) {
      const int64_t source = at + plan.taps[i].shift;
      if (source >= 0 && source < size) taps.push_back(plan.tap_slots[i]);
    }
    return taps;
  };
  const AxisPlan& row_plan = unit.rows->source;
  const AxisPlan& column_plan = unit.columns->source;
  InputGradientBlock<C> here = block;
  for (int64_t row = 0; row < unit.at.rows; ++row) {
    const auto row_taps = inside(row_plan, unit.at.row + row, source_.height);
    here.row_taps = row_taps.data();
    here.row_tap_count = row_taps.size();
    for (int64_t column = 0; column < unit.at.columns; ++column) {
      const auto column_taps =
          inside(column_plan, unit.at.column + column, source_.width);
      if (column_taps.empty()) continue;
      here.column_taps = column_taps.data();
      here.column_tap_count = column_taps.size();
      for (int64_t image = 0; image < unit.at.images; ++image) {
        const int64_t pixel =
            (image * block_rows_ + row) * block_columns_ + column;
        here.source =
            block.source +
            ((image * row_plan.slots + row) * column_plan.slots + column) *
                kLanes;
        here.total = block.total + pixel * kLanes;
        here.centre = block.centre + pixel * kLanes;
        KernelsOf<C>(set_).input_gradient(here, 1);
      }
    }
  }
}

}  // namespace internal

template <typename T, typename O>
AdderForward<T, O>::AdderForward(const Geometry& geometry,
                                 const KernelSet& kernels, int threads)
    : plan_(new internal::CorrelationPlan(
          ForOutputs(geometry), internal::Pass::kForward, kernels,
          sizeof(typename ComputeType<T>::type),
          !std::is_same_v<T, typename ComputeType<T>::type>, threads)) {}

template <typename T, typename O>
AdderForward<T, O>::~AdderForward() = default;

template <typename T, typename O>
int64_t AdderForward<T, O>::workspace_bytes() const {
  return plan_->workspace_bytes();
}

template <typename T, typename O>
void AdderForward<T, O>::Run(ThreadPool& pool, const T* input, const T* filters,
                             O* output, void* workspace) const {
  plan_->Run<T, T, O>(pool, input, filters, nullptr, output, workspace);
}

template <typename T, typename O>
AdderInputGradient<T, O>::AdderInputGradient(const Geometry& geometry,
                                             const KernelSet& kernels,
                                             int threads)
    : plan_(new internal::CorrelationPlan(
          geometry, internal::Pass::kInputGradient, kernels,
          sizeof(typename ComputeType<T>::type), false, threads)) {}

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

#define INSTANTIATE(T, O)            \
  template class AdderForward<T, O>; \
  template class AdderInputGradient<T, O>
INSTANTIATE(Half, Half);
INSTANTIATE(Half, float);
INSTANTIATE(BFloat16, BFloat16);
INSTANTIATE(BFloat16, float);
INSTANTIATE(float, float);
INSTANTIATE(double, double);
#undef INSTANTIATE

}  // namespace keras_adder
