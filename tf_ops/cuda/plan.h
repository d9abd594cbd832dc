// How a call is divided among tiles. Made on the host, read by the kernels.
//
// All three passes are the same triple loop: a result of rows x columns, each
// element a sum over `depth` terms that a row and a column make together.
//
//                    rows               columns          terms
//   forward          output pixels      output channels  taps, input channels
//   input gradient   input pixels       input channels   taps, output channels
//   filter gradient  taps, in channels  output channels  output pixels

#ifndef KERAS_ADDER_CUDA_PLAN_H_
#define KERAS_ADDER_CUDA_PLAN_H_

#include "cuda/general.h"

namespace keras_adder {
namespace cuda {

// A block of threads computes kRows x kColumns results, kDepth terms a step;
// a thread computes kThreadRows x kThreadColumns of them, in registers.
template <int rows, int columns, int thread_rows, int thread_columns, int depth>
struct Tile {
  static constexpr int kRows = rows;
  static constexpr int kColumns = columns;
  static constexpr int kThreadRows = thread_rows;
  static constexpr int kThreadColumns = thread_columns;
  static constexpr int kDepth = depth;
  static constexpr int kThreadsAcross = columns / thread_columns;
  static constexpr int kThreads = rows / thread_rows * kThreadsAcross;
};

// Register blocks of the gradients are smaller: they have an array more, the
// inputs or filters that belong to the place of a result. On an H200 longer
// steps pay for their registers in filter gradients, whose places in the depth
// take most to compute. A narrow tile of longer steps would leave room for one
// block in the 64 KiB of shared memory of a compute capability of 7.5.
using WideTile = Tile<128, 64, 8, 8, 8>;
template <int depth>
using MediumTile = Tile<128, 32, 8, 4, depth>;
using NarrowTile = Tile<256, 16, 8, 4, 8>;
constexpr int kTileThreads = 128;
static_assert(WideTile::kThreads == kTileThreads);
static_assert(MediumTile<8>::kThreads == kTileThreads);
static_assert(NarrowTile::kThreads == kTileThreads);

// Calls user.Run<Tile>() with the tile that a pass takes of a size, which is
// KERAS_ADDER_NARROW, _MEDIUM or _WIDE. Gradients have no wide one.
template <int pass, typename User>
void WithTile(int32_t size, const User& user) {
  if (size == KERAS_ADDER_NARROW) return user.template Run<NarrowTile>();
  if constexpr (pass == KERAS_ADDER_FORWARD) {
    if (size == KERAS_ADDER_WIDE) return user.template Run<WideTile>();
  }
  constexpr int depth = pass == KERAS_ADDER_FILTER_GRADIENT ? 16 : 8;
  user.template Run<MediumTile<depth>>();
}

// A chain of additions ends after so many terms, and goes to a second sum.
constexpr int kTermsPerChain = 128;

// Strides beyond this are the general kernel's business in input gradients. A
// power of two, which tiles divide by.
constexpr int kMaxPhases = 4;

// Along one axis, row position `r` and tap `a` of a tile meet the source at
// r * row_step + first + a * tap_step. An input gradient of stride s is s such
// axes, its phases: inputs that are equal modulo s meet the same taps, and
// where these lie in the output is linear again.
struct PhaseAxis {
  int32_t rows;
  int32_t row_step;
  int32_t first;
  int32_t tap_step;
  int32_t taps;
  int32_t source;        // positions that the source has
  int32_t first_tap;     // of the filters
  int32_t tap_stride;    // of the filters
  int32_t first_result;  // where row positions lie in the result
  int32_t result_step;
};

// Distances between neighbours, in elements.
struct TensorStrides {
  int32_t batch;
  int32_t height;
  int32_t width;
  int32_t channel;
};

struct Plan {
  Request request;
  float* partials;  // if split: `splits` results of floats
  int64_t result_size;
  PhaseAxis height[kMaxPhases];
  PhaseAxis width[kMaxPhases];
  int32_t height_phases;
  int32_t width_phases;
  int32_t batch;
  int32_t groups;
  int32_t group_in;  // channels
  int32_t group_out;
  int32_t columns;
  int32_t channels;      // of the source in a group
  TensorStrides source;  // of what rows are read from
  TensorStrides image;  // of the result or, for filters, of the output gradient
  int32_t filter_width;
  int32_t filter_tap;      // distance between taps of the filters
  int32_t filter_channel;  // between channels of the source
  int32_t filter_column;
  int32_t splits;  // of the depth
  int32_t steps_per_split;
  int32_t vectors;  // not 0: four channels can be read at once
};

// What a launch needs beside the plan.
struct Launch {
  bool general;
  int32_t tile;  // KERAS_ADDER_NARROW, _MEDIUM or _WIDE
  int tile_rows;
  int tile_columns;
  int tile_depth;
  int64_t blocks_x;  // tiles of rows
  int64_t blocks_y;  // tiles of columns
  int64_t blocks_z;  // groups x phases x splits
  int64_t result_size;
};

// The result of a call, in elements.
int64_t ResultSize(const KerasAdderCall& call);

// Plans a call, from its geometry alone: sums come out the same on every GPU.
// Pointers are left to the caller, and so is the alignment that `vectors`
// takes for granted.
Launch MakePlan(const KerasAdderCall& call, Plan* plan);

// Copies a foreign call, whose struct may be an older and shorter one, and
// checks what its caller can get wrong. NULL if all is well.
const char* ReadCall(const KerasAdderCall* foreign, KerasAdderCall* call);

}  // namespace cuda
}  // namespace keras_adder

#endif  // KERAS_ADDER_CUDA_PLAN_H_
