// Sums of integer distances in plain C++, for processors without a file of
// their own.

#ifndef KERAS_ADDER_CORE_KERNELS_SUMS_PORTABLE_H_
#define KERAS_ADDER_CORE_KERNELS_SUMS_PORTABLE_H_

#include <cstdint>
#include <cstring>

#include "core/kernels/integer_sums.h"

namespace keras_adder {
namespace {

// One element of a lane at once.
template <typename T>
struct PortableForm {
  typedef int32_t Vector __attribute__((vector_size(64)));
  static constexpr int kMaxSourcesOf[kMaxPanels] = {1};
  static constexpr int kStepElements = 1;
  static constexpr bool kMaxima = false;
  static constexpr int kOutputs = 1;
  static constexpr int kVectors = 1;
  static constexpr int kFilterBytes = 16 * sizeof(T);
  static constexpr int64_t kMaxSteps = int64_t{1} << 62;
  static constexpr int PositionOf(int lane) { return lane; }

  struct Filters {
    explicit Filters(const uint8_t* from) {
      T lanes[16];
      std::memcpy(lanes, from, sizeof(lanes));
      for (int i = 0; i < 16; ++i) value[i] = lanes[i];
    }
    const Vector& operator[](int) const { return value; }
    Vector value;
  };
  static Vector Zero() { return Vector{}; }
  static int32_t Broadcast(const uint8_t* x) {
    T value;
    std::memcpy(&value, x, sizeof(value));
    return value;
  }
  static Vector Add(const Vector& sum, int32_t x, const Vector& f) {
    const Vector difference = f - x;
    return sum + (difference < 0 ? -difference : difference);
  }
  static void Flush(const Vector* sums, int32_t* totals, bool add) {
    for (int i = 0; i < 16; ++i) {
      totals[i] = (add ? totals[i] : 0) + sums[0][i];
    }
  }
};

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_SUMS_PORTABLE_H_
