// Sums of distances by channel (depthwise_sums.h) in plain C++, for processors
// without a file of their own.

#ifndef KERAS_ADDER_CORE_KERNELS_DEPTHWISE_SUMS_PORTABLE_H_
#define KERAS_ADDER_CORE_KERNELS_DEPTHWISE_SUMS_PORTABLE_H_

#include <cstdint>
#include <cstring>

#include "core/kernels/depthwise_sums.h"

namespace keras_adder {
namespace {

template <typename T, int kBytes>
struct PortableDistances {
  static constexpr int kElements = kBytes / sizeof(T);
  static constexpr int kElementBytes = sizeof(T);
  static constexpr int64_t kMaxTaps = int64_t{1} << 62;
  struct Elements {
    T values[kElements];
  };

  static Elements Load(const uint8_t* from) {
    Elements elements;
    std::memcpy(&elements, from, sizeof(elements));
    return elements;
  }
  void Add(const uint8_t* from, const Elements& f) {
    const Elements x = Load(from);
    for (int i = 0; i < kElements; ++i) {
      const int32_t difference = x.values[i] - f.values[i];
      sums[i] += difference < 0 ? -difference : difference;
    }
  }
  void Store(int32_t* totals, bool add) const {
    for (int i = 0; i < kElements; ++i) {
      totals[i] = (add ? totals[i] : 0) + sums[i];
    }
  }

  int32_t sums[kElements] = {};
};

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_DEPTHWISE_SUMS_PORTABLE_H_
