// im2row, to fill lanes where channels are few: the elements under a window of
// taps become the channels of one pixel. No matrix of them is ever stored: they
// are brought into this order when a tile is packed. Where channels and pixels
// are neighbours, each row of a window lies in one piece in the image, and so
// it does in the filters.

#ifndef KERAS_ADDER_CORE_IM2ROW_H_
#define KERAS_ADDER_CORE_IM2ROW_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/axis_plan.h"
#include "core/geometry.h"
#include "core/kernels/kernels.h"

namespace keras_adder {

// These return equal convolutions, or the geometry as it is: that alone where
// channels of neighbouring pixels are not neighbours.
//
// For the forward pass, whose lanes are filters: perhaps im2row of a row of
// taps, for filters of one column.
Geometry ChooseForwardLowering(const Geometry& geometry);
// For gradients, whose lanes are input channels: that, or im2row of whole
// windows for filters of 1x1. All lowerings there are, the fastest first.
std::vector<Geometry> GradientLowerings(const Geometry& geometry);

// Some neighbouring im2row pixels of an image's row.
struct Im2rowSpan {
  int64_t image, row, first, count;
};

namespace internal {

// Calls visit(row, first, lane, count) for the rows of a window that a block of
// `lanes` channels from `channel` on holds: elements first ... first + count -
// 1 of the row are the block's lanes from `lane` on.
template <typename Visit>
void ForEachWindowRow(const Im2row& im2row, int64_t channel, int lanes,
                      const Visit& visit) {
  const int64_t row = im2row.row_elements();
  for (int64_t lane = 0; lane < lanes;) {
    const int64_t first = (channel + lane) % row;
    const int64_t count = std::min(row - first, lanes - lane);
    visit((channel + lane) / row, first, static_cast<int>(lane),
          static_cast<int>(count));
    lane += count;
  }
}

}  // namespace internal

// Packs `lanes` channels of im2row pixels, from `channel` on, into slots of a
// channel block.
template <typename T, typename C>
void PackIm2row(const KernelSet& set, const T* tensor,
                const ImageStrides& strides, const Im2row& im2row,
                const Im2rowSpan& at, int64_t channel, int lanes, C* block) {
  const auto pack = CopiesOf<T>(set).pack;
  const Axis& width = im2row.width;
  const int64_t end = at.first + at.count;
  const auto visit = [&](int64_t i, int64_t first, int lane, int count) {
    const int64_t y = im2row.height.Position(at.row, i);
    if (y < 0 || y >= im2row.height.input) {
      // Lanes behind those of another row are zero already.
      if (lane == 0) std::memset(block, 0, at.count * kLanes * sizeof(C));
      return;
    }
    const T* const row = tensor + at.image * strides.batch + y * strides.height;
    const int64_t size = width.input * im2row.channels;
    const auto start = [&](int64_t pixel) {
      return width.Position(pixel, 0) * im2row.channels + first;
    };
    PixelSpan span{1, count, width.stride * im2row.channels, 1};
    span.first_lane = lane;
    const auto pack_edge = [&](int64_t pixel) {
      T edge[kLanes] = {};
      for (int k = 0; k < count; ++k) {
        const int64_t element = start(pixel) + k;
        if (element >= 0 && element < size) edge[k] = row[element];
      }
      span.count = 1;
      pack(edge, span, block + (pixel - at.first) * kLanes);
    };
    int64_t pixel = at.first;
    for (; pixel < end && start(pixel) < 0; ++pixel) pack_edge(pixel);
    int64_t whole = end;
    while (whole > pixel && start(whole - 1) + count > size) --whole;
    span.count = whole - pixel;
    if (span.count > 0) {
      pack(row + start(pixel), span, block + (pixel - at.first) * kLanes);
    }
    for (pixel = whole; pixel < end; ++pixel) pack_edge(pixel);
  };
  internal::ForEachWindowRow(im2row, channel, lanes, visit);
}

// AddIm2row does the opposite: each element of one image, which lies in one
// piece, gets the sum of all the places added that it has in im2row pixels.
template <typename C>
void AddIm2row(const KernelSet& set, const C* block, const Im2row& im2row,
               const Im2rowSpan& at, int64_t channel, int lanes, C* image) {
  const auto add = KernelsOf<C>(set).add_lanes;
  const int64_t channels = im2row.channels;
  const auto visit = [&](int64_t i, int64_t first, int lane, int count) {
    const int64_t y = im2row.height.Position(at.row, i);
    if (y < 0 || y >= im2row.height.input) return;
    C* const row = image + y * im2row.width.input * channels;
    // Of one tap, im2row pixels do not overlap.
    int64_t taken;
    for (int64_t k = 0; k < count; k += taken) {
      const int64_t tap = (first + k) / channels,
                    in_tap = (first + k) % channels;
      taken = std::min(channels - in_tap, count - k);
      const Range inside = RangeInside(im2row.width, tap, at.first, at.count);
      if (inside.count == 0) continue;
      const int64_t x = im2row.width.Position(at.first + inside.first, tap);
      add(block + inside.first * kLanes + lane + k, inside.count,
          static_cast<int>(taken), im2row.width.stride * channels,
          row + x * channels + in_tap);
    }
  };
  internal::ForEachWindowRow(im2row, channel, lanes, visit);
}

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_IM2ROW_H_
