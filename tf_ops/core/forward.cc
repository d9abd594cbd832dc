#include "core/forward.h"

#include <algorithm>
#include <type_traits>

#include "core/engines.h"
#include "core/im2row.h"
#include "core/workspace.h"

namespace keras_adder {
namespace internal {
namespace {

// Sums of a register tile that keep the arithmetic units busy. This and
// kScatteredBytes were found with `benchmarks/conv2d.py --terms main
// configurations` on Zen 5.
constexpr int64_t kManySums = 20;

// The most indirection buffers that a worker keeps: items lie in few ways in
// their images (first, middle and last rows and columns).
constexpr size_t kCacheSize = 12;

// Pixels that lie farther apart than this many bytes, and are met by several
// taps, are better packed: few of them would share a page or the first-level
// cache.
constexpr int64_t kScatteredBytes = 512;

// Picks the values of a run: `first` and `last` are meant only if it starts or
// ends an image's row.
template <typename C>
LaneValues<C> ValuesOf(const C* inner, const C* first, const C* last,
                       bool starts, bool ends, bool one_pixel) {
  const C* at_end = ends ? last : inner;
  return {inner, starts ? first : one_pixel ? at_end : inner, at_end};
}

// The same for a part of a segment, which may hold its first or its last pixel.
template <typename C>
LaneValues<C> ValuesOfPart(const LaneValues<C>& values, bool first, bool last,
                           bool one_pixel) {
  return ValuesOf(values.inner, values.first, values.last, first, last,
                  one_pixel);
}

AxisPhases OnePhase(const Axis& axis) {
  return {{{0, axis.output, ForwardTaps(axis)}}, axis.stride, 1};
}

}  // namespace

ForwardPlan::ForwardPlan(const Problem& problem, const Geometry& geometry)
    : set_(*problem.kernels),
      height_(geometry.height),
      width_(geometry.width),
      filters_(geometry, FilterOrder::kInputsToOutputs),
      blocking_(InputImage(geometry), OutputImage(geometry), geometry.groups,
                filters_, OnePhase(height_), OnePhase(width_),
                SplitReduction(ChannelBlocks(geometry.group_in()), height_,
                               width_, 1, true),
                ComputeBytes(problem.type), problem.threads),
      access_{false, FindOutsideColumns()} {
  access_.in_place = CanReadInPlace(problem.type);
  by_rows_ = blocking_.compute_bytes == sizeof(float) ? SuitsRows<float>()
                                                      : SuitsRows<double>();
  const ReductionBlock& last = blocking_.reduction_blocks.back();
  all_tap_rows_ = last.rows_before + last.rows;
  const int64_t slots = blocking_.most_source_slots();
  const int64_t pixels = blocking_.tile_pixels();
  if (!access_.in_place) {
    scratch_.source = slots * blocking_.reduction_blocks[0].blocks * kLanes;
  }
  scratch_.totals = pixels * MostBlocks(blocking_.destination_ranges) * kLanes;
  // Kernels that sum up slots may touch up to kLanes more.
  scratch_.slots = slots + kLanes;
  scratch_.pixels = pixels + kLanes;
}

// Outside columns are the same for every tile of an image, since results must
// not depend on tiles: only an image's very first and last column leave out
// taps, and no tap is left out by both.
OutsideColumns ForwardPlan::FindOutsideColumns() const {
  OutsideColumns found;
  if (width_.kernel == 1) return found;
  const auto outside = [&](int64_t tap, int64_t pixel) {
    const int64_t position = width_.Position(pixel, tap);
    return position < 0 || position >= input_image().width;
  };
  while (found.leading < width_.kernel && outside(found.leading, 0))
    ++found.leading;
  if (width_.output == 1) return found;
  while (found.leading + found.trailing < width_.kernel &&
         outside(width_.kernel - 1 - found.trailing, width_.output - 1)) {
    ++found.trailing;
  }
  return found;
}

// Whether no pixel meets a column of taps in the padding but those that are
// left out.
bool ForwardPlan::SkipsAllColumnsOutside() const {
  const OutsideColumns& outside = access_.outside;
  const auto inside = [&](int64_t first, int64_t end, int64_t pixel) {
    if (first >= end) return true;
    return width_.Position(pixel, first) >= 0 &&
           width_.Position(pixel, end - 1) < input_image().width;
  };
  const int64_t last = width_.output - 1;
  const int64_t end = width_.kernel - outside.trailing;
  if (last == 0) return inside(outside.leading, width_.kernel, 0);
  if (last > 1 &&
      !(inside(0, width_.kernel, 1) && inside(0, width_.kernel, last - 1))) {
    return false;
  }
  return inside(outside.leading, width_.kernel, 0) && inside(0, end, last);
}

// Kernels can read pixels of the type that is computed in, whose channels are
// neighbours, of which none is read that lies in the padding, and which do not
// lie too far apart for several taps.
bool ForwardPlan::CanReadInPlace(DataType type) const {
  return IsComputedAsIs(type) && input_image().height > 0 &&
         input_image().width > 0 && input_image().strides.channel == 1 &&
         !input_image().im2row.used() && SkipsAllColumnsOutside() &&
         (height_.kernel * width_.kernel == 1 ||
          input_image().strides.width * blocking_.compute_bytes <=
              kScatteredBytes);
}

OutsideColumns ForwardPlan::OutsideOf(const ReductionBlock& reduction) const {
  const OutsideColumns& all = access_.outside;
  const int64_t after =
      width_.kernel - reduction.first_column - reduction.columns;
  return {std::clamp<int64_t>(all.leading - reduction.first_column, 0,
                              reduction.columns),
          std::clamp<int64_t>(all.trailing - after, 0, reduction.columns)};
}

// Whether kernels run by rows of taps: where two channel blocks at most share a
// broadcast, or more of them would not keep more sums in registers. Sums then
// come in another order, so this must not depend on how threads share blocks.
template <typename C>
bool ForwardPlan::SuitsRows() const {
  const int64_t most = KernelsOf<C>(set_).forward_rows[1].most_pixels;
  if (most == 0 || width_.kernel != 3 || width_.stride != 1 ||
      width_.dilation != 1 || access_.outside.leading > 1 ||
      access_.outside.trailing > 1) {
    return false;
  }
  const int64_t blocks = ChannelBlocks(output_image().channels);
  const int64_t pixels = output_image().width;
  return blocks <= kMaxRowBlocks ||
         BlocksAtOnce<C>(blocks, pixels).sums <=
             kMaxRowBlocks * (pixels / CeilDiv(pixels, most));
}

// Takes as many channel blocks as fill the registers: kernels of few sums wait
// for each other, and spend more of their time on beginning and ending. Of
// several ways to do so, the most blocks, which read sources least often; one
// alone only if there is no other way, since it has nothing to share broadcasts
// with.
template <typename C>
ForwardPlan::AtOnce ForwardPlan::BlocksAtOnce(int64_t blocks,
                                              int64_t pixels) const {
  const Kernels<C>& kernels = KernelsOf<C>(set_);
  AtOnce best{1, 0};
  for (int64_t most = kMaxBlocks; most > 0; --most) {
    // Dealt out evenly: five are three and two.
    const int64_t at_once = CeilDiv(blocks, CeilDiv(blocks, most));
    const int64_t in_run = kernels.forward[at_once - 1].most_pixels;
    if (in_run == 0 || (at_once == 1 && best.sums > 0)) continue;
    const bool twice = pixels <= kernels.forward_twice[at_once - 1].most_pixels;
    const int64_t runs = twice ? 1 : CeilDiv(pixels, in_run);
    const int64_t calls = runs * CeilDiv(blocks, at_once);
    const int64_t sums =
        std::min((twice ? 2 : 1) * pixels * blocks / calls, kManySums);
    if (sums > best.sums) best = {at_once, sums};
  }
  return best;
}

// Packed filters, and some sums for each row of taps of each reduction block
// and each lane of destinations.
int64_t ForwardPlan::filters_elements() const {
  return filters_.size() +
         FilterSums<float>::kArrays * FilterSumsOffset(filters_.panels());
}

int64_t ForwardPlan::workspace_bytes(bool filters_are_packed) const {
  const int threads = blocking_.threads;
  const int64_t filters = filters_are_packed ? 0 : filters_elements();
  return (PaddedSize(filters + 2 * epilogue_elements(), blocking_.compute_bytes,
                     threads) +
          threads *
              PaddedSize(scratch_.total(), blocking_.compute_bytes, threads)) *
             blocking_.compute_bytes -
         GapBytes(threads);
}

template <typename C>
ForwardPlan::Filters<C> ForwardPlan::FiltersAt(C* memory) const {
  return {memory, FilterSums<C>::At(memory + filters_.size(),
                                    FilterSumsOffset(filters_.panels()))};
}

// Packs some panels of filters, and sums them up.
template <typename T, typename C>
void ForwardPlan::PackShare(const T* filters, const BlockRange& panels,
                            C* memory) const {
  const Filters<C> packed = FiltersAt(memory);
  for (const ReductionBlock& reduction : blocking_.reduction_blocks) {
    if (reduction.starts_channels()) {
      filters_.Pack(set_, filters, panels,
                    {reduction.first_block, reduction.blocks}, memory, nullptr);
    }
    SumPackedFilters(panels, reduction, packed);
  }
}

// Sums up filters of a reduction block, which have just been packed.
template <typename C>
void ForwardPlan::SumPackedFilters(const BlockRange& panels,
                                   const ReductionBlock& reduction,
                                   const Filters<C>& filters) const {
  const OutsideColumns outside = OutsideOf(reduction);
  FilterWindow window = filters_.Window(reduction);
  window.leading = outside.leading;
  window.trailing = outside.trailing;
  for (int64_t i = 0; i < panels.count; ++i) {
    const int64_t panel = panels.first + i;
    KernelsOf<C>(set_).filter_sums(
        filters.packed + panel * filters_.panel_stride() +
            filters_.WindowAt(reduction),
        window,
        filters.sums.From(FilterSumsOffset(panel) +
                          reduction.rows_before * kLanes));
  }
}

// Brings an epilogue into the order of the panels' lanes; those without a
// filter do not matter.
template <typename C>
ForwardPlan::PackedEpilogue<C> ForwardPlan::PackEpilogue(
    const Epilogue* epilogue, C* memory) const {
  if (epilogue == nullptr) return {nullptr, nullptr, 0, 0};
  C* const multiplier = memory;
  C* const offset = memory + epilogue_elements();
  const int64_t channels = output_image().channels;
  for (int64_t panel = 0; panel < filters_.panels(); ++panel) {
    const int64_t group = panel / ChannelBlocks(channels);
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const int64_t in_group = panel % ChannelBlocks(channels) * kLanes + lane;
      const bool exists = in_group < channels;
      const int64_t from = group * channels + in_group;
      const int64_t to = panel * kLanes + lane;
      multiplier[to] =
          exists && epilogue->multiplier ? epilogue->multiplier[from] : 1;
      offset[to] = exists && epilogue->offset ? epilogue->offset[from] : 0;
    }
  }
  return {multiplier, offset, epilogue->lower, epilogue->upper};
}

template <typename C>
ForwardPlan::Worker<C> ForwardPlan::WorkerAt(
    C* scratch, std::vector<Indirection>* cache) const {
  Worker<C> worker;
  worker.source = scratch;
  worker.totals = worker.source + scratch_.source;
  worker.slot_sums = worker.totals + scratch_.totals;
  worker.slot_magnitudes = worker.slot_sums + scratch_.slots;
  worker.pixel_sums = worker.slot_magnitudes + scratch_.slots;
  worker.pixel_magnitudes = worker.pixel_sums + scratch_.pixels;
  worker.cache = cache;
  return worker;
}

template <typename T>
void ForwardPlan::PackFilters(ThreadPool& pool, const T* filters,
                              void* packed) const {
  using C = typename ComputeType<T>::type;
  const std::vector<BlockRange> shares =
      filters_.SplitForThreads(blocking_.threads);
  const auto pack = [&](int64_t share, int) {
    PackShare(filters, shares[share], static_cast<C*>(packed));
  };
  RunTasks(pool, blocking_.threads,
           Task{static_cast<int64_t>(shares.size()), pack});
}

template <typename T, typename O>
void ForwardPlan::Run(ThreadPool& pool, const TypedTensors<T, O>& tensors,
                      void* workspace) const {
  using C = typename ComputeType<T>::type;
  const int threads = blocking_.threads;
  const bool are_packed = tensors.packed_filters != nullptr;
  // Nobody writes to filters that are packed already.
  C* const own = static_cast<C*>(workspace);
  C* const packed =
      are_packed ? static_cast<C*>(const_cast<void*>(tensors.packed_filters))
                 : own;
  C* const epilogue_memory = own + (are_packed ? 0 : filters_elements());
  C* const scratch =
      own + PaddedSize(epilogue_memory - own + 2 * epilogue_elements(),
                       blocking_.compute_bytes, threads);
  const int64_t scratch_stride =
      PaddedSize(scratch_.total(), blocking_.compute_bytes, threads);
  const Filters<C> filters = FiltersAt(packed);
  const PackedEpilogue<C> epilogue =
      PackEpilogue(tensors.epilogue, epilogue_memory);
  const std::vector<BlockRange> shares = filters_.SplitForThreads(threads);
  const auto pack = [&](int64_t share, int) {
    PackShare(tensors.filters, shares[share], packed);
  };
  std::vector<std::vector<Indirection>> caches(threads);
  const auto run = [&](int64_t index, int number) {
    const WorkItem item = blocking_.WorkItemAt(index);
    if (item.empty()) return;
    RunItem<C>(item, tensors.input, filters, epilogue, tensors.output,
               WorkerAt(scratch + number * scratch_stride, &caches[number]));
    if (tensors.epilogue != nullptr && tensors.epilogue->after != nullptr) {
      ForEachRun(item, *tensors.epilogue->after);
    }
  };
  const int64_t pack_items = are_packed ? 0 : shares.size();
  RunTasks(pool, threads, Task{pack_items, pack},
           Task{blocking_.work_items, run});
}

template <typename C, typename T, typename O>
void ForwardPlan::RunItem(const WorkItem& item, const T* input,
                          const Filters<C>& filters,
                          const PackedEpilogue<C>& epilogue, O* output,
                          Worker<C> worker) const {
  const Results<C> results = ResultsOf<C>(item, output);
  C* const magnitudes = worker.pixel_magnitudes;
  SourceView<C> sources{};
  for (const ReductionBlock& reduction : blocking_.reduction_blocks) {
    if (reduction.starts_channels()) {
      sources = SourcesOf(item, reduction, input, worker);
      const bool differ = SumSlots(item, reduction, sources, worker);
      // After a ReLU, for example, nothing is negative.
      worker.pixel_magnitudes = differ ? magnitudes : worker.pixel_sums;
    }
    const Indirection& here = IndirectionOf(item, reduction, worker.cache);
    SumSources(item, here.taps, worker);
    for (size_t i = 0; i < here.segments.size(); ++i) {
      SubtractDistances(item, reduction, here.segments[i], here.lists[i],
                        sources, filters, epilogue, worker, results);
    }
  }
  // What kernels have not written to the tensor.
  const int64_t block_stride = blocking_.tile_pixels() * kLanes;
  UnpackTile(set_, worker.totals + results.blocks * block_stride,
             output_image(), item.rows->destination, item.columns->destination,
             item.at, item.blocks.first + results.blocks,
             item.blocks.count - results.blocks, block_stride, output);
}

// Calls visit(first, count) for runs of neighbouring elements that make up an
// item's outputs.
void ForwardPlan::ForEachRun(
    const WorkItem& item,
    const std::function<void(int64_t, int64_t)>& visit) const {
  const Image& image = output_image();
  const TileBounds& at = item.at;
  const int64_t first_channel = item.blocks.first * kLanes;
  const int64_t channels =
      std::min(item.blocks.count * kLanes, image.channels - first_channel);
  const bool channels_last = image.strides.channel == 1;
  const bool whole = channels_last && channels == image.strides.width;
  const int64_t runs = whole ? 1 : channels_last ? at.columns : channels;
  const int64_t length = whole           ? at.columns * channels
                         : channels_last ? channels
                                         : at.columns;
  const int64_t stride =
      channels_last ? image.strides.width : image.strides.channel;
  for (int64_t row = 0; row < at.images * at.rows; ++row) {
    const int64_t first =
        image.OffsetOf(
            {at.image + row / at.rows, at.row + row % at.rows, at.column}) +
        (at.group * image.channels + first_channel) * image.strides.channel;
    for (int64_t i = 0; i < runs; ++i) visit(first + i * stride, length);
  }
}

// Packs sources first, if they are not read in place.
template <typename C, typename T>
ForwardPlan::SourceView<C> ForwardPlan::SourcesOf(
    const WorkItem& item, const ReductionBlock& reduction, const T* input,
    const Worker<C>& worker) const {
  if constexpr (std::is_same_v<T, C>) {
    if (access_.in_place) {
      return {input + input_image().OffsetOf(item.source_origin()) +
                  item.at.group * input_image().channels +
                  reduction.first_block * kLanes,
              kLanes, item.columns->source.step * input_image().strides.width};
    }
  }
  const int64_t block_stride =
      Blocking::SourceBlockElements(item, blocking_.tile_images);
  PackTile(set_, input, input_image(), item.rows->source, item.columns->source,
           item.at, reduction.first_block, reduction.blocks, block_stride,
           worker.source);
  return {worker.source, block_stride, kLanes};
}

// Sums up all channels of a reduction block, for each slot that a tile has;
// zero in the padding. Returns whether magnitudes may differ from sums.
template <typename C>
bool ForwardPlan::SumSlots(const WorkItem& item,
                           const ReductionBlock& reduction,
                           const SourceView<C>& sources,
                           const Worker<C>& worker) const {
  SlotParams<C> params{
      sources.first, sources.block_stride, sources.pixel_stride,
      filters_.ChannelsOf(reduction),
      Blocking::SourceBlockElements(item, item.at.images) / kLanes};
  const auto sum = KernelsOf<C>(set_).slot_sums;
  bool differ = false;
  if (!access_.in_place) {
    sum(params, worker.slot_sums, worker.slot_magnitudes, &differ);
    return differ;
  }
  const auto clear = [&](int64_t slot, int64_t count) {
    std::fill_n(worker.slot_sums + slot, count, C{0});
    std::fill_n(worker.slot_magnitudes + slot, count, C{0});
  };
  const int64_t origin = input_image().OffsetOf(item.source_origin());
  ForEachSpan(
      input_image(), item.rows->source, item.columns->source, item.at,
      [&](int64_t slot, int64_t count, const internal::ClippedSlotRun& inside,
          const Pixel& pixel) {
        clear(slot, inside.before);
        slot += inside.before;
        params.first = sources.first + (input_image().OffsetOf(pixel) - origin);
        params.slots = inside.count;
        sum(params, worker.slot_sums + slot, worker.slot_magnitudes + slot,
            &differ);
        clear(slot + inside.count, count - inside.before - inside.count);
      });
  return differ;
}

// Sums up what the taps of each pixel see of the slots' sums, and of their
// magnitudes if these are kept apart.
template <typename C>
void ForwardPlan::SumSources(const WorkItem& item,
                             const std::vector<ForwardTap>& taps,
                             const Worker<C>& worker) const {
  const int64_t row_slots = item.columns->source.slots;
  const auto tap_sums = KernelsOf<C>(set_).tap_sums;
  for (int64_t image = 0; image < item.at.images; ++image) {
    for (int64_t row = 0; row < item.at.rows; ++row) {
      const int64_t pixel =
          (image * blocking_.tile_rows + row) * blocking_.tile_columns;
      const int64_t slot = (image * item.rows->source.slots + row) * row_slots;
      tap_sums(worker.slot_sums + slot, taps.data(), taps.size(),
               item.at.columns, worker.pixel_sums + pixel);
      if (worker.pixel_magnitudes == worker.pixel_sums) continue;
      tap_sums(worker.slot_magnitudes + slot, taps.data(), taps.size(),
               item.at.columns, worker.pixel_magnitudes + pixel);
    }
  }
}

// Kernels write whole blocks of pixels whose channels are neighbours, when they
// add the last reduction block.
template <typename C, typename O>
ForwardPlan::Results<C> ForwardPlan::ResultsOf(const WorkItem& item,
                                               O* output) const {
  Results<C> results{nullptr, 0};
  if constexpr (std::is_same_v<C, O>) {
    if (output_image().strides.channel != 1) return results;
    const TileBounds& at = item.at;
    results.first =
        output + output_image().OffsetOf({at.image, at.row, at.column}) +
        at.group * output_image().channels + item.blocks.first * kLanes;
    results.blocks =
        std::min(item.blocks.count,
                 output_image().channels / kLanes - item.blocks.first);
  }
  return results;
}

// Returns what decides about the taps of an item's pixels: how far its rows lie
// from the image's borders, as far as taps reach beyond these.
std::array<int64_t, 11> ForwardPlan::KeyOf(
    const WorkItem& item, const ReductionBlock& reduction) const {
  const TileBounds& at = item.at;
  const AxisPlan& rows = item.rows->source;
  const int64_t first = at.row * rows.step + rows.taps.front().shift;
  const int64_t last =
      (at.row + at.rows - 1) * rows.step + rows.taps.back().shift;
  return {std::min<int64_t>(first, 0),
          std::max<int64_t>(last - input_image().height, -1),
          at.column == 0,
          at.column + at.columns == item.columns->count,
          at.rows,
          at.columns,
          at.images,
          reduction.first_row,
          reduction.rows,
          reduction.first_column,
          reduction.columns};
}

const ForwardPlan::Indirection& ForwardPlan::IndirectionOf(
    const WorkItem& item, const ReductionBlock& reduction,
    std::vector<Indirection>* cache) const {
  const auto key = KeyOf(item, reduction);
  const auto found =
      std::find_if(cache->begin(), cache->end(),
                   [&](const Indirection& one) { return one.key == key; });
  if (found != cache->end()) return *found;
  if (cache->size() == kCacheSize) cache->erase(cache->begin());
  Indirection made{
      key,
      TapsOf(item, reduction, reduction.first_row, reduction.rows, false),
      blocking_.SegmentsOf(item, access_, reduction.first_row, reduction.rows),
      {}};
  for (const RowSegments& some : made.segments) {
    made.lists.push_back(TapsOf(item, reduction, some.first_tap_row,
                                some.tap_rows, access_.in_place));
  }
  cache->push_back(std::move(made));
  return cache->back();
}

// Lists rows of taps from `first` on, of a reduction block, column by column.
// Their sources lie in the tensor or in a tile (of one block of channels).
std::vector<ForwardTap> ForwardPlan::TapsOf(const WorkItem& item,
                                            const ReductionBlock& reduction,
                                            int64_t first, int64_t rows,
                                            bool in_place) const {
  const AxisPlan& row_plan = item.rows->source;
  const AxisPlan& column_plan = item.columns->source;
  std::vector<ForwardTap> taps;
  taps.reserve(reduction.columns * rows);
  for (int64_t j = 0; j < reduction.columns; ++j) {
    const int64_t column = reduction.first_column + j;
    for (int64_t row = first; row < first + rows; ++row) {
      const int64_t in_tile = row_plan.tap_slots[row].slot * column_plan.slots +
                              column_plan.tap_slots[column].slot;
      const int64_t in_tensor = input_image().OffsetOf(
          {0, row_plan.taps[row].shift, column_plan.taps[column].shift});
      taps.push_back({in_place ? in_tensor : in_tile * kLanes,
                      filters_.TapAt(row_plan.tap_slots[row].tap,
                                     column_plan.tap_slots[column].tap)});
    }
  }
  return taps;
}

// Subtracts what a reduction block contributes from totals or results of some
// segments.
template <typename C>
void ForwardPlan::SubtractDistances(
    const WorkItem& item, const ReductionBlock& reduction,
    const RowSegments& segments, const std::vector<ForwardTap>& taps,
    const SourceView<C>& sources, const Filters<C>& filters,
    const PackedEpilogue<C>& epilogue, const Worker<C>& worker,
    const Results<C>& results) const {
  const Kernels<C>& kernels = KernelsOf<C>(set_);
  const OutsideColumns outside = OutsideOf(reduction);
  const bool is_first = &reduction == &blocking_.reduction_blocks.front();
  const bool is_last = &reduction == &blocking_.reduction_blocks.back();
  const int64_t totals_stride = blocking_.tile_pixels() * kLanes;
  ForwardParams<C> params{};
  params.source = sources.first;
  params.source_block_stride = sources.block_stride;
  params.source_pixel_stride = sources.pixel_stride;
  params.filter_block_stride = filters_.block_stride();
  params.panel_stride = filters_.panel_stride();
  params.taps = taps.data();
  params.leading =
      segments.starts_row ? outside.leading * segments.tap_rows : 0;
  params.trailing =
      segments.ends_row ? outside.trailing * segments.tap_rows : 0;
  params.inner = taps.size() - params.leading - params.trailing;
  params.channels = filters_.ChannelsOf(reduction);
  params.source_sums = worker.pixel_sums;
  params.source_magnitudes = worker.pixel_magnitudes;
  params.padded = segments.tap_rows < reduction.rows;
  params.before_block_stride = totals_stride;
  params.lower = epilogue.lower;
  params.upper = epilogue.upper;
  int64_t blocks = 0;
  for (int64_t p = 0; p < item.blocks.count; p += blocks) {
    const bool direct = is_last && p < results.blocks;
    C* const totals = worker.totals + p * totals_stride;
    params.before = is_first ? nullptr : totals;
    blocks = (direct ? results.blocks : item.blocks.count) - p;
    blocks = by_rows_ ? std::min<int64_t>(blocks, kMaxRowBlocks)
                      : BlocksAtOnce<C>(blocks, segments.pixels).blocks;
    if (direct) {
      params.output = results.first + p * kLanes;
      params.start = &RunOffsets::result;
      params.output_pixel_stride = output_image().strides.width;
      params.output_block_stride = kLanes;
    } else {
      params.output = totals;
      params.start = &RunOffsets::total;
      params.output_pixel_stride = kLanes;
      params.output_block_stride = totals_stride;
    }
    const int64_t panel = blocking_.PanelOf(item, p);
    params.filters = filters.packed + panel * filters_.panel_stride() +
                     reduction.first_block * filters_.block_stride();
    if (is_last && epilogue.multiplier != nullptr) {
      params.multiplier = epilogue.multiplier + panel * kLanes;
      params.offset = epilogue.offset + panel * kLanes;
    }
    const int64_t sums =
        FilterSumsOffset(panel) + reduction.rows_before * kLanes;
    const int64_t skipped = segments.first_tap_row - reduction.first_row;
    FilterTerms<C> terms;
    kernels.filter_terms(filters.sums.From(sums), blocks, FilterSumsOffset(1),
                         skipped, skipped + segments.tap_rows, reduction.rows,
                         &terms);
    const auto values = [&](const C* inner, const C* first, const C* last) {
      return ValuesOf(inner, first, last, segments.starts_row,
                      segments.ends_row, segments.pixels == 1);
    };
    params.filter_magnitudes = terms.magnitudes;
    params.filter_sums = values(terms.sums, terms.first_sums, terms.last_sums);
    params.padding =
        values(terms.padding, terms.first_padding, terms.last_padding);
    RunBlocks(segments, params, blocks);
  }
}

// Runs kernels of some blocks of destinations over all of some segments. Short
// ones go two at a time.
template <typename C>
void ForwardPlan::RunBlocks(const RowSegments& segments,
                            const ForwardParams<C>& params,
                            int64_t blocks) const {
  const Kernels<C>& kernels = KernelsOf<C>(set_);
  const int64_t count = segments.starts.size();
  if (by_rows_) {
    return RunKernel(kernels.forward_rows[blocks - 1], segments, 0, count,
                     params);
  }
  const ForwardKernel<C>& once = kernels.forward[blocks - 1];
  const ForwardKernel<C>& twice = kernels.forward_twice[blocks - 1];
  const int64_t paired =
      segments.pixels <= twice.most_pixels ? count / 2 * 2 : 0;
  if (paired > 0) RunKernel(twice, segments, 0, paired, params);
  if (paired < count) RunKernel(once, segments, paired, count, params);
}

// Runs one kernel over segments begin ... end - 1, cut into runs that it takes
// at once; all those that are alike by one call.
template <typename C>
void ForwardPlan::RunKernel(const ForwardKernel<C>& kernel,
                            const RowSegments& segments, int64_t begin,
                            int64_t end, const ForwardParams<C>& params) const {
  const int64_t runs = CeilDiv(segments.pixels, kernel.most_pixels);
  const int64_t longer = segments.pixels % runs;  // so many, by one pixel
  int64_t alike;
  int64_t first = 0;
  for (int64_t i = 0; i < runs; i += alike) {
    const bool starts = i == 0 && segments.starts_row;
    const bool ends = i + 1 == runs && segments.ends_row;
    const int64_t pixels = segments.pixels / runs + (i < longer ? 1 : 0);
    alike = (i < longer ? longer : runs - (segments.ends_row ? 1 : 0)) - i;
    if (starts || ends) alike = 1;
    ForwardParams<C> here = params;
    here.source += first * params.source_pixel_stride;
    here.source_sums += first;
    here.source_magnitudes += first;
    here.output += first * params.output_pixel_stride;
    if (params.before != nullptr) here.before += first * kLanes;
    here.leading = starts ? params.leading : 0;
    here.trailing = ends ? params.trailing : 0;
    here.inner += params.leading - here.leading;
    here.inner += params.trailing - here.trailing;
    here.filter_sums =
        ValuesOfPart(params.filter_sums, starts, ends, pixels == 1);
    here.padding = ValuesOfPart(params.padding, starts, ends, pixels == 1);
    kernel.run(here, segments.starts.data() + begin, end - begin, alike,
               static_cast<int>(pixels));
    first += alike * pixels;
  }
}

}  // namespace internal

std::unique_ptr<const Engine> MakeForward(const Problem& problem) {
  if (problem.pass != Pass::kForward) return nullptr;
  return internal::MakeTyped<internal::PackingEngine>(
      problem, internal::ForwardPlan(
                   problem, Folded(ChooseForwardLowering(problem.geometry))));
}

}  // namespace keras_adder
