// The fused op on the CPU: validate, allocate, call the core.

#include <limits>
#include <new>
#include <string>

#include "core/engine.h"
#include "core/engine_cache.h"
#include "core/fused/fusion.h"
#include "core/fused/packed_filters_cache.h"
#include "core/geometry.h"
#include "core/select_kernels.h"
#include "ops/adder_op.h"
#include "ops/cpu_engine.h"
#include "ops/intra_op_pool.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace keras_adder {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

DataType TypeOf(tensorflow::DataType type) {
  switch (type) {
    case tensorflow::DT_UINT8:
      return DataType::kUint8;
    case tensorflow::DT_INT16:
      return DataType::kInt16;
    case tensorflow::DT_INT32:
      return DataType::kInt32;
    default:
      return DataType::kFloat32;
  }
}

class FusedAdderConv2DOp : public AdderOp {
 public:
  explicit FusedAdderConv2DOp(OpKernelConstruction* context)
      : AdderOp(context) {
    if (!context->status().ok()) return;
    OP_REQUIRES_OK(context, ReadAttributes(context));
    Error unusable;
    problem_.kernels = SelectKernels(&unusable);
    OP_REQUIRES(context, problem_.kernels != nullptr,
                absl::FailedPreconditionError(unusable));
  }

  // Planning and packing allocate with `new`, so that lack of memory comes as
  // an exception.
  void Compute(OpKernelContext* context) override {
    try {
      Geometry geometry;
      OP_REQUIRES_OK(context, ReadGeometry(context, &geometry));
      OP_REQUIRES_OK(context, AsStatus(CheckSums(geometry, problem_.fusion)));
      Epilogue epilogue = bounds_;
      Tensors tensors;
      tensors.epilogue = &epilogue;
      OP_REQUIRES_OK(context,
                     ReadTensors(context, geometry, &epilogue, &tensors));
      Run(context, geometry, &tensors);
    } catch (const std::bad_alloc&) {
      context->SetStatus(absl::ResourceExhaustedError(
          "Not enough memory for an adder convolution of this geometry"));
    }
  }

 private:
  absl::Status ReadAttributes(OpKernelConstruction* context) {
    Fusion& fusion = problem_.fusion;
    problem_.pass = Pass::kFused;
    TF_RETURN_IF_ERROR(ReadType(context, "T", &problem_.type));
    TF_RETURN_IF_ERROR(ReadType(context, "filter_type", &fusion.filter_type));
    TF_RETURN_IF_ERROR(
        ReadType(context, "residual_type", &fusion.residual_type));
    TF_RETURN_IF_ERROR(ReadType(context, "output_type", &problem_.output_type));
    int64_t residuals;
    TF_RETURN_IF_ERROR(context->GetAttr("num_residuals", &residuals));
    if (residuals > 1) {
      return absl::InvalidArgumentError(
          "num_residuals must be 0 or 1. Received: num_residuals=" +
          std::to_string(residuals));
    }
    fusion.has_residual = residuals == 1;
    TF_RETURN_IF_ERROR(ReadQuantization(context, "input", &fusion.input));
    TF_RETURN_IF_ERROR(ReadQuantization(context, "residual", &fusion.residual));
    TF_RETURN_IF_ERROR(ReadQuantization(context, "output", &fusion.output));
    TF_RETURN_IF_ERROR(context->GetAttr("lower", &bounds_.lower));
    TF_RETURN_IF_ERROR(context->GetAttr("upper", &bounds_.upper));
    TF_RETURN_IF_ERROR(
        AsStatus(CheckFusion(problem_.type, problem_.output_type, fusion)));
    return CheckBounds();
  }

  static absl::Status ReadType(OpKernelConstruction* context, const char* name,
                               DataType* type) {
    tensorflow::DataType value;
    TF_RETURN_IF_ERROR(context->GetAttr(name, &value));
    *type = TypeOf(value);
    return absl::OkStatus();
  }

  static absl::Status ReadQuantization(OpKernelConstruction* context,
                                       const std::string& name,
                                       Quantization* quantization) {
    int64_t zero_point;
    TF_RETURN_IF_ERROR(context->GetAttr(name + "_scale", &quantization->scale));
    TF_RETURN_IF_ERROR(context->GetAttr(name + "_zero_point", &zero_point));
    quantization->zero_point = static_cast<int32_t>(zero_point);
    if (quantization->zero_point == zero_point) return absl::OkStatus();
    return absl::InvalidArgumentError(
        name + "_zero_point must fit into 32 bits. Received: " + name +
        "_zero_point=" + std::to_string(zero_point));
  }

  absl::Status CheckBounds() const {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const float lower = bounds_.lower, upper = bounds_.upper;
    const std::string received = " Received: lower=" + std::to_string(lower) +
                                 ", upper=" + std::to_string(upper);
    if (!(lower <= upper)) {
      return absl::InvalidArgumentError("lower must not be above upper." +
                                        received);
    }
    const bool bounded = lower != -kInfinity || upper != kInfinity;
    if (bounded && problem_.output_type == DataType::kInt32) {
      return absl::InvalidArgumentError(
          "An output of int32 is the sum alone, which has no bounds." +
          received);
    }
    return absl::OkStatus();
  }

  absl::Status ReadTensors(OpKernelContext* context, const Geometry& geometry,
                           Epilogue* epilogue, Tensors* tensors) const {
    tensors->input = context->input(0).data();
    tensors->filters = context->input(1).data();
    TF_RETURN_IF_ERROR(ReadChannelValues(context, 2, "multiplier", geometry,
                                         &epilogue->multiplier));
    TF_RETURN_IF_ERROR(
        ReadChannelValues(context, 3, "offset", geometry, &epilogue->offset));
    const TensorShape shape = ShapeOfOutput(geometry);
    if (problem_.fusion.has_residual) {
      if (context->input(4).shape() != shape) {
        return absl::InvalidArgumentError(
            "residual must have the output's shape " + shape.DebugString() +
            ". Received: shape " + context->input(4).shape().DebugString());
      }
      tensors->residual = context->input(4).data();
    }
    Tensor* output;
    TF_RETURN_IF_ERROR(context->allocate_output(0, shape, &output));
    tensors->output = output->data();
    return absl::OkStatus();
  }

  absl::Status ReadChannelValues(OpKernelContext* context, int index,
                                 const char* name, const Geometry& geometry,
                                 const float** values) const {
    const Tensor& tensor = context->input(index);
    if (tensor.shape() == TensorShape({0})) return absl::OkStatus();
    if (tensor.shape() != TensorShape({geometry.out_channels})) {
      return absl::InvalidArgumentError(
          std::string(name) + " must be empty or have one value for each of " +
          std::to_string(geometry.out_channels) +
          " output channels. Received: shape " + tensor.shape().DebugString());
    }
    if (problem_.output_type == DataType::kInt32) {
      return absl::InvalidArgumentError(
          "An output of int32 is the sum alone: " + std::string(name) +
          " must be empty. Received: shape " + tensor.shape().DebugString());
    }
    *values = static_cast<const float*>(tensor.data());
    return absl::OkStatus();
  }

  void Run(OpKernelContext* context, const Geometry& geometry,
           Tensors* tensors) {
    IntraOpPool pool(context);
    Problem problem = problem_;
    problem.geometry = geometry;
    problem.threads = pool.size();
    EngineCache::Value engine;
    OP_REQUIRES_OK(context, FindEngine(context, problem, &engines_, &engine));
    const PackedFiltersCache::Value packed = packed_filters_.Get(
        pool, engine, tensors->filters, context->input(1).TotalBytes());
    if (packed != nullptr) tensors->packed_filters = packed->data();
    Tensor workspace;
    OP_REQUIRES_OK(
        context,
        AllocateWorkspace(context, engine->workspace_bytes(packed != nullptr),
                          &workspace));
    engine->Run(pool, *tensors, workspace.data());
  }

  Problem problem_;  // but for its geometry and threads
  Epilogue bounds_;  // but for its values of channels
  EngineCache engines_;
  PackedFiltersCache packed_filters_;
};

REGISTER_KERNEL_BUILDER(
    Name("KerasAdder>FusedAdderConv2D").Device(tensorflow::DEVICE_CPU),
    FusedAdderConv2DOp);

}  // namespace
}  // namespace keras_adder
