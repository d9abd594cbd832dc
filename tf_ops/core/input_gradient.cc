// The input gradient of correlation.h.

#include <algorithm>
#include <cstring>

#include "core/correlation.h"
#include "core/passes.h"

namespace keras_adder {
namespace internal {

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

#define INSTANTIATE(T, O)                                                   \
  template void CorrelationPlan::RunInputGradient(                          \
      const Unit&, const O*, const Filters<typename ComputeType<T>::type>&, \
      bool, const T*, T*, const Worker<typename ComputeType<T>::type>&) const
KERAS_ADDER_FOR_EACH_TYPES(INSTANTIATE);
#undef INSTANTIATE

}  // namespace internal

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
  plan_->Run<internal::Pass::kInputGradient, O, T, T>(
      pool, gradient, filters, input, input_gradient, workspace);
}

#define INSTANTIATE(T, O) template class AdderInputGradient<T, O>
KERAS_ADDER_FOR_EACH_TYPES(INSTANTIATE);
#undef INSTANTIATE

}  // namespace keras_adder
