// Which engine computes a fused pass (fusion.h).

#include <utility>

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

// For NHWC.
std::unique_ptr<const Engine> MakeInteger(const Problem& problem,
                                          const FusedKernels& kernels) {
  if (internal::IntegerDepthwise::Takes(problem.geometry)) {
    return std::make_unique<const internal::IntegerDepthwise>(problem, kernels);
  }
  return std::make_unique<const internal::IntegerForward>(problem, kernels);
}

}  // namespace

std::unique_ptr<const Engine> MakeFused(const Problem& problem) {
  if (problem.pass != Pass::kFused) return nullptr;
  const FusedKernels& kernels = FusedKernelsOf(*problem.kernels);
  if (!IsInteger(problem.fusion.filter_type)) {
    return internal::MakeFloatFused(problem, kernels);
  }
  if (IsChannelsLast(problem.geometry)) return MakeInteger(problem, kernels);
  return std::make_unique<const internal::Transposed>(
      problem,
      MakeInteger(internal::Transposed::ChannelsLast(problem), kernels));
}

}  // namespace keras_adder
