// What an instruction set offers: the innermost loops, behind plain pointers.
//
// All of them work on tiles. A tile holds some positions ("slots") of an image
// for some channels, in channel blocks of kLanes:
//
//     tile[block][slot][lane]        channel = block * kLanes + lane
//
// so that from one slot to the next it is always kLanes elements, a constant
// the compiler can fold into addresses. The forward pass is told how far slots
// are apart, since it may read pixels of a tensor in their place. Filters are
// packed the same way, for each block of destination channels:
//
//     filters[source block][tap column][tap row][source lane][destination lane]
//
// Tiling, packing and threading live one level up (blocking.h, forward.h,
// input_gradient.h, filter_gradient.h, backward.h), once for all instruction
// sets.

#ifndef KERAS_ADDER_CORE_KERNELS_KERNELS_H_
#define KERAS_ADDER_CORE_KERNELS_KERNELS_H_

#include <cstddef>
#include <cstdint>
#include <tuple>

#include "core/dtype.h"

namespace keras_adder {

// Channels of a channel block: a multiple of every vector width, and the same
// for double, so that tiles and panels have one layout.
constexpr int kLanes = 16;

// The most channel blocks of destinations that a kernel takes at once, and the
// most that one takes by rows of taps.
constexpr int kMaxBlocks = 4;
constexpr int kMaxRowBlocks = 2;

// A filter tap along one axis: the slot of the source that destination 0 meets
// under it (destination d meets slot + d), and which tap it is.
struct TapSlot {
  int64_t slot;
  int64_t tap;
};

// A value for each lane: for the first pixel of a run, for its last, and for
// all others. Where a run has one pixel, that is a first.
template <typename C>
struct LaneValues {
  const C* inner;
  const C* first;
  const C* last;
};

// An entry of an indirection buffer: where a tap of one channel block lies, its
// source (seen from the first pixel) and its filters. Both in elements.
struct ForwardTap {
  ptrdiff_t source;
  ptrdiff_t filter;
};

// Where a run of neighbouring pixels starts: in the sources, among pixels
// (of sums), and in the output, which is either the totals or the tensor. All
// but the pixel in elements.
struct RunOffsets {
  ptrdiff_t source;
  ptrdiff_t pixel;
  ptrdiff_t total;
  ptrdiff_t result;
};

// For runs of pixels and some channel blocks of destinations:
//
//   output = before - sum_taps,channels |filter - source| - padding
//
// and then the epilogue, if there is one.
//
// The sums over all taps and channels of the reduction block, of sources (for
// each pixel) and of filters (for each lane), let the kernel work with maxima:
//
//   |filter - source| = 2 max(filter, source) - filter - source
//
// The sums of magnitudes tell where that would cancel too many digits (or meet
// an infinity or a NaN), and those lanes are summed directly instead.
//
// A run's first pixel does not meet the `leading` taps, nor its last one the
// `trailing` ones: they lie in the padding. What these and others that were
// left out contribute, the filters' magnitudes, is the `padding`.
template <typename C>
struct ForwardParams {
  const C* source;
  ptrdiff_t source_block_stride, source_pixel_stride;
  const C* filters;
  ptrdiff_t filter_block_stride;
  ptrdiff_t panel_stride;  // from one block of destinations to the next
  // The same for all blocks of sources: leading ones, others, trailing ones;
  // column by column, of as many rows each.
  const ForwardTap* taps;
  int64_t leading, inner, trailing;
  int64_t channels;  // of sources, over all blocks
  const C* source_sums;
  const C* source_magnitudes;
  // Of these, blocks of destinations follow each other.
  const C* filter_magnitudes;
  LaneValues<C> filter_sums;  // of the filters that pixels do meet
  LaneValues<C> padding;
  bool padded;  // pixels between the first and the last have padding, too
  C* output;
  ptrdiff_t RunOffsets::* start;  // where in the output
  ptrdiff_t output_pixel_stride, output_block_stride;
  // What other reduction blocks have contributed, laid out as totals; null if
  // nothing yet.
  const C* before;
  ptrdiff_t before_block_stride;
  // The epilogue, with the last reduction block: of these, too, blocks of
  // destinations follow each other. Null if there is none.
  const C* multiplier;
  const C* offset;
  C lower, upper;
};

// Register tiles of up to `most_pixels` in a run (0: there is no such kernel).
// `run` takes, from each of `count` starts on, `times` neighbouring runs of
// `pixels` each; one start after the other or, to fill the registers where rows
// are short, two at a time.
template <typename C>
struct ForwardKernel {
  int most_pixels;
  void (*run)(const ForwardParams<C>&, const RunOffsets* starts, int64_t count,
              int64_t times, int pixels);
};

// Neighbouring slots of a tile, or pixels of a tensor.
template <typename C>
struct SlotParams {
  const C* first;
  ptrdiff_t block_stride, slot_stride;  // from one to the next
  int64_t channels;                     // over all blocks
  int64_t slots;
};

// For some neighbouring pixels and one block of destinations:
//
//   total += sum_taps,channels source * HT(filter - centre)
template <typename C>
struct InputGradientParams {
  const C* source;
  ptrdiff_t source_block_stride, source_row_stride;
  const C* filters;
  ptrdiff_t filter_block_stride, filter_row_stride, filter_column_stride;
  const TapSlot* row_taps;
  const TapSlot* column_taps;
  int64_t row_tap_count, column_tap_count;
  int64_t channels;  // source channels, over all blocks
  C* total;
  const C* centre;  // laid out as `total`
};

// For one tap, one block of input channels and `count` output channels t:
//
//   total[t][lane] += sum_pixels gradient[t] * (input - filter[t])[lane]
//
// or, for the sign gradient, with sign(input - filter).
template <typename C>
struct FilterGradientParams {
  const C* input;
  ptrdiff_t input_image_stride, input_row_stride;
  const C* gradient;
  ptrdiff_t gradient_image_stride, gradient_row_stride;
  int64_t images, rows, columns;
  const C* filters;
  C* total;
};

// The pixels of each image that meet a tap inside it: the first one's input and
// output gradients, and how many there are. And where the tap's filters lie.
struct BackwardTap {
  ptrdiff_t input, gradient, filter;
  int64_t rows, columns;
};

// For one block of input channels, and output channels t: both gradients of the
// same pixels, taps and filters, which share the differences, the output
// gradients and so most of the work.
//
//   total[t][lane]       += sum_pixels gradient[t] * (input - filter[t])[lane]
//   input_gradient[lane] += sum_t gradient[t] * HT(filter[t] - input)[lane]
//
// `input_gradient` is laid out as `input`, `total` as `filters`.
template <typename C>
struct BackwardParams {
  const C* input;
  C* input_gradient;
  ptrdiff_t input_image_stride, input_row_stride;
  const C* gradient;
  ptrdiff_t gradient_image_stride, gradient_row_stride;
  int64_t images;
  const BackwardTap* taps;
  int64_t tap_count;
  int channels;  // of the output, of one block
  const C* filters;
  C* total;
};

// The pixels of some images that do not lie in the rows and columns first ...
// end - 1.
template <typename C>
struct OutsideParams {
  const C* tile;
  ptrdiff_t image_stride, row_stride;
  int64_t images, rows, columns;
  int64_t first_row, end_row;
  int64_t first_column, end_column;
};

// Sums of filters that depend on no pixel but on whether it is the first or the
// last of its row: what those see of them, and what they do not.
template <typename C>
struct FilterSums {
  static constexpr int kArrays = 6;
  C* sums;
  C* magnitudes;
  C* first_sums;           // of what the first pixel sees
  C* last_sums;            // of what the last pixel sees
  C* leading_magnitudes;   // of what the first pixel does not see
  C* trailing_magnitudes;  // of what the last pixel does not see

  static FilterSums At(C* memory, int64_t size) {
    return {memory,
            memory + size,
            memory + 2 * size,
            memory + 3 * size,
            memory + 4 * size,
            memory + 5 * size};
  }

  FilterSums From(int64_t offset) const {
    return {sums + offset,
            magnitudes + offset,
            first_sums + offset,
            last_sums + offset,
            leading_magnitudes + offset,
            trailing_magnitudes + offset};
  }
};

// Some taps and blocks of sources of packed filters, of one block of
// destinations. The first `leading` columns of taps lie in the padding for the
// first pixel of an image's row, the last `trailing` ones for the last pixel.
struct FilterWindow {
  ptrdiff_t block_stride, row_stride,
      column_stride;  // from one to the next, in elements
  int64_t rows, columns;
  int64_t channels;  // of sources, over all blocks
  int64_t leading, trailing;
};

// What the filters of some blocks contribute to the pixels of a run: see
// ForwardParams.
template <typename C>
struct FilterTerms {
  using Values = C[kMaxBlocks * kLanes];
  Values magnitudes;
  Values sums, first_sums, last_sums;
  Values padding, first_padding, last_padding;
};

// For neighbouring pixels of depthwise channels, each of which meets one source
// lane under a tap:
//
//   output = -sum_taps |source - filter|, and then the epilogue if there is one
//
// for one block after the other. The first `inside` taps meet a source; of the
// `outside` ones behind them, which lie in the padding, only the filters count.
template <typename C>
struct DepthwiseForwardParams {
  const C* input;
  ptrdiff_t input_pixel_stride;
  const C* filters;
  const ForwardTap* taps;
  int64_t inside, outside;
  C* output;
  ptrdiff_t output_pixel_stride;
  bool fetches_outputs;  // since they are too many for a cache
  int64_t pixels;
  int64_t blocks;  // whose lanes are neighbours, in all of these
  // As in ForwardParams.
  const C* multiplier;
  const C* offset;
  C lower, upper;
};

// Where a tap's output gradient lies, seen from the first pixel's; its filters,
// and the sums that are their gradient. In elements.
struct DepthwiseTap {
  ptrdiff_t gradient, filter, total;
};

// For neighbouring pixels of depthwise channels, which meet the same taps:
//
//   total[tap]     += sum_pixels gradient[tap] * (input - filter[tap])
//   input_gradient  = sum_taps gradient[tap] * HT(filter[tap] - input)
//
// `input_gradient` is laid out as `input`.
template <typename C>
struct DepthwiseGradientParams {
  const C* input;
  C* input_gradient;
  ptrdiff_t input_block_stride, input_pixel_stride;
  const C* gradient;
  ptrdiff_t gradient_block_stride, gradient_pixel_stride;
  const C* filters;
  ptrdiff_t filter_block_stride;
  C* total;
  ptrdiff_t total_block_stride;
  const DepthwiseTap* taps;
  int64_t tap_count;
  int64_t pixels, blocks;
};

template <typename C>
struct DepthwiseKernels {
  void (*forward)(const DepthwiseForwardParams<C>&);
  // The gradient of inputs, that of filters (of either mode), and both.
  using Gradient = void (*)(const DepthwiseGradientParams<C>&);
  Gradient input_gradient, filter_gradient, filter_gradient_sign;
  Gradient backward, backward_sign;
};

template <typename C>
struct Kernels {
  DepthwiseKernels<C> depthwise;
  // For one block of destinations, for two, and so on.
  ForwardKernel<C> forward[kMaxBlocks];
  ForwardKernel<C> forward_twice[kMaxBlocks];
  // The same for filters of three columns that meet neighbouring sources, of
  // which one at most leads and one trails. Sums up in another order.
  ForwardKernel<C> forward_rows[kMaxRowBlocks];
  // The most pixels of an input gradient, and filters of a filter gradient.
  int max_input_gradient;
  int max_filters;
  void (*input_gradient)(const InputGradientParams<C>&, int pixels);
  void (*filter_gradient)(const FilterGradientParams<C>&, int count);
  void (*filter_gradient_sign)(const FilterGradientParams<C>&, int count);
  // The first of these is for finite inputs and filters only; the other lets a
  // NaN through.
  void (*backward)(const BackwardParams<C>&);
  void (*backward_propagate_nan)(const BackwardParams<C>&);
  // How many pixels these should be given at once, about.
  int64_t band_pixels;
  // The sum, and the sum of magnitudes, of all channels of each slot; and the
  // sum of what `columns` neighbouring pixels see of such sums, tap by tap.
  // They work in whole vectors: of sums, up to kLanes - 1 beyond the last are
  // read and written. `slot_sums` sets `differ` where magnitudes may differ
  // from sums.
  void (*slot_sums)(const SlotParams<C>& params, C* sums, C* magnitudes,
                    bool* differ);
  void (*tap_sums)(const C* slot_sums, const ForwardTap* taps, int64_t count,
                   int64_t columns, C* sums);
  // One vector of lanes for each row of taps.
  void (*filter_sums)(const C* filters, const FilterWindow& window,
                      const FilterSums<C>& sums);
  // Of `rows` rows of taps, first ... end - 1 meet the image. `sums` has one
  // vector of lanes for each row; the blocks lie `block_stride` elements apart.
  void (*filter_terms)(const FilterSums<C>& sums, int64_t blocks,
                       ptrdiff_t block_stride, int64_t first, int64_t end,
                       int64_t rows, FilterTerms<C>* terms);
  // Whether none of so many slots holds an infinity or a NaN.
  bool (*all_finite)(const C* tile, int64_t slots);
  void (*add_slots)(const C* from, int64_t slots, C* to);
  // Adds `lanes` lanes of so many slots to elements that lie `step` apart from
  // one slot to the next.
  void (*add_lanes)(const C* from, int64_t slots, int lanes, ptrdiff_t step,
                    C* to);
  // to[slot] -= factors[slot] * from[slot], but for factors of zero.
  void (*subtract_scaled)(const C* factors, const C* from, int64_t slots,
                          C* to);
  // Adds what lies outside to kLanes sums.
  void (*sum_outside)(const OutsideParams<C>& params, C* sums);
};

// `count` neighbouring slots of one channel block, and the tensor elements that
// they stand for.
struct PixelSpan {
  int64_t count;
  int channels;            // of the block; lanes beyond are zero in the tile
  ptrdiff_t pixel_stride;  // of the tensor, in elements
  ptrdiff_t channel_stride;
  // So many blocks of kLanes channels that are neighbours in the tensor, each
  // `block_stride` elements behind the one before in the tile.
  int64_t blocks = 1;
  ptrdiff_t block_stride = 0;
  // The lane of the tensor's first channel, where channels are neighbours.
  // Lanes before it are left alone, those from it on must be zero if it is not
  // the first itself.
  int first_lane = 0;
};

// Between tensors of T and tiles of the type that T is computed in.
template <typename T>
struct Copies {
  using C = typename ComputeType<T>::type;
  void (*pack)(const T* tensor, const PixelSpan& span, C* tile);
  void (*unpack)(const C* tile, const PixelSpan& span, T* tensor);
};

template <typename List>
struct CopiesOfTypes;
template <typename... T>
struct CopiesOfTypes<TypeList<T...>> {
  using type = std::tuple<Copies<T>...>;
};

struct FusedKernels;  // fused_kernels.h

struct KernelSet {
  const char* name;
  std::tuple<Kernels<float>, Kernels<double>> kernels;
  CopiesOfTypes<ElementTypes>::type copies;
  const FusedKernels* fused;  // see FusedKernelsOf (select_kernels.h)
};

// The kernels that compute in C, and the copies of tensors of T.
template <typename C>
const Kernels<C>& KernelsOf(const KernelSet& set) {
  return std::get<Kernels<C>>(set.kernels);
}
template <typename T>
const Copies<T>& CopiesOf(const KernelSet& set) {
  return std::get<Copies<T>>(set.copies);
}

// One for each instruction set this library was compiled for.
extern const KernelSet kBaselineKernels;
#if defined(__x86_64__)
extern const KernelSet kAvx2Kernels;
extern const KernelSet kAvx512Kernels;
extern const KernelSet kAvx512OperandKernels;
#elif defined(__aarch64__)
extern const KernelSet kNeonKernels;
#endif

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_KERNELS_H_
