// The general kernels: one element of a result at a time, 64-bit indices, no
// assumption about sizes. float64 and whatever does not fit a tile comes here.

#ifndef KERAS_ADDER_CUDA_GENERAL_H_
#define KERAS_ADDER_CUDA_GENERAL_H_

#include "cuda/element.h"

namespace keras_adder {
namespace cuda {

constexpr int kGeneralThreads = 128;

// A call and its tensors.
struct Request {
  KerasAdderCall call;
  const void* input;
  const void* filters;
  const void* gradient;
  void* result;
};

struct Position {
  int64_t batch;
  int64_t height;
  int64_t width;
  int64_t channel;
};

// Where an element of a dense image tensor lies, and the element that lies
// there.
KERAS_ADDER_HD Position PositionOf(int64_t index, int64_t height, int64_t width,
                                   int64_t channels, bool channels_first) {
  Position at;
  if (channels_first) {
    at.width = index % width;
    index /= width;
    at.height = index % height;
    index /= height;
    at.channel = index % channels;
    at.batch = index / channels;
  } else {
    at.channel = index % channels;
    index /= channels;
    at.width = index % width;
    index /= width;
    at.height = index % height;
    at.batch = index / height;
  }
  return at;
}

KERAS_ADDER_HD int64_t IndexOf(const Position& at, int64_t height,
                               int64_t width, int64_t channels,
                               bool channels_first) {
  if (channels_first) {
    return ((at.batch * channels + at.channel) * height + at.height) * width +
           at.width;
  }
  return ((at.batch * height + at.height) * width + at.width) * channels +
         at.channel;
}

KERAS_ADDER_HD int64_t InputIndex(const KerasAdderCall& call,
                                  const Position& at) {
  return IndexOf(at, call.height.input, call.width.input, call.in_channels,
                 call.channels_first != 0);
}

KERAS_ADDER_HD int64_t OutputIndex(const KerasAdderCall& call,
                                   const Position& at) {
  return IndexOf(at, call.height.output, call.width.output, call.out_channels,
                 call.channels_first != 0);
}

KERAS_ADDER_HD int64_t FilterIndex(const KerasAdderCall& call, int64_t i,
                                   int64_t j, int64_t k, int64_t t) {
  const int64_t group_in = call.in_channels / call.groups;
  return ((i * call.width.kernel + j) * group_in + k) * call.out_channels + t;
}

KERAS_ADDER_HD bool Inside(const KerasAdderAxis& axis, int64_t position) {
  return position >= 0 && position < axis.input;
}

// A long sum in two stages: at most 128 terms in `Sum`, and those in double.
template <typename Sum>
class LongSum {
 public:
  KERAS_ADDER_HD void Add(Sum term) {
    part_ += term;
    if (++terms_ == 128) Flush();
  }
  KERAS_ADDER_HD double Total() {
    Flush();
    return total_;
  }
  // Which no further term changes. Of the parts so far and the current one, so
  // that most terms cost a comparison of `Sum`.
  KERAS_ADDER_HD bool IsNaN() const {
    return part_ != part_ || (terms_ == 0 && total_ != total_);
  }

 private:
  KERAS_ADDER_HD void Flush() {
    total_ += static_cast<double>(part_);
    part_ = 0;
    terms_ = 0;
  }
  double total_ = 0;
  Sum part_ = 0;
  int terms_ = 0;
};

template <typename Sum>
KERAS_ADDER_HD double GeneralForward(const Request& request, int64_t index) {
  const KerasAdderCall& call = request.call;
  const KerasAdderAxis& height = call.height;
  const KerasAdderAxis& width = call.width;
  const Position out = PositionOf(index, height.output, width.output,
                                  call.out_channels, call.channels_first != 0);
  const int64_t group_in = call.in_channels / call.groups;
  const int64_t first =
      out.channel / (call.out_channels / call.groups) * group_in;
  LongSum<Sum> sum;
  for (int64_t i = 0; i < height.kernel; ++i) {
    for (int64_t j = 0; j < width.kernel; ++j) {
      Position in = {
          out.batch,
          out.height * height.stride + i * height.dilation - height.pad_before,
          out.width * width.stride + j * width.dilation - width.pad_before, 0};
      const bool inside = Inside(height, in.height) && Inside(width, in.width);
      for (int64_t k = 0; k < group_in; ++k) {
        in.channel = first + k;
        const Sum x = inside ? Elements<Sum>::Load(request.input, call.type,
                                                   InputIndex(call, in))
                             : Sum(0);
        const Sum difference =
            x - Elements<Sum>::Load(request.filters, call.type,
                                    FilterIndex(call, i, j, k, out.channel));
        sum.Add(difference < 0 ? -difference : difference);
      }
    }
  }
  return -sum.Total();
}

// The position of the output that a tap of the filters relates to a position
// of the input. False if there is none.
KERAS_ADDER_HD bool OutputOf(const KerasAdderAxis& axis, int64_t input,
                             int64_t tap, int64_t* output) {
  const int64_t scaled = input + axis.pad_before - tap * axis.dilation;
  if (scaled < 0 || scaled % axis.stride != 0) return false;
  *output = scaled / axis.stride;
  return *output < axis.output;
}

template <typename Sum>
KERAS_ADDER_HD double GeneralInputGradient(const Request& request,
                                           int64_t index) {
  const KerasAdderCall& call = request.call;
  const Position in = PositionOf(index, call.height.input, call.width.input,
                                 call.in_channels, call.channels_first != 0);
  const int64_t group_in = call.in_channels / call.groups;
  const int64_t group_out = call.out_channels / call.groups;
  const int64_t first = in.channel / group_in * group_out;
  const Sum x = Elements<Sum>::Load(request.input, call.type, index);
  LongSum<Sum> sum;
  Position out = {in.batch, 0, 0, 0};
  for (int64_t i = 0; i < call.height.kernel; ++i) {
    if (!OutputOf(call.height, in.height, i, &out.height)) continue;
    for (int64_t j = 0; j < call.width.kernel; ++j) {
      if (!OutputOf(call.width, in.width, j, &out.width)) continue;
      for (int64_t t = first; t < first + group_out; ++t) {
        out.channel = t;
        const Sum f = Elements<Sum>::Load(
            request.filters, call.type,
            FilterIndex(call, i, j, in.channel % group_in, t));
        const Sum g = Elements<Sum>::Load(request.gradient, call.output_type,
                                          OutputIndex(call, out));
        sum.Add(g * HardTanh(f - x));
        // In a training that has diverged every element comes here to be
        // repaired (below), and the first term says that it is NaN.
        if (sum.IsNaN()) return sum.Total();
      }
    }
  }
  return sum.Total();
}

// What one of a block's threads adds to the gradient of a filter element: every
// kGeneralThreads-th pixel.
template <typename Sum>
KERAS_ADDER_HD double GeneralFilterGradientPart(const Request& request,
                                                int64_t index, int thread) {
  const KerasAdderCall& call = request.call;
  const KerasAdderAxis& height = call.height;
  const KerasAdderAxis& width = call.width;
  const int64_t group_in = call.in_channels / call.groups;
  Position out = {0, 0, 0, index % call.out_channels};
  const int64_t row = index / call.out_channels;
  const int64_t i = row / group_in / width.kernel;
  const int64_t j = row / group_in % width.kernel;
  Position in = {0, 0, 0,
                 out.channel / (call.out_channels / call.groups) * group_in +
                     row % group_in};
  const Sum f = Elements<Sum>::Load(request.filters, call.type, index);
  const int64_t pixels = call.batch * height.output * width.output;
  LongSum<Sum> sum;
  for (int64_t pixel = thread; pixel < pixels; pixel += kGeneralThreads) {
    out.width = pixel % width.output;
    out.height = pixel / width.output % height.output;
    in.batch = out.batch = pixel / width.output / height.output;
    in.height =
        out.height * height.stride + i * height.dilation - height.pad_before;
    in.width = out.width * width.stride + j * width.dilation - width.pad_before;
    const bool inside = Inside(height, in.height) && Inside(width, in.width);
    const Sum x = inside ? Elements<Sum>::Load(request.input, call.type,
                                               InputIndex(call, in))
                         : Sum(0);
    const Sum slope = call.sign ? Sign(x - f) : x - f;
    sum.Add(slope * Elements<Sum>::Load(request.gradient, call.output_type,
                                        OutputIndex(call, out)));
  }
  return sum.Total();
}

// One element of an input gradient that a tile has computed. A tile treats the
// taps that meet no output as ones with a gradient of 0, and 0 * NaN is a NaN
// where there should be nothing: so what came out as NaN is computed again, in
// the way that leaves such taps out.
KERAS_ADDER_HD void RepairInputGradient(const Request& request, int64_t index) {
  const int32_t type = request.call.type;
  const float value = Elements<float>::Load(request.result, type, index);
  if (value == value) return;
  Elements<float>::Store(request.result, type, index,
                         GeneralInputGradient<float>(request, index));
}

}  // namespace cuda
}  // namespace keras_adder

#endif  // KERAS_ADDER_CUDA_GENERAL_H_
