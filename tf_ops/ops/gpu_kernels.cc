// The ops on NVIDIA GPUs: validate, allocate, call the C interface on
// TensorFlow's stream. Compiled only where the CUDA kernels are.

#include <string>

#include "core/geometry.h"
#include "cuda/keras_adder_cuda.h"
#include "ops/adder_op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "xla/stream_executor/stream.h"

namespace keras_adder {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

template <typename T>
constexpr int32_t kType = KERAS_ADDER_FLOAT32;
template <>
constexpr int32_t kType<Eigen::half> = KERAS_ADDER_FLOAT16;
template <>
constexpr int32_t kType<Eigen::bfloat16> = KERAS_ADDER_BFLOAT16;
template <>
constexpr int32_t kType<double> = KERAS_ADDER_FLOAT64;

KerasAdderAxis CAxis(const Axis& axis) {
  return {axis.input,  axis.kernel,   axis.output,
          axis.stride, axis.dilation, axis.pad_before};
}

const void* Data(const Tensor& tensor) { return tensor.tensor_data().data(); }

void* Data(Tensor* tensor) {
  return const_cast<char*>(tensor->tensor_data().data());
}

class AdderGpuOp : public AdderOp {
 public:
  explicit AdderGpuOp(OpKernelConstruction* context) : AdderOp(context) {
    const char* unusable = keras_adder_cuda_unusable();
    OP_REQUIRES(context, unusable == nullptr,
                absl::FailedPreconditionError(unusable));
  }

 protected:
  template <typename T, typename O>
  KerasAdderCall MakeCall(int32_t pass, const Geometry& geometry) const {
    KerasAdderCall call = {};
    call.struct_size = sizeof(call);
    call.pass = pass;
    call.type = kType<T>;
    call.output_type = kType<O>;
    call.sign = mode() == FilterGradientMode::kSign;
    call.channels_first = data_format() == DataFormat::kNCHW;
    call.batch = geometry.batch;
    call.in_channels = geometry.in_channels;
    call.out_channels = geometry.out_channels;
    call.groups = geometry.groups;
    call.height = CAxis(geometry.height);
    call.width = CAxis(geometry.width);
    return call;
  }

  // Scratch memory may go back to the allocator at once: whoever gets it next
  // uses it on the same stream, after this.
  static void Run(OpKernelContext* context, const KerasAdderCall& call,
                  Tensor* result) {
    Tensor workspace;
    OP_REQUIRES_OK(
        context,
        context->allocate_temp(tensorflow::DT_INT8,
                               TensorShape({keras_adder_cuda_workspace(&call)}),
                               &workspace));
    const bool forward = call.pass == KERAS_ADDER_FORWARD;
    const char* error = keras_adder_cuda_run(
        &call, Data(context->input(0)), Data(context->input(1)),
        forward ? nullptr : Data(context->input(2)), Data(result),
        Data(&workspace), Stream(context));
    OP_REQUIRES(
        context, error == nullptr,
        absl::InternalError(
            std::string("The GPU refused an adder convolution: ") + error));
  }

 private:
  static void* Stream(OpKernelContext* context) {
    return context->op_device_context()
        ->stream()
        ->platform_specific_handle()
        .stream;
  }
};

template <typename T, typename O>
class AdderConv2DGpuOp : public AdderGpuOp {
 public:
  using AdderGpuOp::AdderGpuOp;

  void Compute(OpKernelContext* context) override {
    Geometry geometry;
    OP_REQUIRES_OK(context, ReadGeometry(context, &geometry));
    Tensor* output;
    OP_REQUIRES_OK(
        context, context->allocate_output(0, ShapeOfOutput(geometry), &output));
    Run(context, MakeCall<T, O>(KERAS_ADDER_FORWARD, geometry), output);
  }
};

// The gradient with respect to input `wanted`, which has its shape.
template <typename T, typename O, int pass, int wanted>
class GradientGpuOp : public AdderGpuOp {
 public:
  using AdderGpuOp::AdderGpuOp;

  void Compute(OpKernelContext* context) override {
    Geometry geometry;
    OP_REQUIRES_OK(context, ReadGeometry(context, &geometry));
    OP_REQUIRES_OK(context, CheckGradient(context, geometry));
    Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(
                                0, context->input(wanted).shape(), &output));
    Run(context, MakeCall<T, O>(pass, geometry), output);
  }
};

template <typename T, typename O>
using AdderConv2DBackpropInputGpuOp =
    GradientGpuOp<T, O, KERAS_ADDER_INPUT_GRADIENT, 0>;
template <typename T, typename O>
using AdderConv2DBackpropFilterGpuOp =
    GradientGpuOp<T, O, KERAS_ADDER_FILTER_GRADIENT, 1>;

template <typename T, typename O>
class AdderConv2DBackpropGpuOp : public AdderGpuOp {
 public:
  using AdderGpuOp::AdderGpuOp;

  void Compute(OpKernelContext* context) override {
    Geometry geometry;
    OP_REQUIRES_OK(context, ReadGeometry(context, &geometry));
    OP_REQUIRES_OK(context, CheckGradient(context, geometry));
    Tensor *input_backprop, *filter_backprop;
    OP_REQUIRES_OK(context, context->allocate_output(
                                0, context->input(0).shape(), &input_backprop));
    OP_REQUIRES_OK(context,
                   context->allocate_output(1, context->input(1).shape(),
                                            &filter_backprop));
    Run(context, MakeCall<T, O>(KERAS_ADDER_INPUT_GRADIENT, geometry),
        input_backprop);
    if (!context->status().ok()) return;
    Run(context, MakeCall<T, O>(KERAS_ADDER_FILTER_GRADIENT, geometry),
        filter_backprop);
  }
};

KERAS_ADDER_REGISTER(AdderConv2D, DEVICE_GPU, AdderConv2DGpuOp);
KERAS_ADDER_REGISTER(AdderConv2DBackpropInput, DEVICE_GPU,
                     AdderConv2DBackpropInputGpuOp);
KERAS_ADDER_REGISTER(AdderConv2DBackpropFilter, DEVICE_GPU,
                     AdderConv2DBackpropFilterGpuOp);
KERAS_ADDER_REGISTER(AdderConv2DBackprop, DEVICE_GPU, AdderConv2DBackpropGpuOp);

}  // namespace
}  // namespace keras_adder
