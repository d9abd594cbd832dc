// The ops' signatures and shape functions.
//
// A saved model depends on every name, type and default in this file: add, but
// never change.

#include <string>
#include <vector>

#include "core/geometry.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace keras_adder {
namespace {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

absl::Status AsStatus(const Error& error) {
  return error.empty() ? absl::OkStatus() : absl::InvalidArgumentError(error);
}

absl::Status ReadAttributes(InferenceContext* c, Attributes* attributes) {
  std::string data_format, padding;
  std::vector<int64_t> explicit_paddings, strides, dilations;
  TF_RETURN_IF_ERROR(c->GetAttr("data_format", &data_format));
  TF_RETURN_IF_ERROR(c->GetAttr("padding", &padding));
  TF_RETURN_IF_ERROR(c->GetAttr("explicit_paddings", &explicit_paddings));
  TF_RETURN_IF_ERROR(c->GetAttr("strides", &strides));
  TF_RETURN_IF_ERROR(c->GetAttr("dilations", &dilations));
  return AsStatus(ParseAttributes(data_format, padding, explicit_paddings,
                                  strides, dilations, attributes));
}

absl::Status CheckOutputType(InferenceContext* c) {
  tensorflow::DataType input, output;
  TF_RETURN_IF_ERROR(c->GetAttr("T", &input));
  TF_RETURN_IF_ERROR(c->GetAttr("output_type", &output));
  const bool reduced =
      input == tensorflow::DT_HALF || input == tensorflow::DT_BFLOAT16;
  if (output == input || (reduced && output == tensorflow::DT_FLOAT)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      "output_type must equal T, or be float with a T of half or bfloat16. "
      "Received: T=" +
      tensorflow::DataTypeString(input) +
      ", output_type=" + tensorflow::DataTypeString(output));
}

absl::Status InferAxis(InferenceContext* c, const char* name,
                       DimensionHandle input, DimensionHandle kernel,
                       Padding padding, const AxisAttributes& attributes,
                       DimensionHandle* output) {
  *output = c->UnknownDim();
  if (!c->ValueKnown(input) || !c->ValueKnown(kernel)) return absl::OkStatus();
  Axis axis;
  TF_RETURN_IF_ERROR(AsStatus(MakeAxis(name, c->Value(input), c->Value(kernel),
                                       padding, attributes, &axis)));
  *output = c->MakeDim(axis.output);
  return absl::OkStatus();
}

// What can be checked of the channels, whatever else is unknown.
absl::Status CheckKnownChannels(InferenceContext* c, DimensionHandle input,
                                ShapeHandle filter) {
  const DimensionHandle filter_in = c->Dim(filter, 2);
  const DimensionHandle out = c->Dim(filter, 3);
  if (!c->ValueKnown(input) || !c->ValueKnown(filter_in) ||
      !c->ValueKnown(out)) {
    return absl::OkStatus();
  }
  int64_t groups;
  return AsStatus(CheckChannels(c->Value(input), c->Value(filter_in),
                                c->Value(out), &groups));
}

// The whole geometry is checked if all sizes are known.
absl::Status CheckKnownShapes(InferenceContext* c, const Attributes& attributes,
                              ShapeHandle input, ShapeHandle filter) {
  if (!c->FullyDefined(input) || !c->FullyDefined(filter)) {
    return absl::OkStatus();
  }
  std::array<int64_t, 4> input_shape, filter_shape;
  for (int i = 0; i < 4; ++i) {
    input_shape[i] = c->Value(c->Dim(input, i));
    filter_shape[i] = c->Value(c->Dim(filter, i));
  }
  Geometry geometry;
  return AsStatus(
      MakeGeometry(attributes, input_shape, filter_shape, &geometry));
}

absl::Status InferOutput(InferenceContext* c, ShapeHandle* output) {
  Attributes attributes;
  TF_RETURN_IF_ERROR(ReadAttributes(c, &attributes));
  ShapeHandle input, filter;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 4, &input));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 4, &filter));
  TF_RETURN_IF_ERROR(CheckKnownShapes(c, attributes, input, filter));
  const bool channels_last = attributes.data_format == DataFormat::kNHWC;
  const int height_at = channels_last ? 1 : 2;
  TF_RETURN_IF_ERROR(
      CheckKnownChannels(c, c->Dim(input, channels_last ? 3 : 1), filter));
  DimensionHandle height, width;
  TF_RETURN_IF_ERROR(InferAxis(c, "height", c->Dim(input, height_at),
                               c->Dim(filter, 0), attributes.padding,
                               attributes.height, &height));
  TF_RETURN_IF_ERROR(InferAxis(c, "width", c->Dim(input, height_at + 1),
                               c->Dim(filter, 1), attributes.padding,
                               attributes.width, &width));
  const DimensionHandle batch = c->Dim(input, 0);
  const DimensionHandle channels = c->Dim(filter, 3);
  *output = channels_last ? c->MakeShape({batch, height, width, channels})
                          : c->MakeShape({batch, channels, height, width});
  return absl::OkStatus();
}

absl::Status ForwardShape(InferenceContext* c) {
  ShapeHandle output;
  TF_RETURN_IF_ERROR(CheckOutputType(c));
  TF_RETURN_IF_ERROR(InferOutput(c, &output));
  c->set_output(0, output);
  return absl::OkStatus();
}

// The gradient with respect to input `wanted` has its shape.
template <int wanted>
absl::Status BackpropShape(InferenceContext* c) {
  ShapeHandle output, gradient, result;
  TF_RETURN_IF_ERROR(CheckOutputType(c));
  TF_RETURN_IF_ERROR(InferOutput(c, &output));
  TF_RETURN_IF_ERROR(c->Merge(output, c->input(2), &gradient));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(wanted), 4, &result));
  c->set_output(0, result);
  return absl::OkStatus();
}

absl::Status BackpropBothShape(InferenceContext* c) {
  TF_RETURN_IF_ERROR(BackpropShape<0>(c));
  ShapeHandle filter;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 4, &filter));
  c->set_output(1, filter);
  return absl::OkStatus();
}

// Of multiplier and offset: one number for each output channel, or none.
absl::Status CheckChannelValues(InferenceContext* c, int input,
                                DimensionHandle channels) {
  ShapeHandle shape;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(input), 1, &shape));
  const DimensionHandle size = c->Dim(shape, 0);
  if (c->ValueKnown(size) && c->Value(size) == 0) return absl::OkStatus();
  DimensionHandle merged;
  return c->Merge(size, channels, &merged);
}

absl::Status FusedShape(InferenceContext* c) {
  ShapeHandle output;
  TF_RETURN_IF_ERROR(InferOutput(c, &output));
  const DimensionHandle channels = c->Dim(c->input(1), 3);
  TF_RETURN_IF_ERROR(CheckChannelValues(c, 2, channels));
  TF_RETURN_IF_ERROR(CheckChannelValues(c, 3, channels));
  for (int i = 4; i < c->num_inputs(); ++i) {
    TF_RETURN_IF_ERROR(c->Merge(output, c->input(i), &output));
  }
  c->set_output(0, output);
  return absl::OkStatus();
}

}  // namespace

#define KERAS_ADDER_GEOMETRY                          \
  Attr("strides: list(int)")                          \
      .Attr("padding: {'SAME', 'VALID', 'EXPLICIT'}") \
      .Attr("explicit_paddings: list(int) = []")      \
      .Attr("data_format: {'NHWC', 'NCHW'} = 'NHWC'") \
      .Attr("dilations: list(int) = [1, 1, 1, 1]")

#define KERAS_ADDER_ATTRIBUTES                              \
  Attr("T: {half, bfloat16, float, double}")                \
      .Attr("output_type: {half, bfloat16, float, double}") \
      .KERAS_ADDER_GEOMETRY

REGISTER_OP("KerasAdder>AdderConv2D")
    .Input("input: T")
    .Input("filter: T")
    .Output("output: output_type")
    .KERAS_ADDER_ATTRIBUTES
    .Attr("filter_gradient: {'full_precision', 'sign'} = 'full_precision'")
    .SetShapeFn(ForwardShape)
    .Doc(R"doc(
Negated l1 distance between filters and the patches under them (AdderNet, CVPR
2020, equation 2). Attributes and shapes are those of Conv2D; padding is zeros.

output_type: T, or float for half and bfloat16, which are summed in float anyway.
filter_gradient: how the registered gradient treats the filters.
)doc");

REGISTER_OP("KerasAdder>AdderConv2DBackpropInput")
    .Input("input: T")
    .Input("filter: T")
    .Input("out_backprop: output_type")
    .Output("output: T")
    .KERAS_ADDER_ATTRIBUTES.SetShapeFn(BackpropShape<0>)
    .Doc(R"doc(
Gradient of AdderConv2D with respect to its input: the sum of out_backprop times
HardTanh(filter - input) (AdderNet, CVPR 2020, equation 6).
)doc");

REGISTER_OP("KerasAdder>AdderConv2DBackpropFilter")
    .Input("input: T")
    .Input("filter: T")
    .Input("out_backprop: output_type")
    .Output("output: T")
    .KERAS_ADDER_ATTRIBUTES
    .Attr("filter_gradient: {'full_precision', 'sign'} = 'full_precision'")
    .SetShapeFn(BackpropShape<1>)
    .Doc(R"doc(
Gradient of AdderConv2D with respect to its filters: the sum of out_backprop
times (input - filter) (AdderNet, CVPR 2020, equation 5) or times its sign.
)doc");

REGISTER_OP("KerasAdder>AdderConv2DBackprop")
    .Input("input: T")
    .Input("filter: T")
    .Input("out_backprop: output_type")
    .Output("input_backprop: T")
    .Output("filter_backprop: T")
    .KERAS_ADDER_ATTRIBUTES
    .Attr("filter_gradient: {'full_precision', 'sign'} = 'full_precision'")
    .SetShapeFn(BackpropBothShape)
    .Doc(R"doc(
Both gradients of AdderConv2D at once, on a CPU for less than the two ops above take.
)doc");

REGISTER_OP("KerasAdder>FusedAdderConv2D")
    .Input("input: T")
    .Input("filter: filter_type")
    .Input("multiplier: float")
    .Input("offset: float")
    .Input("residual: num_residuals * residual_type")
    .Output("output: output_type")
    .Attr("T: {float, uint8, int16}")
    .Attr("filter_type: {float, uint8, int16}")
    .Attr("residual_type: {float, uint8, int16} = DT_FLOAT")
    .Attr("output_type: {float, uint8, int16, int32} = DT_FLOAT")
    .Attr("num_residuals: int >= 0 = 0")
    .KERAS_ADDER_GEOMETRY.Attr("input_scale: float = 1.0")
    .Attr("input_zero_point: int = 0")
    .Attr("residual_scale: float = 1.0")
    .Attr("residual_zero_point: int = 0")
    .Attr("lower: float = -inf")
    .Attr("upper: float = inf")
    .Attr("output_scale: float = 1.0")
    .Attr("output_zero_point: int = 0")
    .SetShapeFn(FusedShape)
    .Doc(R"doc(
AdderConv2D of a trained network with all that follows it, in this order, each
step rounded to float32 by itself:

  x = input; of float inputs and integer filters
      saturate(round(input * (1 / input_scale)) + input_zero_point)
  y = -sum |x - filter|, padding being input_zero_point, or 0 of float filters
  y = y * multiplier + offset
  y = y + (residual - residual_zero_point) * residual_scale
  y = min(max(y, lower), upper)
  output = saturate(round(y * (1 / output_scale)) + output_zero_point)

Sums are exact in int32 if filters are integers, and refused where they may not
be; round takes halves to even; NaN becomes the lowest integer. Scales and zero
points are those of integers: floats are not scaled. There is no gradient.

multiplier: of each output channel, or empty: 1.
offset: of each output channel, or empty: 0.
residual: none, or one tensor of the output's shape.
output_type: int32 gives the sum y alone, without anything that follows it.
)doc");

}  // namespace keras_adder
