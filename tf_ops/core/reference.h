// The three passes as their formulas say them: one loop an index, no blocking,
// no vectors, one thread. This is where to read what the fast passes compute,
// and what they are tested against.
//
// Sums are in double, whatever the type of the tensors.

#ifndef KERAS_ADDER_CORE_REFERENCE_H_
#define KERAS_ADDER_CORE_REFERENCE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/geometry.h"

namespace keras_adder {
namespace reference {

// Calls visit(n, oh, ow, t, ih, iw, c, filter) for every pair of an output and
// a filter tap under it. `c` counts all input channels, `filter` is an index
// into the filters; (ih, iw) may lie in the padding.
template <typename Visit>
void ForEachPair(const Geometry& geometry, const Visit& visit) {
  const Axis& height = geometry.height;
  const Axis& width = geometry.width;
  const int64_t group_in = geometry.group_in();
  for (int64_t n = 0; n < geometry.batch; ++n) {
    for (int64_t oh = 0; oh < height.output; ++oh) {
      for (int64_t ow = 0; ow < width.output; ++ow) {
        for (int64_t t = 0; t < geometry.out_channels; ++t) {
          const int64_t group = t / geometry.group_out();
          for (int64_t i = 0; i < height.kernel; ++i) {
            for (int64_t j = 0; j < width.kernel; ++j) {
              const int64_t ih =
                  oh * height.stride + i * height.dilation - height.pad_before;
              const int64_t iw =
                  ow * width.stride + j * width.dilation - width.pad_before;
              for (int64_t k = 0; k < group_in; ++k) {
                visit(n, oh, ow, t, ih, iw, group * group_in + k,
                      ((i * width.kernel + j) * group_in + k) *
                              geometry.out_channels +
                          t);
              }
            }
          }
        }
      }
    }
  }
}

inline int64_t At(const ImageStrides& strides, int64_t n, int64_t h, int64_t w,
                  int64_t c) {
  return n * strides.batch + h * strides.height + w * strides.width +
         c * strides.channel;
}

inline bool InPadding(const Geometry& geometry, int64_t ih, int64_t iw) {
  return ih < 0 || ih >= geometry.height.input || iw < 0 ||
         iw >= geometry.width.input;
}

// output = -sum |x - f|, padding being zeros.
template <typename C>
void Forward(const Geometry& geometry, const C* x, const C* f, double* output) {
  std::fill_n(output, geometry.output_size(), 0.0);
  ForEachPair(geometry, [&](int64_t n, int64_t oh, int64_t ow, int64_t t,
                            int64_t ih, int64_t iw, int64_t c, int64_t filter) {
    const double value = InPadding(geometry, ih, iw)
                             ? 0.0
                             : x[At(geometry.input_strides, n, ih, iw, c)];
    output[At(geometry.output_strides, n, oh, ow, t)] -=
        std::abs(value - f[filter]);
  });
}

// input_gradient = sum g HT(f - x)
template <typename C>
void InputGradient(const Geometry& geometry, const C* x, const C* f, const C* g,
                   double* input_gradient) {
  std::fill_n(input_gradient, geometry.input_size(), 0.0);
  ForEachPair(geometry, [&](int64_t n, int64_t oh, int64_t ow, int64_t t,
                            int64_t ih, int64_t iw, int64_t c, int64_t filter) {
    if (InPadding(geometry, ih, iw)) return;
    const int64_t at = At(geometry.input_strides, n, ih, iw, c);
    const double difference = static_cast<double>(f[filter]) - x[at];
    // In this order a NaN stays one.
    const double slope = std::min(std::max(difference, -1.0), 1.0);
    input_gradient[at] += g[At(geometry.output_strides, n, oh, ow, t)] * slope;
  });
}

// filter_gradient = sum g (x - f), or sum g sign(x - f)
template <typename C>
void FilterGradient(const Geometry& geometry, FilterGradientMode mode,
                    const C* x, const C* f, const C* g,
                    double* filter_gradient) {
  std::fill_n(filter_gradient, geometry.filter_size(), 0.0);
  ForEachPair(geometry, [&](int64_t n, int64_t oh, int64_t ow, int64_t t,
                            int64_t ih, int64_t iw, int64_t c, int64_t filter) {
    double slope = InPadding(geometry, ih, iw)
                       ? 0.0
                       : x[At(geometry.input_strides, n, ih, iw, c)];
    slope -= f[filter];
    if (mode == FilterGradientMode::kSign) {
      slope = slope > 0 ? 1 : slope < 0 ? -1 : slope;
    }
    filter_gradient[filter] +=
        g[At(geometry.output_strides, n, oh, ow, t)] * slope;
  });
}

}  // namespace reference
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_REFERENCE_H_
