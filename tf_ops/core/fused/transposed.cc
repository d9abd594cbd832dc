#include "core/fused/transposed.h"

#include <utility>

#include "core/tile.h"
#include "core/workspace.h"

namespace keras_adder {
namespace internal {
namespace {

// to[image][column][row] = from[image][row][column]
template <typename T>
void TransposeImages(ThreadPool& pool, int threads, int64_t images,
                     int64_t rows, int64_t columns, const void* from,
                     void* to) {
  const auto transpose = [=](int64_t image, int) {
    const T* source = static_cast<const T*>(from) + image * rows * columns;
    T* result = static_cast<T*>(to) + image * rows * columns;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < columns; ++column) {
        result[column * rows + row] = source[row * columns + column];
      }
    }
  };
  RunTasks(pool, threads, Task{images, transpose});
}

void TransposeImages(ThreadPool& pool, int threads, int64_t element,
                     int64_t images, int64_t rows, int64_t columns,
                     const void* from, void* to) {
  const auto run = element == 1   ? TransposeImages<uint8_t>
                   : element == 2 ? TransposeImages<uint16_t>
                                  : TransposeImages<uint32_t>;
  run(pool, threads, images, rows, columns, from, to);
}

ImageStrides ChannelsLastStrides(int64_t rows, int64_t columns,
                                 int64_t channels) {
  return {rows * columns * channels, columns * channels, channels, 1};
}

int64_t Bytes(int64_t elements, DataType type) {
  return RoundUp(elements * SizeOf(type), kWorkspaceAlignment);
}

}  // namespace

Problem Transposed::ChannelsLast(const Problem& problem) {
  Problem result = problem;
  Geometry& geometry = result.geometry;
  geometry.input_strides = ChannelsLastStrides(
      geometry.height.input, geometry.width.input, geometry.in_channels);
  geometry.output_strides = ChannelsLastStrides(
      geometry.height.output, geometry.width.output, geometry.out_channels);
  return result;
}

Transposed::Transposed(const Problem& problem,
                       std::unique_ptr<const Engine> engine)
    : problem_(problem), engine_(std::move(engine)) {}

int64_t Transposed::InputBytes() const {
  return Bytes(problem_.geometry.input_size(), problem_.type);
}

int64_t Transposed::ResidualBytes() const {
  const Fusion& fusion = problem_.fusion;
  return fusion.has_residual
             ? Bytes(problem_.geometry.output_size(), fusion.residual_type)
             : 0;
}

int64_t Transposed::OutputBytes() const {
  return Bytes(problem_.geometry.output_size(), problem_.output_type);
}

int64_t Transposed::workspace_bytes(bool filters_are_packed) const {
  return InputBytes() + ResidualBytes() + OutputBytes() +
         engine_->workspace_bytes(filters_are_packed);
}

void Transposed::Run(ThreadPool& pool, const Tensors& tensors,
                     void* workspace) const {
  const Geometry& geometry = problem_.geometry;
  const int64_t in_pixels = geometry.height.input * geometry.width.input;
  const int64_t out_pixels = geometry.height.output * geometry.width.output;
  auto* memory = static_cast<char*>(workspace);
  const auto take = [&memory](int64_t bytes) {
    return std::exchange(memory, memory + bytes);
  };
  void* const input = take(InputBytes());
  void* const residual = take(ResidualBytes());
  void* const output = take(OutputBytes());
  TransposeImages(pool, problem_.threads, SizeOf(problem_.type), geometry.batch,
                  geometry.in_channels, in_pixels, tensors.input, input);
  Tensors inner = tensors;
  inner.input = input;
  inner.output = output;
  if (tensors.residual != nullptr) {
    TransposeImages(pool, problem_.threads,
                    SizeOf(problem_.fusion.residual_type), geometry.batch,
                    geometry.out_channels, out_pixels, tensors.residual,
                    residual);
    inner.residual = residual;
  }
  engine_->Run(pool, inner, memory);
  TransposeImages(pool, problem_.threads, SizeOf(problem_.output_type),
                  geometry.batch, out_pixels, geometry.out_channels, output,
                  tensors.output);
}

}  // namespace internal
}  // namespace keras_adder
