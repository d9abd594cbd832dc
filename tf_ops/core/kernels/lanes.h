// What all micro-kernels say of the vectors of vector.h.

#ifndef KERAS_ADDER_CORE_KERNELS_LANES_H_
#define KERAS_ADDER_CORE_KERNELS_LANES_H_

#include "core/kernels/kernels.h"
#include "core/kernels/vector.h"

namespace keras_adder {
namespace {

// Vectors in a block of a tile.
template <typename C>
constexpr int kVectors = kLanes / kWidth<C>;

// a - b, as a fused multiply-add if so asked: loops that also clip have more
// work for the ports of additions than for those of multiply-adds.
template <typename C>
inline Vector<C> Difference(Vector<C> a, Vector<C> b,
                            [[maybe_unused]] Vector<C> one,
                            [[maybe_unused]] bool fused) {
#if defined(__FMA__)
  if (fused) return Fma(a, one, -b);
#endif
  return a - b;
}

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_LANES_H_
