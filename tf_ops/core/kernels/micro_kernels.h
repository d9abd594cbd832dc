// The table of micro-kernels that a file of an instruction set makes, with the
// block sizes that its registers hold. To be included by those files alone (see
// vector.h): everything here is compiled for their instruction set.

#ifndef KERAS_ADDER_CORE_KERNELS_MICRO_KERNELS_H_
#define KERAS_ADDER_CORE_KERNELS_MICRO_KERNELS_H_

#include "core/kernels/depthwise_kernels.h"
#include "core/kernels/forward_kernels.h"
#include "core/kernels/gradient_kernels.h"
#include "core/kernels/kernels.h"
#include "core/kernels/packing_kernels.h"
#include "core/kernels/reduction_kernels.h"

namespace keras_adder {
namespace {

// The most pixels or filters of a register tile, each number of which is an
// instance of its own. Builds that are for tests alone, whose sanitizers take
// minutes over all of them, have smaller blocks, of the same code.
constexpr int Most(int count) {
#ifdef KERAS_ADDER_SMALL_BLOCKS
  return count < KERAS_ADDER_SMALL_BLOCKS ? count : KERAS_ADDER_SMALL_BLOCKS;
#else
  return count;
#endif
}

// The most pixels of forward blocks with one, two, three and four blocks of
// destinations, and with one and two blocks by rows of taps (0 if there are
// none).
template <int kOne, int kTwo = 0, int kThree = 0, int kFour = 0,
          int kRowsOfOne = 0, int kRowsOfTwo = 0>
struct ForwardPixels {
  // One vector has no other to share a register with.
  template <typename C, bool kOperands, int kRuns, int kPixels, int kBlocks>
  static constexpr ForwardKernel<C> Make() {
    if constexpr (kPixels == 0) {
      return {0, nullptr};
    } else {
      constexpr int kRun = Most(kPixels < kRuns ? 1 : kPixels / kRuns);
      constexpr bool kOperand = kOperands || kBlocks * kVectors<C> == 1;
      return {kRun, &ForwardUpTo<C, kRun, kRuns, kBlocks, kOperand, TapSums>};
    }
  }
  template <typename C, bool kOperands, int kRuns>
  static constexpr void Fill(ForwardKernel<C>* kernels) {
    kernels[0] = Make<C, kOperands, kRuns, kOne, 1>();
    kernels[1] = Make<C, kOperands, kRuns, kTwo, 2>();
    kernels[2] = Make<C, kOperands, kRuns, kThree, 3>();
    kernels[3] = Make<C, kOperands, kRuns, kFour, 4>();
  }
  template <typename C, int kPixels, int kBlocks>
  static constexpr ForwardKernel<C> MakeRows() {
    if constexpr (kPixels == 0) {
      return {0, nullptr};
    } else {
      constexpr int kRun = Most(kPixels);
      return {kRun, &ForwardUpTo<C, kRun, 1, kBlocks, false, RowSums>};
    }
  }
  template <typename C>
  static constexpr void FillRows(ForwardKernel<C>* kernels) {
    kernels[0] = MakeRows<C, kRowsOfOne, 1>();
    kernels[1] = MakeRows<C, kRowsOfTwo, 2>();
  }
};

// The most pixels of an input gradient, filters of a filter gradient, and
// filters of a kernel of both gradients.
template <typename C, typename Pixels, int kInputGradient, int kFilters,
          int kBackward, bool kOperands>
constexpr Kernels<C> MakeKernels() {
  Kernels<C> kernels{};
  Pixels::template Fill<C, kOperands, 1>(kernels.forward);
  Pixels::template Fill<C, kOperands, 2>(kernels.forward_twice);
  Pixels::template FillRows<C>(kernels.forward_rows);
  constexpr int kMostFilters = Most(kFilters);
  kernels.max_input_gradient = Most(kInputGradient);
  kernels.max_filters = kMostFilters;
  kernels.input_gradient = &InputGradientUpTo<C, Most(kInputGradient)>;
  kernels.filter_gradient =
      &CorrelateFiltersUpTo<C, FullPrecision<C>, kMostFilters>;
  kernels.filter_gradient_sign =
      &CorrelateFiltersUpTo<C, SignOnly<C>, kMostFilters>;
  kernels.backward = &Backward<C, true, kOperands, Most(kBackward)>;
  kernels.backward_propagate_nan =
      &Backward<C, false, kOperands, Most(kBackward)>;
  kernels.band_pixels = kBandPixels;
  kernels.depthwise =
      MakeDepthwiseKernels<C, Most(kDepthwisePixels), Most(kDepthwiseTaps)>();
  kernels.slot_sums = &SlotSums<C>;
  kernels.tap_sums = &SumTaps<C>;
  kernels.filter_sums = &SumFilters<C>;
  kernels.filter_terms = &FilterTermsOf<C>;
  kernels.all_finite = &AllFinite<C>;
  kernels.add_slots = &AddSlots<C>;
  kernels.add_lanes = &AddLanes<C>;
  kernels.subtract_scaled = &SubtractScaled<C>;
  kernels.sum_outside = &SumOutside<C>;
  return kernels;
}

template <typename... T>
constexpr std::tuple<Copies<T>...> MakeCopies(TypeList<T...>) {
  return {Copies<T>{&Pack<T, typename ComputeType<T>::type>,
                    &Unpack<T, typename ComputeType<T>::type>}...};
}

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_MICRO_KERNELS_H_
