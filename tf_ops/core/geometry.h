// The geometry of one adder convolution: parsed and checked once, trusted by
// everything below it.
//
// Two steps, because an op learns them at different times: attributes when the
// op is constructed, shapes when it runs. Both come from a SavedModel, which is
// untrusted input, so every value is checked here and nowhere else.

#ifndef KERAS_ADDER_CORE_GEOMETRY_H_
#define KERAS_ADDER_CORE_GEOMETRY_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace keras_adder {

enum class DataFormat { kNHWC, kNCHW };
enum class Padding { kValid, kSame, kExplicit };
enum class FilterGradientMode { kFullPrecision, kSign };

// Errors are returned as text; an empty string means that all is well.
using Error = std::string;

// One spatial axis (height or width) of the attributes.
struct AxisAttributes {
  int64_t stride = 1;
  int64_t dilation = 1;
  int64_t pad_before = 0;  // used by Padding::kExplicit alone
  int64_t pad_after = 0;
};

struct Attributes {
  DataFormat data_format = DataFormat::kNHWC;
  Padding padding = Padding::kValid;
  AxisAttributes height;
  AxisAttributes width;
};

// Parses TensorFlow's attributes. `strides` and `dilations` have four entries
// in the order of `data_format`; `explicit_paddings` has eight with padding
// "EXPLICIT" and none otherwise.
Error ParseAttributes(const std::string& data_format,
                      const std::string& padding,
                      const std::vector<int64_t>& explicit_paddings,
                      const std::vector<int64_t>& strides,
                      const std::vector<int64_t>& dilations,
                      Attributes* attributes);

Error ParseFilterGradientMode(const std::string& name,
                              FilterGradientMode* mode);

// One spatial axis of a convolution.
struct Axis {
  int64_t input = 0;
  int64_t kernel = 0;
  int64_t output = 0;
  int64_t stride = 1;
  int64_t dilation = 1;
  int64_t pad_before = 0;

  // The input position that an output meets under a tap.
  int64_t Position(int64_t at, int64_t tap) const {
    return at * stride + tap * dilation - pad_before;
  }
};

// Output size and padding of one axis with known sizes. `name` ("height",
// "width") is used in the error.
Error MakeAxis(const char* name, int64_t input, int64_t kernel, Padding padding,
               const AxisAttributes& attributes, Axis* axis);

// Distances, in elements, between neighbours of an image tensor.
struct ImageStrides {
  int64_t batch = 0;
  int64_t height = 0;
  int64_t width = 0;
  int64_t channel = 0;
};

// Pixels that are what a window of taps sees of an image, see im2row.h.
// `channels` is the number of the image's own, 0 for ordinary pixels.
struct Im2row {
  int64_t channels = 0;
  Axis height, width;

  bool used() const { return channels > 0; }
  // Elements of a row of the window, and of an image.
  int64_t row_elements() const { return width.kernel * channels; }
  int64_t image_elements() const {
    return height.input * width.input * channels;
  }
};

struct Geometry {
  int64_t batch = 0;
  int64_t in_channels = 0;
  int64_t out_channels = 0;
  int64_t groups = 1;
  Axis height;
  Axis width;
  ImageStrides input_strides;   // of the input and of its gradient
  ImageStrides output_strides;  // of the output and of its gradient
  Im2row im2row;                // of the input

  // Filters lie as (kernel height, kernel width, group_in, out_channels).
  int64_t group_in() const { return in_channels / groups; }
  int64_t group_out() const { return out_channels / groups; }
  int64_t kernel_taps() const { return height.kernel * width.kernel; }
  int64_t filter_size() const {
    return kernel_taps() * group_in() * out_channels;
  }
  int64_t input_size() const {
    const int64_t rows = im2row.used() ? im2row.height.input : height.input;
    const int64_t columns = im2row.used() ? im2row.width.input : width.input;
    return batch * rows * columns *
           (im2row.used() ? im2row.channels : in_channels);
  }
  int64_t output_size() const {
    return batch * height.output * width.output * out_channels;
  }
};

// Checks channel counts against each other and derives the number of groups.
Error CheckChannels(int64_t in_channels, int64_t filter_in,
                    int64_t out_channels, int64_t* groups);

// Checks the shapes of an input (four dimensions in the order of the data
// format) and of filters (kernel height, kernel width, input channels per
// group, output channels) against each other and derives the geometry.
Error MakeGeometry(const Attributes& attributes,
                   const std::array<int64_t, 4>& input_shape,
                   const std::array<int64_t, 4>& filter_shape,
                   Geometry* geometry);

// The output's dimensions, in the order of the data format.
std::array<int64_t, 4> OutputShape(const Geometry& geometry,
                                   DataFormat data_format);

// An equal convolution that is easier to tile: a 1x1 convolution without
// stride and padding sees every pixel alike, so batch, rows and columns become
// one long row wherever memory allows it.
Geometry Folded(const Geometry& geometry);

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_GEOMETRY_H_
