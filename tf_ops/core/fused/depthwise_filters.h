// Filters of a depthwise convolution, as its sums need them. A tap's follow
// each other as a pixel's channels do, so most are the tensor's; others are
// packed: those for windows (DepthwiseWindowParams), and so few that they do
// not fill a vector.

#ifndef KERAS_ADDER_CORE_FUSED_DEPTHWISE_FILTERS_H_
#define KERAS_ADDER_CORE_FUSED_DEPTHWISE_FILTERS_H_

#include <cstdint>

#include "core/dtype.h"
#include "core/geometry.h"

namespace keras_adder {
namespace internal {

class DepthwiseFilters {
 public:
  // `lanes`: elements of a packed tap, as many as output channels or more.
  DepthwiseFilters(const Geometry& geometry, DataType type, int64_t lanes,
                   bool for_windows);

  // 0: they are the tensor's.
  int64_t PackedBytes() const;
  void Pack(const void* filters, void* packed) const;
  // What lies behind packed filters for windows.
  const uint32_t* Starts(const uint8_t* packed) const {
    return reinterpret_cast<const uint32_t*>(packed + WindowBytes());
  }

 private:
  int64_t WindowBytes() const;
  template <typename T>
  void PackOf(const void* filters, void* packed) const;
  template <typename T>
  void PackTaps(const T* filters, T* packed) const;
  template <typename T>
  void PackWindows(const T* filters, T* packed) const;
  template <typename T>
  void PackStarts(const T* filters, uint32_t* starts) const;

  const int64_t taps_, channels_, lanes_;
  const DataType type_;
  const bool for_windows_;
};

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_FUSED_DEPTHWISE_FILTERS_H_
