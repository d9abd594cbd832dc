// Which convolutions the depthwise passes are for.

#ifndef KERAS_ADDER_CORE_DEPTHWISE_SUITS_DEPTHWISE_H_
#define KERAS_ADDER_CORE_DEPTHWISE_SUITS_DEPTHWISE_H_

#include <cstdint>

#include "core/geometry.h"
#include "core/kernels/kernels.h"

namespace keras_adder {

// Where a group's filters would leave most lanes of a block of the other passes
// empty. These have one chain of additions for all terms of a sum, which may
// not become too long.
inline bool SuitsDepthwise(const Geometry& geometry) {
  constexpr int64_t kMostTerms = 576;
  constexpr int64_t kFewFilters = 4;
  const int64_t filters = geometry.group_out(), channels = geometry.group_in();
  const bool few =
      filters <= kFewFilters || (channels == 1 && filters < kLanes);
  return geometry.groups > 1 && few &&
         geometry.kernel_taps() * channels <= kMostTerms &&
         geometry.height.input > 0 && geometry.width.input > 0;
}

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_DEPTHWISE_SUITS_DEPTHWISE_H_
