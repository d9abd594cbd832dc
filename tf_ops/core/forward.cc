// The forward pass of correlation.h.

#include <algorithm>
#include <type_traits>

#include "core/correlation.h"
#include "core/passes.h"
#include "core/patches.h"

namespace keras_adder {
namespace internal {
namespace {

// Sums of a forward block that keep the arithmetic units busy.
constexpr int64_t kManySums = 20;

// Places of units in their images whose lines a worker remembers.
constexpr size_t kKnownPlaces = 8;

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

}  // namespace

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

// Kernels write whole planes of pixels whose channels are neighbours, when they
// add the last terms.
template <typename C, typename Destination>
CorrelationPlan::Results<C> CorrelationPlan::ResultsOf(
    const Unit& unit, Destination* destination) const {
  Results<C> results{nullptr, 0};
  if constexpr (std::is_same_v<C, Destination>) {
    const Strides& strides = destination_.strides;
    if (strides.channel != 1) return results;
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

template void CorrelationPlan::SumPackedFilters(const PlaneRange&, const Terms&,
                                                const Filters<float>&) const;
template void CorrelationPlan::SumPackedFilters(const PlaneRange&, const Terms&,
                                                const Filters<double>&) const;
template bool CorrelationPlan::SuitsRows<float>() const;
template bool CorrelationPlan::SuitsRows<double>() const;

#define INSTANTIATE(T, O)                                                   \
  template void CorrelationPlan::RunForward(                                \
      const Unit&, const T*, const Filters<typename ComputeType<T>::type>&, \
      O*, Worker<typename ComputeType<T>::type>) const
KERAS_ADDER_FOR_EACH_TYPES(INSTANTIATE);
#undef INSTANTIATE

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
  plan_->Run<internal::Pass::kForward, T, T, O>(pool, input, filters, nullptr,
                                                output, workspace);
}

#define INSTANTIATE(T, O) template class AdderForward<T, O>
KERAS_ADDER_FOR_EACH_TYPES(INSTANTIATE);
#undef INSTANTIATE

}  // namespace keras_adder
