// One engine for the two passes that correlate a source image with filters:
//
//   pass             source            destination       inner operation
//   forward          input             output            |F - x|
//   input gradient   output gradient   input gradient    g HT(F - centre)
//
// Work is cut into units: a block of destination pixels of one group and a few
// planes of its channels. A unit reads its sources where they lie or, where it
// cannot or had better not (in_place_), gathers them in a tile (with real zeros
// where the padding is). It sums in a tile of totals and writes that out;
// sums that a kernel completes may go to the tensor at once.
// Rows of taps that lie in the padding are skipped and, in the forward pass and
// for the first and the last pixel of an image's row, so are columns of taps.
// What they contribute there, the filters' magnitudes, is subtracted without
// looking. Nothing else is kept: scratch memory is fixed per thread, whatever
// the batch.
//
// The order in which a destination's terms are summed depends on the geometry
// of images, filters and channels alone, not on blocks, batch or threads.
//
// Plans take less memory than the filters, so that a small malicious model
// cannot ask for much.

#ifndef KERAS_ADDER_CORE_CORRELATION_H_
#define KERAS_ADDER_CORE_CORRELATION_H_

#include <array>
#include <cstdint>
#include <vector>

#include "core/axis_plan.h"
#include "core/geometry.h"
#include "core/kernels/kernels.h"
#include "core/packed_filters.h"
#include "core/parallel.h"
#include "core/tile.h"

namespace keras_adder {
namespace internal {

enum class Pass { kForward, kInputGradient };

class CorrelationPlan {
 public:
  // `element` is the size in bytes of the type that is computed in; `converts`
  // says that tensors are of another type.
  CorrelationPlan(const Geometry& geometry, Pass pass, const KernelSet& set,
                  int64_t element, bool converts, int threads);

  int64_t workspace_bytes() const;

  // `centre` is the tensor whose pixels the filters are compared with in the
  // input gradient, laid out as the destination; null in the forward pass.
  template <Pass kPass, typename Source, typename Filter, typename Destination>
  void Run(ThreadPool& pool, const Source* source, const Filter* filters,
           const Filter* centre, Destination* destination,
           void* workspace) const;

 private:
  int64_t filters_elements() const;

  // Destinations along one axis that meet the same taps; the forward pass has
  // one phase, the input gradient one for each residue modulo the stride.
  struct AxisPhase {
    AxisPlan source;
    AxisPlan destination;
    int64_t count;
  };

  // Where a unit works.
  struct Unit {
    const AxisPhase* rows;
    const AxisPhase* columns;
    BlockOrigin at;
    PlaneRange planes;  // of destinations
  };

  // Runs of a unit's pixels that meet the same rows of taps (of some terms)
  // inside the image: a unit's rows or, where nothing overlaps, whole images.
  struct Lines {
    int64_t first_tap, taps;
    int64_t pixels;             // of each
    bool starts_row, ends_row;  // of the image: columns of taps may be outside
    std::vector<RunStart> starts;
    std::vector<ForwardTap> list;  // the taps, in the forward pass
  };

  // What kernels of the forward pass run over for some rows and columns of
  // taps, which `taps` lists. The same for all units at one place in their
  // images; to list it takes as long as packing, so a worker remembers some.
  struct TapLines {
    std::array<int64_t, 9> place;
    std::vector<ForwardTap> taps;
    std::vector<Lines> lines;
  };

  // How many elements of a worker's scratch each part takes.
  struct Scratch {
    int64_t source, totals, centre;
    int64_t slots, pixels;  // sums of the forward pass
    int64_t total() const {
      return source + totals + centre + 2 * (slots + pixels);
    }
  };

  // `slot_sums` and the rest are sums over some terms: of slots, and of what
  // the taps of a pixel see.
  template <typename C>
  struct Worker {
    C* source;
    C* totals;
    C* centre;
    C* slot_sums;
    C* slot_magnitudes;
    C* sums;
    C* magnitudes;
    std::vector<TapLines>* known;
  };

  // All filters as the kernels read them and, for each of terms_, each row of
  // taps in it and each destination lane, their sums.
  template <typename C>
  struct Filters {
    C* packed;
    FilterSums<C> sums;
  };

  // Where kernels of the forward pass find a unit's sources, seen from its
  // first pixel: in a tile, or in the tensor.
  template <typename C>
  struct Sources {
    const C* first;
    ptrdiff_t plane, pixel;
  };

  // A unit's first `planes` planes go straight to the tensor, from `first` on.
  template <typename C>
  struct Results {
    C* first;
    int64_t planes;
  };

  // Of the columns of taps of `terms`, how many lie in the padding for the
  // first and for the last pixel of an image's row.
  struct Outside {
    int64_t first, last;
  };
  void FindOutsideColumns();
  bool SkipsAllColumnsOutside() const;
  Outside OutsideOf(const Terms& terms) const;
  void ChooseTerms(int64_t phases);
  void ChooseBlocks(const std::vector<Phase>& rows,
                    const std::vector<Phase>& columns);
  AxisPhase PlanPhase(const Phase& phase, const Axis& axis,
                      int64_t length) const;
  void SizeScratch();
  bool MeetsPadding(const AxisPhase& rows) const;
  std::vector<Lines> LinesOf(const Unit& unit, int64_t first_tap,
                             int64_t taps) const;
  int64_t UnitsOfPhase(int64_t rows, int64_t columns) const;
  int64_t SourceSlots(const Phase& rows, const Phase& columns) const;
  Unit UnitAt(int64_t index) const;
  int64_t block_slots() const {
    return block_images_ * block_rows_ * block_columns_;
  }
  static int64_t SourcePlane(const Unit& unit, int64_t images) {
    return images * unit.rows->source.slots * unit.columns->source.slots *
           kLanes;
  }

  template <typename C>
  void SumPackedFilters(const PlaneRange& units, const Terms& terms,
                        const Filters<C>& filters) const;
  int64_t FilterSumsOffset(int64_t filter_unit) const;
  template <typename C, typename Source, typename Destination>
  void RunForward(const Unit& unit, const Source* source,
                  const Filters<C>& filters, Destination* destination,
                  Worker<C> worker) const;
  template <typename C, typename Source, typename Filter, typename Destination>
  void RunInputGradient(const Unit& unit, const Source* source,
                        const Filters<C>& filters, bool finite,
                        const Filter* centre, Destination* destination,
                        const Worker<C>& worker) const;
  template <typename C, typename Source>
  void PackSources(const Unit& unit, const Terms& terms, const Source* source,
                   const Worker<C>& worker) const;
  template <typename C, typename Source>
  Sources<C> SourcesOf(const Unit& unit, const Terms& terms,
                       const Source* source, const Worker<C>& worker) const;
  template <typename C>
  bool SumSlots(const Unit& unit, const Terms& terms, const Sources<C>& sources,
                const Worker<C>& worker) const;
  template <typename C, typename Destination>
  void Unpack(const Unit& unit, int64_t first, const Worker<C>& worker,
              Destination* destination) const;
  const TapLines& LinesAt(const Unit& unit, const Terms& terms,
                          std::vector<TapLines>* known) const;
  std::vector<ForwardTap> TapsOf(const Unit& unit, const Terms& terms,
                                 int64_t first, int64_t rows,
                                 bool in_place) const;
  template <typename C>
  void SumSources(const Unit& unit, const std::vector<ForwardTap>& taps,
                  const Worker<C>& worker) const;
  template <typename C, typename Destination>
  Results<C> ResultsOf(const Unit& unit, Destination* destination) const;
  template <typename C>
  void SubtractDistances(const Unit& unit, const Terms& terms,
                         const Lines& lines, const Sources<C>& sources,
                         const Filters<C>& filters, const Worker<C>& worker,
                         const Results<C>& results) const;
  template <typename C>
  bool SuitsRows() const;
  // How many planes of destinations a kernel takes at once, and how many
  // vectors of sums it has then.
  struct AtOnce {
    int64_t planes, sums;
  };
  template <typename C>
  AtOnce PlanesAtOnce(int64_t planes, int64_t pixels) const;
  template <typename C>
  void RunBlocks(const Lines& lines, const ForwardBlock<C>& block,
                 int64_t planes) const;
  template <typename C>
  void RunKernel(const ForwardKernel<C>& kernel, const Lines& lines,
                 int64_t begin, int64_t end,
                 const ForwardBlock<C>& block) const;
  template <typename C>
  void AddInputGradients(const Unit& unit, const Terms& terms,
                         const std::vector<Lines>& lines, bool careful,
                         const Filters<C>& filters,
                         const Worker<C>& worker) const;
  template <typename C>
  void AddGradientsOf(const Unit& unit, const Lines& lines,
                      const InputGradientBlock<C>& block) const;
  template <typename C>
  void AddGradientsInside(const Unit& unit,
                          const InputGradientBlock<C>& block) const;

  const KernelSet& set_;
  Pass pass_;
  int64_t element_;
  int threads_;
  int64_t groups_;
  bool partial_ = false;  // some destinations meet no tap and stay zero
  int64_t destination_size_;
  Image source_, destination_;
  Axis height_, width_;
  PackedFilters filters_;
  // A sum is made up of sums over these, in this order: a matter of accuracy,
  // so of the filters' geometry alone.
  std::vector<Terms> terms_;
  std::vector<int64_t> term_rows_;  // rows of taps in all terms before
  Outside outside_{0, 0};           // of all columns of taps
  bool by_rows_ = false;            // see Kernels::forward_rows
  // Kernels read sources where they are: pixels of the type that is computed
  // in, whose channels are neighbours, of which none is read that lies in the
  // padding, and not too far apart for several taps.
  bool in_place_ = false;
  std::vector<PlaneRange> parts_;  // destination planes that a unit handles
  int64_t block_images_, block_rows_, block_columns_;
  std::vector<AxisPhase> row_phases_, column_phases_;
  int64_t units_ = 0;
  bool by_parts_ = false;  // see PackedFilters::Outweigh
  Scratch scratch_{};
};

template <typename C, typename Source>
void CorrelationPlan::PackSources(const Unit& unit, const Terms& terms,
                                  const Source* source,
                                  const Worker<C>& worker) const {
  PackTile(set_, source, source_, unit.rows->source, unit.columns->source,
           unit.at, terms.first_plane, terms.planes,
           SourcePlane(unit, block_images_), worker.source);
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

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_CORRELATION_H_
