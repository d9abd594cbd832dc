#include "core/fused/make_fused.h"

#include <utility>

#include "core/depthwise/suits_depthwise.h"
#include "core/engines.h"
#include "core/fused/float_fused.h"
#include "core/fused/integer_depthwise.h"
#include "core/fused/integer_forward.h"
#include "core/fused/transposed.h"
#include "core/select_kernels.h"

namespace keras_adder {
namespace {

bool IsChannelsLast(const Geometry& geometry) {
  return geometry.input_strides.channel == 1 &&
         geometry.output_strides.channel == 1;
}

}  // namespace

namespace internal {

std::unique_ptr<const Engine> MakeInteger(const Problem& problem,
                                          const FusedKernels& kernels) {
  if (IsDepthwise(problem.geometry)) {
    return std::make_unique<const IntegerDepthwise>(problem, kernels);
  }
  return std::make_unique<const IntegerForward>(problem, kernels);
}

}  // namespace internal

std::unique_ptr<const Engine> MakeFused(const Problem& problem) {
  if (problem.pass != Pass::kFused) return nullptr;
  const FusedKernels& kernels = FusedKernelsOf(*problem.kernels);
  if (!IsInteger(problem.fusion.filter_type)) {
    return internal::MakeFloatFused(problem, kernels);
  }
  if (IsChannelsLast(problem.geometry)) {
    return internal::MakeInteger(problem, kernels);
  }
  const Problem channels_last = internal::Transposed::ChannelsLast(problem);
  return std::make_unique<const internal::Transposed>(
      problem, internal::MakeInteger(channels_last, kernels));
}

}  // namespace keras_adder
