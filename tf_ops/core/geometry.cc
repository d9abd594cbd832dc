#include "core/geometry.h"

#include <algorithm>
#include <initializer_list>
#include <limits>

namespace keras_adder {
namespace {

constexpr int64_t kMaxAttribute = std::numeric_limits<int32_t>::max();

// Sizes and products of sizes stay below this, so that sums and byte counts of
// them cannot overflow either, with channels padded to whole blocks, six sums
// beside packed filters, and scratch memory for some thousand threads.
constexpr int64_t kMaxElements = int64_t{1} << 46;

// Each tap along an axis takes some hundred bytes of a plan, and some thousand
// of packed filters where there are few channels.
constexpr int64_t kMaxKernel = 1 << 16;

struct AxisIndices {
  int batch, height, width, channel;
};

AxisIndices IndicesOf(DataFormat format) {
  if (format == DataFormat::kNHWC) return {0, 1, 2, 3};
  return {0, 2, 3, 1};
}

std::string Text(const std::vector<int64_t>& values) {
  std::string text = "[";
  for (size_t i = 0; i < values.size(); ++i) {
    if (i > 0) text += ", ";
    if (i == 16) return text + "...]";
    text += std::to_string(values[i]);
  }
  return text + "]";
}

Error ParseSteps(const char* name, const std::vector<int64_t>& values,
                 const AxisIndices& at, int64_t* height, int64_t* width) {
  const std::string received =
      " Received: " + std::string(name) + "=" + Text(values);
  if (values.size() != 4) {
    return std::string(name) + " must have four entries." + received;
  }
  if (values[at.batch] != 1 || values[at.channel] != 1) {
    return std::string(name) +
           " must be 1 in the batch and the channel dimension." + received;
  }
  *height = values[at.height];
  *width = values[at.width];
  for (const int64_t value : {*height, *width}) {
    if (value < 1 || value > kMaxAttribute) {
      return std::string(name) + " must lie between 1 and 2^31 - 1." + received;
    }
  }
  return "";
}

Error ParseExplicit(const std::vector<int64_t>& paddings, const AxisIndices& at,
                    Attributes* attributes) {
  const std::string received = " Received: explicit_paddings=" + Text(paddings);
  if (attributes->padding != Padding::kExplicit) {
    if (paddings.empty()) return "";
    return "explicit_paddings must be empty unless padding is \"EXPLICIT\"." +
           received;
  }
  if (paddings.size() != 8) {
    return "explicit_paddings must have eight entries with padding "
           "\"EXPLICIT\"." +
           received;
  }
  for (const int64_t value : paddings) {
    if (value < 0 || value > kMaxAttribute) {
      return "explicit_paddings must lie between 0 and 2^31 - 1." + received;
    }
  }
  for (const int axis : {at.batch, at.channel}) {
    if (paddings[2 * axis] != 0 || paddings[2 * axis + 1] != 0) {
      return "explicit_paddings must be 0 in the batch and the channel "
             "dimension." +
             received;
    }
  }
  attributes->height.pad_before = paddings[2 * at.height];
  attributes->height.pad_after = paddings[2 * at.height + 1];
  attributes->width.pad_before = paddings[2 * at.width];
  attributes->width.pad_after = paddings[2 * at.width + 1];
  return "";
}

// The product of sizes, or -1 if that of all that are not 0 is too large to be
// handled safely: sizes of an empty tensor are multiplied, too.
int64_t CheckedProduct(std::initializer_list<int64_t> sizes) {
  int64_t product = 1;
  bool empty = false;
  for (const int64_t size : sizes) {
    if (size == 0) {
      empty = true;
    } else if (size < 0 || product > kMaxElements / size) {
      return -1;
    } else {
      product *= size;
    }
  }
  return empty ? 0 : product;
}

ImageStrides DenseImageStrides(DataFormat format, int64_t height, int64_t width,
                               int64_t channels) {
  ImageStrides strides;
  if (format == DataFormat::kNHWC) {
    strides.channel = 1;
    strides.width = channels;
    strides.height = width * channels;
  } else {
    strides.width = 1;
    strides.height = width;
    strides.channel = height * width;
  }
  strides.batch = height * width * channels;
  return strides;
}

Error CheckSizes(const Geometry& geometry) {
  const Axis& height = geometry.height;
  const Axis& width = geometry.width;
  if (CheckedProduct({geometry.batch, height.output, width.output,
                      geometry.out_channels}) < 0 ||
      CheckedProduct({geometry.batch, height.input, width.input,
                      geometry.in_channels}) < 0 ||
      CheckedProduct({height.kernel, width.kernel, geometry.group_in(),
                      geometry.out_channels}) < 0) {
    return "The tensors have too many elements";
  }
  // Explicit padding is the one attribute by which a few bytes of model could
  // ask for gigabytes of output.
  const int64_t outputs = height.output * width.output;
  const int64_t inputs = height.input * width.input;
  if (outputs / 16 > inputs + 4096) {
    return "Padding must not make the output many times larger than the "
           "input. Received: " +
           std::to_string(height.input) + "x" + std::to_string(width.input) +
           " pixels in, " + std::to_string(height.output) + "x" +
           std::to_string(width.output) + " out";
  }
  return "";
}

}  // namespace

Error ParseAttributes(const std::string& data_format,
                      const std::string& padding,
                      const std::vector<int64_t>& explicit_paddings,
                      const std::vector<int64_t>& strides,
                      const std::vector<int64_t>& dilations,
                      Attributes* attributes) {
  if (data_format == "NHWC") {
    attributes->data_format = DataFormat::kNHWC;
  } else if (data_format == "NCHW") {
    attributes->data_format = DataFormat::kNCHW;
  } else {
    return "data_format must be \"NHWC\" or \"NCHW\". Received: data_format=" +
           data_format;
  }
  if (padding == "VALID") {
    attributes->padding = Padding::kValid;
  } else if (padding == "SAME") {
    attributes->padding = Padding::kSame;
  } else if (padding == "EXPLICIT") {
    attributes->padding = Padding::kExplicit;
  } else {
    return "padding must be \"VALID\", \"SAME\" or \"EXPLICIT\". Received: "
           "padding=" +
           padding;
  }
  const AxisIndices at = IndicesOf(attributes->data_format);
  Error error = ParseSteps("strides", strides, at, &attributes->height.stride,
                           &attributes->width.stride);
  if (!error.empty()) return error;
  error = ParseSteps("dilations", dilations, at, &attributes->height.dilation,
                     &attributes->width.dilation);
  if (!error.empty()) return error;
  return ParseExplicit(explicit_paddings, at, attributes);
}

Error ParseFilterGradientMode(const std::string& name,
                              FilterGradientMode* mode) {
  if (name == "full_precision") {
    *mode = FilterGradientMode::kFullPrecision;
  } else if (name == "sign") {
    *mode = FilterGradientMode::kSign;
  } else {
    return "filter_gradient must be \"full_precision\" or \"sign\". Received: "
           "filter_gradient=" +
           name;
  }
  return "";
}

Error MakeAxis(const char* name, int64_t input, int64_t kernel, Padding padding,
               const AxisAttributes& attributes, Axis* axis) {
  if (kernel < 1) {
    return "The filters' " + std::string(name) +
           " must be at least 1. "
           "Received: " +
           std::to_string(kernel);
  }
  if (input < 0 || input > kMaxElements || kernel > kMaxKernel) {
    return "The " + std::string(name) + " is too large. Received: input " +
           std::to_string(input) + ", filters " + std::to_string(kernel);
  }
  const int64_t stride = attributes.stride;
  const int64_t dilated = (kernel - 1) * attributes.dilation + 1;
  *axis = Axis{input, kernel, 0, stride, attributes.dilation, 0};
  if (padding == Padding::kSame) {
    axis->output = input / stride + (input % stride != 0);
    if (axis->output > 0) {
      const int64_t padded = (axis->output - 1) * stride + dilated;
      axis->pad_before = std::max<int64_t>(padded - input, 0) / 2;
    }
    return "";
  }
  int64_t padded = input;
  if (padding == Padding::kExplicit) {
    if (attributes.pad_before > dilated || attributes.pad_after > dilated) {
      return "explicit_paddings must not exceed the dilated filter. Received: "
             "padding (" +
             std::to_string(attributes.pad_before) + ", " +
             std::to_string(attributes.pad_after) + ") of the " + name +
             " for a dilated filter of " + std::to_string(dilated);
    }
    axis->pad_before = attributes.pad_before;
    padded += attributes.pad_before + attributes.pad_after;
  }
  if (padded - dilated + stride < 0) {
    return "The output would have a negative " + std::string(name) +
           ". Received: padded input " + std::to_string(padded) +
           ", dilated filter " + std::to_string(dilated) + ", stride " +
           std::to_string(stride);
  }
  axis->output = (padded - dilated + stride) / stride;
  return "";
}

Error CheckChannels(int64_t in_channels, int64_t filter_in,
                    int64_t out_channels, int64_t* groups) {
  const std::string received = " Received: " + std::to_string(in_channels) +
                               " input channels, filters "
                               "of " +
                               std::to_string(filter_in) + " input and " +
                               std::to_string(out_channels) +
                               " output channels";
  if (filter_in < 1 || in_channels < 1 || in_channels % filter_in != 0) {
    return "The filters' input channels must divide the input's channels." +
           received;
  }
  *groups = in_channels / filter_in;
  if (out_channels % *groups != 0) {
    return "The number of groups must divide the output channels." + received;
  }
  return "";
}

Error MakeGeometry(const Attributes& attributes,
                   const std::array<int64_t, 4>& input_shape,
                   const std::array<int64_t, 4>& filter_shape,
                   Geometry* geometry) {
  const AxisIndices at = IndicesOf(attributes.data_format);
  geometry->batch = input_shape[at.batch];
  geometry->in_channels = input_shape[at.channel];
  geometry->out_channels = filter_shape[3];
  Error error = CheckChannels(geometry->in_channels, filter_shape[2],
                              geometry->out_channels, &geometry->groups);
  if (!error.empty()) return error;
  error = MakeAxis("height", input_shape[at.height], filter_shape[0],
                   attributes.padding, attributes.height, &geometry->height);
  if (!error.empty()) return error;
  error = MakeAxis("width", input_shape[at.width], filter_shape[1],
                   attributes.padding, attributes.width, &geometry->width);
  if (!error.empty()) return error;
  error = CheckSizes(*geometry);
  if (!error.empty()) return error;
  geometry->input_strides =
      DenseImageStrides(attributes.data_format, geometry->height.input,
                        geometry->width.input, geometry->in_channels);
  geometry->output_strides =
      DenseImageStrides(attributes.data_format, geometry->height.output,
                        geometry->width.output, geometry->out_channels);
  return "";
}

std::array<int64_t, 4> OutputShape(const Geometry& geometry,
                                   DataFormat data_format) {
  const AxisIndices at = IndicesOf(data_format);
  std::array<int64_t, 4> shape;
  shape[at.batch] = geometry.batch;
  shape[at.height] = geometry.height.output;
  shape[at.width] = geometry.width.output;
  shape[at.channel] = geometry.out_channels;
  return shape;
}

namespace {

bool IsPointwise(const Axis& axis) {
  return axis.kernel == 1 && axis.stride == 1 && axis.pad_before == 0 &&
         axis.input == axis.output;
}

bool IsOneRun(const ImageStrides& strides, int64_t pixels) {
  return strides.batch == strides.width * pixels;
}

Axis RowOf(int64_t pixels) {
  Axis axis;
  axis.input = axis.output = pixels;
  axis.kernel = 1;
  return axis;
}

}  // namespace

Geometry Folded(const Geometry& geometry) {
  if (!IsPointwise(geometry.height) || !IsPointwise(geometry.width) ||
      geometry.im2row.used()) {
    return geometry;
  }
  Geometry folded = geometry;
  const int64_t pixels = geometry.height.input * geometry.width.input;
  folded.height = RowOf(1);
  folded.width = RowOf(pixels);
  if (IsOneRun(geometry.input_strides, pixels) &&
      IsOneRun(geometry.output_strides, pixels)) {
    folded.width = RowOf(geometry.batch * pixels);
    folded.batch = 1;
  }
  return folded;
}

}  // namespace keras_adder
