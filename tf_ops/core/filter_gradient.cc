#include "core/filter_gradient.h"

#include <algorithm>

#include "core/engines.h"
#include "core/im2row.h"
#include "core/workspace.h"

namespace keras_adder {
namespace internal {
namespace {

// Tiles whose inputs and gradients share a second-level cache with the panels
// that they meet; found with `benchmarks/conv2d.py --parts main` on Zen 5.
constexpr int64_t kTilePixels = 256;
constexpr int64_t kTileColumns = 64;
constexpr int64_t kTileBytes = 128 << 10;
// Channel blocks of the input and of the output that a work item handles.
constexpr int64_t kPartBlocks = 4;

}  // namespace

FilterGradientPlan::FilterGradientPlan(const Problem& problem,
                                       const Geometry& geometry)
    : set_(*problem.kernels),
      mode_(problem.mode),
      compute_bytes_(ComputeBytes(problem.type)),
      groups_(geometry.groups),
      input_(InputImage(geometry)),
      output_(OutputImage(geometry)),
      height_(geometry.height),
      width_(geometry.width),
      filters_(geometry, FilterOrder::kOutputsToInputs) {
  input_parts_ = SplitBlocks(ChannelBlocks(input_.channels), kPartBlocks);
  output_parts_ = SplitBlocks(ChannelBlocks(output_.channels), kPartBlocks);
  ChooseTiles();
  tiles_ = grid().size();
  const int64_t items_of_chunk =
      groups_ * input_parts_.size() * output_parts_.size();
  partials_ = PartialFilters(filters_, compute_bytes_, items_of_chunk, tiles_);
  threads_ = static_cast<int>(
      std::min<int64_t>(problem.threads, partials_.chunks() * items_of_chunk));
}

void FilterGradientPlan::ChooseTiles() {
  const std::vector<AxisTap> rows = ForwardTaps(height_);
  const std::vector<AxisTap> columns = ForwardTaps(width_);
  tile_columns_ =
      std::min(output_.width, rows.size() > 1 ? kTileColumns : kTilePixels);
  tile_rows_ =
      std::clamp<int64_t>(kTilePixels / tile_columns_, 1, output_.height);
  tile_images_ = std::clamp<int64_t>(kTilePixels / (tile_columns_ * tile_rows_),
                                     1, output_.batch);
  for (;;) {
    input_rows_ = PlanAxis(rows, height_.stride, tile_rows_);
    input_columns_ = PlanAxis(columns, width_.stride, tile_columns_);
    const int64_t slots =
        input_rows_.slots * input_columns_.slots * tile_images_;
    input_scratch_ = slots * MostBlocks(input_parts_) * kLanes;
    if (input_scratch_ * compute_bytes_ <= kTileBytes) break;
    int64_t* size = tile_images_ > 1 ? &tile_images_
                    : tile_rows_ > 1 ? &tile_rows_
                                     : &tile_columns_;
    if (*size == 1) break;
    *size = CeilDiv(*size, 2);
  }
  rows_ = PlanAxis({{0, 0}}, 1, tile_rows_);
  columns_ = PlanAxis({{0, 0}}, 1, tile_columns_);
  output_scratch_ = tile_images_ * tile_rows_ * tile_columns_ *
                    MostBlocks(output_parts_) * kLanes;
}

int64_t FilterGradientPlan::workspace_bytes() const {
  return compute_bytes_ *
             (PaddedSize(filters_.size(), compute_bytes_, threads_) +
              PaddedSize(partials_.elements(), compute_bytes_, threads_) +
              threads_ * PaddedSize(input_scratch_ + output_scratch_,
                                    compute_bytes_, threads_)) -
         GapBytes(threads_);
}

template <typename T, typename O>
void FilterGradientPlan::Run(ThreadPool& pool,
                             const TypedTensors<T, O>& tensors,
                             void* workspace) const {
  using C = typename ComputeType<T>::type;
  C* const packed = static_cast<C*>(workspace);
  C* const partials = packed + PaddedSize(filters_.size(), sizeof(C), threads_);
  C* const scratch =
      partials + PaddedSize(partials_.elements(), sizeof(C), threads_);
  const int64_t scratch_stride =
      PaddedSize(input_scratch_ + output_scratch_, sizeof(C), threads_);
  const auto pack = [&](int64_t panel, int) {
    filters_.Pack(set_, tensors.filters, {panel, 1}, filters_.blocks(), packed,
                  nullptr);
  };
  const auto run = [&](int64_t item, int worker) {
    RunItem<C>(item, tensors.input, tensors.output_gradient, packed, partials,
               scratch + worker * scratch_stride);
  };
  const auto finish = [&](int64_t panel, int) {
    partials_.AddChunks(set_, panel, partials);
    filters_.Unpack(set_, partials, panel, tensors.filter_gradient);
  };
  const int64_t items =
      partials_.chunks() * groups_ * input_parts_.size() * output_parts_.size();
  RunTasks(pool, threads_, Task{filters_.panels(), pack}, Task{items, run},
           Task{filters_.panels(), finish});
}

template <typename C, typename T, typename O>
void FilterGradientPlan::RunItem(int64_t item, const T* input,
                                 const O* gradient, const C* packed,
                                 C* partials, C* scratch) const {
  const auto take = [&item](int64_t count) {
    const int64_t digit = item % count;
    item /= count;
    return digit;
  };
  const BlockRange& outputs = output_parts_[take(output_parts_.size())];
  const BlockRange& inputs = input_parts_[take(input_parts_.size())];
  const int64_t group = take(groups_);
  const int64_t chunk = item;

  const int64_t base =
      group * ChannelBlocks(input_.channels) * filters_.panel_stride();
  C* const partial = partials + chunk * partials_.stride() + base;
  for (int p = 0; p < inputs.count; ++p) {
    C* block = partial + (inputs.first + p) * filters_.panel_stride() +
               outputs.first * filters_.block_stride();
    const int64_t blocks = std::min<int64_t>(
        outputs.count, ChannelBlocks(output_.channels) - outputs.first);
    std::memset(block, 0, blocks * filters_.block_stride() * sizeof(C));
  }
  C* const input_tile = scratch;
  C* const gradient_tile = scratch + input_scratch_;
  for (int64_t tile = tiles_ * chunk / partials_.chunks();
       tile < tiles_ * (chunk + 1) / partials_.chunks(); ++tile) {
    TileBounds at = grid().At(tile);
    at.group = group;
    PackTile(set_, input, input_, input_rows_, input_columns_, at, inputs.first,
             inputs.count,
             tile_images_ * input_rows_.slots * input_columns_.slots * kLanes,
             input_tile);
    PackTile(set_, gradient, output_, rows_, columns_, at, outputs.first,
             outputs.count, tile_images_ * tile_rows_ * tile_columns_ * kLanes,
             gradient_tile);
    SumTile(at, inputs, outputs, packed + base, partial, input_tile,
            gradient_tile);
  }
}

template <typename C>
void FilterGradientPlan::SumTile(const TileBounds& at, const BlockRange& inputs,
                                 const BlockRange& outputs, const C* packed,
                                 C* partial, const C* input,
                                 const C* gradient) const {
  const Kernels<C>& kernels = KernelsOf<C>(set_);
  const auto kernel = mode_ == FilterGradientMode::kSign
                          ? kernels.filter_gradient_sign
                          : kernels.filter_gradient;
  FilterGradientParams<C> params;
  params.input_row_stride = input_columns_.slots * kLanes;
  params.input_image_stride = input_rows_.slots * params.input_row_stride;
  params.gradient_row_stride = tile_columns_ * kLanes;
  params.gradient_image_stride = tile_rows_ * params.gradient_row_stride;
  params.images = at.images;
  params.rows = at.rows;
  params.columns = at.columns;
  for (int p = 0; p < inputs.count; ++p) {
    const C* input_block = input + p * tile_images_ * params.input_image_stride;
    for (int q = 0; q < outputs.count; ++q) {
      const C* gradient_block =
          gradient + q * tile_images_ * params.gradient_image_stride;
      const int64_t offset = (inputs.first + p) * filters_.panel_stride() +
                             (outputs.first + q) * filters_.block_stride();
      const int channels = BlockChannels(output_.channels, outputs.first + q);
      for (int64_t i = 0; i < height_.kernel; ++i) {
        for (int64_t j = 0; j < width_.kernel; ++j) {
          const int64_t slot =
              input_rows_.tap_slots[i].slot * input_columns_.slots +
              input_columns_.tap_slots[j].slot;
          const int64_t tap = offset + filters_.TapAt(i, j);
          params.input = input_block + slot * kLanes;
          for (int first = 0; first < channels; first += kernels.max_filters) {
            params.gradient = gradient_block + first;
            params.filters = packed + tap + first * kLanes;
            params.total = partial + tap + first * kLanes;
            kernel(params, std::min(kernels.max_filters, channels - first));
          }
        }
      }
    }
  }
}

}  // namespace internal

std::unique_ptr<const Engine> MakeFilterGradient(const Problem& problem) {
  if (problem.pass != Pass::kFilterGradient) return nullptr;
  const Geometry geometry = GradientLowerings(problem.geometry).front();
  return internal::MakeTyped<internal::TypedEngine>(
      problem, internal::FilterGradientPlan(problem, Folded(geometry)));
}

}  // namespace keras_adder
