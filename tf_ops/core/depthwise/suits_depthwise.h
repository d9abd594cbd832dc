// Which convolutions the depthwise passes are for.

#ifndef KERAS_ADDER_CORE_DEPTHWISE_SUITS_DEPTHWISE_H_
#define KERAS_ADDER_CORE_DEPTHWISE_SUITS_DEPTHWISE_H_

#include <algorithm>
#include <cstdint>

#include "core/geometry.h"
#include "core/kernels/kernels.h"

namespace keras_adder {

// Whether each filter sees one channel, of several, and a channel has fewer
// filters than a block of the other passes has lanes.
inline bool IsDepthwise(const Geometry& geometry) {
  return geometry.groups > 1 && geometry.group_in() == 1 &&
         geometry.group_out() < kLanes;
}

// Where a group's filters would leave most lanes of a block of the other passes
// empty. These have one chain of additions for all terms of a sum, which may
// not become too long; and they pack whole rows, each pixel of which takes a
// block of lanes however few channels it has, which may not become too large.
inline bool SuitsDepthwise(const Geometry& geometry) {
  constexpr int64_t kMostTerms = 576;
  constexpr int64_t kFewFilters = 2;
  constexpr int64_t kMostPacked = 4 << 20;  // elements of a worker
  const int64_t filters = geometry.group_out(), channels = geometry.group_in();
  const bool few =
      geometry.groups > 1 && filters <= kFewFilters && channels <= kFewFilters;
  const int64_t terms = geometry.kernel_taps() * channels;
  const int64_t columns = std::max(geometry.width.input, geometry.width.output);
  return (IsDepthwise(geometry) || few) && terms <= kMostTerms &&
         geometry.height.input > 0 && geometry.width.input > 0 &&
         columns <= kMostPacked / (kLanes * geometry.height.kernel * channels);
}

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_DEPTHWISE_SUITS_DEPTHWISE_H_
