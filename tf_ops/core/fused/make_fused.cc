// Which engine computes a fused pass (fusion.h).

#include <utility>

#include "core/engines.h"
#include "core/fused/float_fused.h"
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

std::unique_ptr<const Engine> MakeFused(const Problem& problem) {
  if (problem.pass != Pass::kFused) return nullptr;
  const FusedKernels& kernels = FusedKernelsOf(*problem.kernels);
  if (!IsInteger(problem.fusion.filter_type)) {
    return internal::MakeFloatFused(problem, kernels);
  }
  const auto make = [&kernels](const Problem& channels_last) {
    return std::make_unique<const internal::IntegerForward>(channels_last,
                                                            kernels);
  };
  if (IsChannelsLast(problem.geometry)) return make(problem);
  return std::make_unique<const internal::Transposed>(
      problem, make(internal::Transposed::ChannelsLast(problem)));
}

}  // namespace keras_adder
