#include "core/filter_gradient.h"

#include <algorithm>

#include "core/engines.h"
#include "core/patches.h"
#include "core/workspace.h"

namespace keras_adder {
namespace internal {
namespace {

constexpr int64_t kTilePixels = 256;
constexpr int64_t kTileColumns = 64;
constexpr int64_t kTileBytes = 128 << 10;
// Planes of input and output channels that a unit handles.
constexpr int64_t kPartPlanes = 4;

}  // namespace

FilterGradientPlan::FilterGradientPlan(const Problem& problem,
                                       const Geometry& geometry)
    : set_(*problem.kernels),
      mode_(problem.mode),
      element_(ComputeBytes(problem.type)),
      groups_(geometry.groups),
      input_(InputImage(geometry)),
      output_(OutputImage(geometry)),
      height_(geometry.height),
      width_(geometry.width),
      filters_(geometry, FilterOrder::kOutputsToInputs) {
  input_parts_ = DealPlanes(Planes(input_.channels), kPartPlanes);
  output_parts_ = DealPlanes(Planes(output_.channels), kPartPlanes);
  ChooseBlocks();
  tiles_ = grid().size();
  const int64_t filter_units =
      groups_ * input_parts_.size() * output_parts_.size();
  partials_ = PartialFilters(filters_, element_, filter_units, tiles_);
  threads_ = static_cast<int>(
      std::min<int64_t>(problem.threads, partials_.chunks() * filter_units));
}

void FilterGradientPlan::ChooseBlocks() {
  const std::vector<AxisTap> rows = ForwardTaps(height_);
  const std::vector<AxisTap> columns = ForwardTaps(width_);
  block_columns_ =
      std::min(output_.width, rows.size() > 1 ? kTileColumns : kTilePixels);
  block_rows_ =
      std::clamp<int64_t>(kTilePixels / block_columns_, 1, output_.height);
  block_images_ = std::clamp<int64_t>(
      kTilePixels / (block_columns_ * block_rows_), 1, output_.batch);
  for (;;) {
    input_rows_ = PlanAxis(rows, height_.stride, block_rows_);
    input_columns_ = PlanAxis(columns, width_.stride, block_columns_);
    const int64_t slots =
        input_rows_.slots * input_columns_.slots * block_images_;
    input_scratch_ = slots * MostPlanes(input_parts_) * kLanes;
    if (input_scratch_ * element_ <= kTileBytes) break;
    int64_t* size = block_images_ > 1 ? &block_images_
                    : block_rows_ > 1 ? &block_rows_
                                      : &block_columns_;
    if (*size == 1) break;
    *size = CeilDiv(*size, 2);
  }
  rows_ = PlanAxis({{0, 0}}, 1, block_rows_);
  columns_ = PlanAxis({{0, 0}}, 1, block_columns_);
  output_scratch_ = block_images_ * block_rows_ * block_columns_ *
                    MostPlanes(output_parts_) * kLanes;
}

int64_t FilterGradientPlan::workspace_bytes(bool) const {
  return element_ * (SetApart(filters_.size(), element_, threads_) +
                     SetApart(partials_.elements(), element_, threads_) +
                     threads_ * SetApart(input_scratch_ + output_scratch_,
                                         element_, threads_)) -
         GapBytes(threads_);
}

template <typename T, typename O>
void FilterGradientPlan::Run(ThreadPool& pool,
                             const TypedTensors<T, O>& tensors,
                             void* workspace) const {
  using C = typename ComputeType<T>::type;
  C* const packed = static_cast<C*>(workspace);
  C* const partials = packed + SetApart(filters_.size(), sizeof(C), threads_);
  C* const scratch =
      partials + SetApart(partials_.elements(), sizeof(C), threads_);
  const int64_t scratch_stride =
      SetApart(input_scratch_ + output_scratch_, sizeof(C), threads_);
  const auto pack = [&](int64_t unit, int) {
    filters_.Pack(set_, tensors.filters, {unit, 1}, filters_.planes(), packed,
                  nullptr);
  };
  const auto run = [&](int64_t unit, int worker) {
    RunUnit<C>(unit, tensors.input, tensors.output_gradient, packed, partials,
               scratch + worker * scratch_stride);
  };
  const auto finish = [&](int64_t unit, int) {
    partials_.AddChunks(set_, unit, partials);
    filters_.Unpack(set_, partials, unit, tensors.filter_gradient);
  };
  const int64_t units =
      partials_.chunks() * groups_ * input_parts_.size() * output_parts_.size();
  RunTasks(pool, threads_, Task{filters_.units(), pack}, Task{units, run},
           Task{filters_.units(), finish});
}

template <typename C, typename T, typename O>
void FilterGradientPlan::RunUnit(int64_t unit, const T* input,
                                 const O* gradient, const C* packed,
                                 C* partials, C* scratch) const {
  const auto take = [&unit](int64_t count) {
    const int64_t digit = unit % count;
    unit /= count;
    return digit;
  };
  const PlaneRange& outputs = output_parts_[take(output_parts_.size())];
  const PlaneRange& inputs = input_parts_[take(input_parts_.size())];
  const int64_t group = take(groups_);
  const int64_t chunk = unit;

  const int64_t base =
      group * Planes(input_.channels) * filters_.destination_plane_stride();
  C* const partial = partials + chunk * partials_.stride() + base;
  for (int p = 0; p < inputs.planes; ++p) {
    C* plane = partial +
               (inputs.first + p) * filters_.destination_plane_stride() +
               outputs.first * filters_.source_plane_stride();
    const int64_t planes = std::min<int64_t>(
        outputs.planes, Planes(output_.channels) - outputs.first);
    std::memset(plane, 0, planes * filters_.source_plane_stride() * sizeof(C));
  }
  C* const input_tile = scratch;
  C* const gradient_tile = scratch + input_scratch_;
  for (int64_t tile = tiles_ * chunk / partials_.chunks();
       tile < tiles_ * (chunk + 1) / partials_.chunks(); ++tile) {
    BlockOrigin at = grid().At(tile);
    at.group = group;
    PackTile(set_, input, input_, input_rows_, input_columns_, at, inputs.first,
             inputs.planes,
             block_images_ * input_rows_.slots * input_columns_.slots * kLanes,
             input_tile);
    PackTile(set_, gradient, output_, rows_, columns_, at, outputs.first,
             outputs.planes,
             block_images_ * block_rows_ * block_columns_ * kLanes,
             gradient_tile);
    SumTile(at, inputs, outputs, packed + base, partial, input_tile,
            gradient_tile);
  }
}

template <typename C>
void FilterGradientPlan::SumTile(const BlockOrigin& at,
                                 const PlaneRange& inputs,
                                 const PlaneRange& outputs, const C* packed,
                                 C* partial, const C* input,
                                 const C* gradient) const {
  const Kernels<C>& kernels = KernelsOf<C>(set_);
  const auto kernel = mode_ == FilterGradient::kSign
                          ? kernels.filter_gradient_sign
                          : kernels.filter_gradient;
  FilterGradientBlock<C> block;
  block.input_row = input_columns_.slots * kLanes;
  block.input_image = input_rows_.slots * block.input_row;
  block.gradient_row = block_columns_ * kLanes;
  block.gradient_image = block_rows_ * block.gradient_row;
  block.images = at.images;
  block.rows = at.rows;
  block.columns = at.columns;
  for (int p = 0; p < inputs.planes; ++p) {
    const C* input_plane = input + p * block_images_ * block.input_image;
    for (int q = 0; q < outputs.planes; ++q) {
      const C* gradient_plane =
          gradient + q * block_images_ * block.gradient_image;
      const int64_t offset =
          (inputs.first + p) * filters_.destination_plane_stride() +
          (outputs.first + q) * filters_.source_plane_stride();
      const int channels = PlaneChannels(output_.channels, outputs.first + q);
      for (int64_t i = 0; i < height_.kernel; ++i) {
        for (int64_t j = 0; j < width_.kernel; ++j) {
          const int64_t slot =
              input_rows_.tap_slots[i].slot * input_columns_.slots +
              input_columns_.tap_slots[j].slot;
          const int64_t tap = offset + filters_.TapAt(i, j);
          block.input = input_plane + slot * kLanes;
          for (int first = 0; first < channels; first += kernels.max_filters) {
            block.gradient = gradient_plane + first;
            block.filters = packed + tap + first * kLanes;
            block.total = partial + tap + first * kLanes;
            kernel(block, std::min(kernels.max_filters, channels - first));
          }
        }
      }
    }
  }
}

}  // namespace internal

std::unique_ptr<const Engine> MakeFilterGradient(const Problem& problem) {
  if (problem.pass != Pass::kFilterGradient) return nullptr;
  const Geometry geometry = ForGradients(problem.geometry).front();
  return internal::MakeTyped<internal::TypedEngine>(
      problem, internal::FilterGradientPlan(problem, Folded(geometry)));
}

}  // namespace keras_adder
