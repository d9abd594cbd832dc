#include "core/fused/depthwise_filters.h"

#include <algorithm>

#include "core/kernels/fused_kernels.h"
#include "core/tile.h"

namespace keras_adder {
namespace internal {
namespace {

// Rows of a column of taps that fill 32 bits, and how many times it takes that
// to have all of them.
template <typename T>
constexpr int64_t kTogether = 4 / sizeof(T);
template <typename T>
constexpr int64_t kGroups = (kWindow + kTogether<T> - 1) / kTogether<T>;

// Three times this is 1, modulo 2^32.
constexpr uint32_t kThird = 0xaaaaaaab;

}  // namespace

DepthwiseFilters::DepthwiseFilters(const Geometry& geometry, DataType type,
                                   int64_t lanes, bool for_windows)
    : taps_(geometry.kernel_taps()),
      channels_(geometry.out_channels),
      lanes_(lanes),
      type_(type),
      for_windows_(for_windows) {}

int64_t DepthwiseFilters::PackedBytes() const {
  if (for_windows_) return WindowBytes() + lanes_ * sizeof(uint32_t);
  return lanes_ == channels_ ? 0 : taps_ * lanes_ * SizeOf(type_);
}

int64_t DepthwiseFilters::WindowBytes() const {
  const int64_t groups =
      type_ == DataType::kUint8 ? kGroups<uint8_t> : kGroups<int16_t>;
  return kWindow * groups * lanes_ * sizeof(uint32_t);
}

void DepthwiseFilters::Pack(const void* filters, void* packed) const {
  if (type_ == DataType::kUint8) {
    PackOf<uint8_t>(filters, packed);
  } else {
    PackOf<int16_t>(filters, packed);
  }
}

template <typename T>
void DepthwiseFilters::PackOf(const void* filters, void* packed) const {
  const auto* from = static_cast<const T*>(filters);
  auto* to = static_cast<T*>(packed);
  if (!for_windows_) return PackTaps(from, to);
  PackWindows(from, to);
  auto* bytes = static_cast<uint8_t*>(packed);
  PackStarts(from, reinterpret_cast<uint32_t*>(bytes + WindowBytes()));
}

// Lanes without a filter have zeros; nobody reads what comes of them.
template <typename T>
void DepthwiseFilters::PackTaps(const T* filters, T* packed) const {
  std::fill_n(packed, taps_ * lanes_, T{});
  for (int64_t tap = 0; tap < taps_; ++tap) {
    std::copy_n(filters + tap * channels_, channels_, packed + tap * lanes_);
  }
}

template <typename T>
void DepthwiseFilters::PackWindows(const T* filters, T* packed) const {
  std::fill_n(packed, WindowBytes() / sizeof(T), T{});
  for (int64_t row = 0; row < kWindow; ++row) {
    for (int64_t column = 0; column < kWindow; ++column) {
      const int64_t group = column * kGroups<T> + row / kTogether<T>;
      T* to = packed + group * lanes_ * kTogether<T> + row % kTogether<T>;
      for (int64_t c = 0; c < channels_; ++c) {
        to[c * kTogether<T>] = *filters++;
      }
    }
  }
}

template <typename T>
void DepthwiseFilters::PackStarts(const T* filters, uint32_t* starts) const {
  std::fill_n(starts, lanes_, 0);
  for (int64_t tap = 0; tap < taps_; ++tap) {
    for (int64_t c = 0; c < channels_; ++c) {
      starts[c] -= kThird * static_cast<uint32_t>(*filters++);
    }
  }
}

}  // namespace internal
}  // namespace keras_adder
