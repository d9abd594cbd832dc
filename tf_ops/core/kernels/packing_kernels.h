// Moves pixels between tensors, of any type and layout, and tiles.

#ifndef KERAS_ADDER_CORE_KERNELS_PACKING_KERNELS_H_
#define KERAS_ADDER_CORE_KERNELS_PACKING_KERNELS_H_

#include <cstring>
#include <type_traits>

#include "core/kernels/convert.h"
#include "core/kernels/kernels.h"
#include "core/kernels/lanes.h"
#include "core/kernels/vector.h"

namespace keras_adder {
namespace {

template <typename T, typename C>
inline void ReadLanes(const T* from, C* to) {
#pragma GCC unroll 16
  for (int lane = 0; lane < kLanes; ++lane) to[lane] = Read(from[lane]);
}

template <typename C, typename T>
inline void WriteLanes(const C* from, T* to) {
#pragma GCC unroll 16
  for (int lane = 0; lane < kLanes; ++lane) to[lane] = Write<T>(from[lane]);
}

template <typename C, typename T>
inline Vector<C> LoadAs(const T* from) {
  if constexpr (std::is_same_v<C, T>) {
    return Load(from);
  } else {
    C values[kWidth<C>];
    for (int i = 0; i < kWidth<C>; ++i) values[i] = Read(from[i]);
    return Load(values);
  }
}

template <typename C, typename T>
inline Vector<C> LoadLanesAs(const T* from, int first, int end) {
  if constexpr (std::is_same_v<C, T>) {
    return LoadLanes(from, first, end);
  } else {
    C values[kWidth<C>];
    for (int i = 0; i < kWidth<C>; ++i) {
      values[i] = i >= first && i < end ? Read(from[i]) : C{0};
    }
    return Load(values);
  }
}

template <typename C, typename T>
inline void StoreAs(Vector<C> value, T* to) {
  if constexpr (std::is_same_v<C, T>) {
    Store(value, to);
  } else {
    C values[kWidth<C>];
    Store(value, values);
    for (int i = 0; i < kWidth<C>; ++i) to[i] = Write<T>(values[i]);
  }
}

// Where the pixels of a channel are neighbours, rather than the channels of a
// pixel: kWidth<C> of either at a time. These return how many pixels they took.
template <typename T, typename C>
int64_t PackTransposed(const T* tensor, const PixelSpan& span, C* tile) {
  int64_t pixel = 0;
  for (; pixel + kWidth<C> <= span.count; pixel += kWidth<C>) {
    for (int lane = 0; lane < kLanes; lane += kWidth<C>) {
      Vector<C> rows[kWidth<C>];
#pragma GCC unroll 16
      for (int i = 0; i < kWidth<C>; ++i) {
        const T* const from = tensor + (lane + i) * span.channel_stride + pixel;
        rows[i] = lane + i < span.channels ? LoadAs<C>(from) : Vector<C>{};
      }
      Transpose<C>(rows);
#pragma GCC unroll 16
      for (int i = 0; i < kWidth<C>; ++i) {
        Store(rows[i], tile + (pixel + i) * kLanes + lane);
      }
    }
  }
  return pixel;
}

template <typename T, typename C>
int64_t UnpackTransposed(const C* tile, const PixelSpan& span, T* tensor) {
  int64_t pixel = 0;
  for (; pixel + kWidth<C> <= span.count; pixel += kWidth<C>) {
    for (int lane = 0; lane < span.channels; lane += kWidth<C>) {
      Vector<C> rows[kWidth<C>];
#pragma GCC unroll 16
      for (int i = 0; i < kWidth<C>; ++i) {
        rows[i] = Load(tile + (pixel + i) * kLanes + lane);
      }
      Transpose<C>(rows);
#pragma GCC unroll 16
      for (int i = 0; i < kWidth<C>; ++i) {
        if (lane + i >= span.channels) break;
        StoreAs<C>(rows[i], tensor + (lane + i) * span.channel_stride + pixel);
      }
    }
  }
  return pixel;
}

// Some lanes of each pixel. Those behind them become zero, and add nothing when
// others come to lie there.
template <typename T, typename C>
void PackLanes(const T* tensor, const PixelSpan& span, C* tile) {
  const int first = span.first_lane, end = first + span.channels;
  for (int64_t i = 0; i < span.count; ++i) {
#pragma GCC unroll 8
    for (int lane = 0; lane < kLanes; lane += kWidth<C>) {
      Vector<C> value =
          LoadLanesAs<C>(tensor - first + lane, first - lane, end - lane);
      if (first > 0) value += Load(tile + lane);
      Store(value, tile + lane);
    }
    tensor += span.pixel_stride;
    tile += kLanes;
  }
}

template <typename T, typename C>
void Pack(const T* tensor, const PixelSpan& span, C* tile) {
  if (span.channel_stride == 1 && span.channels == kLanes) {
    for (int64_t i = 0; i < span.count; ++i) {
      for (int64_t block = 0; block < span.blocks; ++block) {
        ReadLanes(tensor + block * kLanes, tile + block * span.block_stride);
      }
      tensor += span.pixel_stride;
      tile += kLanes;
    }
    return;
  }
  if (span.channel_stride == 1) return PackLanes(tensor, span, tile);
  const int64_t done =
      span.pixel_stride == 1 ? PackTransposed(tensor, span, tile) : 0;
  if (span.channels < kLanes) {
    std::memset(tile + done * kLanes, 0,
                (span.count - done) * kLanes * sizeof(C));
  }
  for (int lane = 0; lane < span.channels; ++lane) {
    const T* from = tensor + lane * span.channel_stride;
    for (int64_t i = done; i < span.count; ++i) {
      tile[i * kLanes + lane] = Read(from[i * span.pixel_stride]);
    }
  }
}

template <typename T, typename C>
void Unpack(const C* tile, const PixelSpan& span, T* tensor) {
  if (span.channel_stride == 1 && span.channels == kLanes) {
    for (int64_t i = 0; i < span.count; ++i) {
      for (int64_t block = 0; block < span.blocks; ++block) {
        WriteLanes(tile + block * span.block_stride, tensor + block * kLanes);
      }
      tensor += span.pixel_stride;
      tile += kLanes;
    }
    return;
  }
  const int64_t done =
      span.pixel_stride == 1 ? UnpackTransposed(tile, span, tensor) : 0;
  for (int lane = 0; lane < span.channels; ++lane) {
    T* to = tensor + lane * span.channel_stride;
    for (int64_t i = done; i < span.count; ++i) {
      to[i * span.pixel_stride] = Write<T>(tile[i * kLanes + lane]);
    }
  }
}

}  // namespace
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_KERNELS_PACKING_KERNELS_H_
