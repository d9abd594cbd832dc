// What the ops have in common on every device: attributes are parsed when an op
// is constructed, shapes are checked when it runs.

#ifndef KERAS_ADDER_OPS_ADDER_OP_H_
#define KERAS_ADDER_OPS_ADDER_OP_H_

#include <array>
#include <string>
#include <vector>

#include "core/geometry.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace keras_adder {

class AdderOp : public tensorflow::OpKernel {
 public:
  explicit AdderOp(tensorflow::OpKernelConstruction* context)
      : OpKernel(context) {
    std::string data_format, padding;
    std::vector<int64_t> explicit_paddings, strides, dilations;
    OP_REQUIRES_OK(context, context->GetAttr("data_format", &data_format));
    OP_REQUIRES_OK(context, context->GetAttr("padding", &padding));
    OP_REQUIRES_OK(context,
                   context->GetAttr("explicit_paddings", &explicit_paddings));
    OP_REQUIRES_OK(context, context->GetAttr("strides", &strides));
    OP_REQUIRES_OK(context, context->GetAttr("dilations", &dilations));
    OP_REQUIRES_OK(context, AsStatus(ParseAttributes(data_format, padding,
                                                     explicit_paddings, strides,
                                                     dilations, &attributes_)));
    // Ops without it are not asked for a filter gradient.
    if (!context->HasAttr("filter_gradient")) return;
    std::string name;
    OP_REQUIRES_OK(context, context->GetAttr("filter_gradient", &name));
    OP_REQUIRES_OK(context, AsStatus(ParseFilterGradientMode(name, &mode_)));
  }

 protected:
  static absl::Status AsStatus(const Error& error) {
    return error.empty() ? absl::OkStatus() : absl::InvalidArgumentError(error);
  }

  absl::Status ReadGeometry(tensorflow::OpKernelContext* context,
                            Geometry* geometry) const {
    std::array<int64_t, 4> input, filter;
    TF_RETURN_IF_ERROR(ShapeOf("input", context->input(0), &input));
    TF_RETURN_IF_ERROR(ShapeOf("filter", context->input(1), &filter));
    return AsStatus(MakeGeometry(attributes_, input, filter, geometry));
  }

  tensorflow::TensorShape ShapeOfOutput(const Geometry& geometry) const {
    return tensorflow::TensorShape(
        OutputShape(geometry, attributes_.data_format));
  }

  absl::Status CheckGradient(tensorflow::OpKernelContext* context,
                             const Geometry& geometry) const {
    const tensorflow::TensorShape expected = ShapeOfOutput(geometry);
    if (context->input(2).shape() == expected) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "out_backprop must have the output's shape " + expected.DebugString() +
        ". Received: shape " + context->input(2).shape().DebugString());
  }

  DataFormat data_format() const { return attributes_.data_format; }
  FilterGradientMode mode() const { return mode_; }

 private:
  static absl::Status ShapeOf(const char* name,
                              const tensorflow::Tensor& tensor,
                              std::array<int64_t, 4>* shape) {
    if (tensor.dims() != 4) {
      return absl::InvalidArgumentError(
          std::string(name) + " must have four dimensions. Received: shape " +
          tensor.shape().DebugString());
    }
    for (int i = 0; i < 4; ++i) (*shape)[i] = tensor.dim_size(i);
    return absl::OkStatus();
  }

  Attributes attributes_;
  FilterGradientMode mode_ = FilterGradientMode::kFullPrecision;
};

}  // namespace keras_adder

// Registers a kernel, a class template of the types of inputs and of outputs,
// for all that an op takes.
#define KERAS_ADDER_REGISTER(OP, DEVICE, KERNEL)                            \
  KERAS_ADDER_REGISTER_TYPES(OP, DEVICE, KERNEL, Eigen::half, Eigen::half); \
  KERAS_ADDER_REGISTER_TYPES(OP, DEVICE, KERNEL, Eigen::half, float);       \
  KERAS_ADDER_REGISTER_TYPES(OP, DEVICE, KERNEL, Eigen::bfloat16,           \
                             Eigen::bfloat16);                              \
  KERAS_ADDER_REGISTER_TYPES(OP, DEVICE, KERNEL, Eigen::bfloat16, float);   \
  KERAS_ADDER_REGISTER_TYPES(OP, DEVICE, KERNEL, float, float);             \
  KERAS_ADDER_REGISTER_TYPES(OP, DEVICE, KERNEL, double, double)
#define KERAS_ADDER_REGISTER_TYPES(OP, DEVICE, KERNEL, T, O)     \
  REGISTER_KERNEL_BUILDER(Name("KerasAdder>" #OP)                \
                              .Device(tensorflow::DEVICE)        \
                              .TypeConstraint<T>("T")            \
                              .TypeConstraint<O>("output_type"), \
                          KERNEL<T, O>)

#endif  // KERAS_ADDER_OPS_ADDER_OP_H_
