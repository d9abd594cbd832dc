// The ops on the CPU: validate, allocate, call the core.

#include <new>

#include "core/engine.h"
#include "core/engine_cache.h"
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

// The core's name of an element type.
template <typename T>
constexpr DataType TypeOf() {
  return DataTypeOf<T>();
}
template <>
constexpr DataType TypeOf<Eigen::half>() {
  return DataType::kFloat16;
}
template <>
constexpr DataType TypeOf<Eigen::bfloat16>() {
  return DataType::kBFloat16;
}

// All four ops: a pass over tensors of T, whose outputs are of O.
template <Pass kPass, typename T, typename O>
class AdderCpuOp : public AdderOp {
 public:
  explicit AdderCpuOp(OpKernelConstruction* context) : AdderOp(context) {
    Error unusable;
    kernels_ = SelectKernels(&unusable);
    OP_REQUIRES(context, kernels_ != nullptr,
                absl::FailedPreconditionError(unusable));
  }

  // Planning allocates with `new`, so that lack of memory comes as an
  // exception.
  void Compute(OpKernelContext* context) override {
    try {
      IntraOpPool pool(context);
      Geometry geometry;
      OP_REQUIRES_OK(context, ReadGeometry(context, &geometry));
      if (kPass != Pass::kForward) {
        OP_REQUIRES_OK(context, CheckGradient(context, geometry));
      }
      Tensors tensors;
      OP_REQUIRES_OK(context, Allocate(context, geometry, &tensors));
      EngineCache::Value engine;
      OP_REQUIRES_OK(context, FindEngine(context,
                                         {kPass, geometry, mode(), TypeOf<T>(),
                                          TypeOf<O>(), kernels_, pool.size()},
                                         &engines_, &engine));
      Tensor workspace;
      OP_REQUIRES_OK(context,
                     AllocateWorkspace(context, engine->workspace_bytes(false),
                                       &workspace));
      engine->Run(pool, tensors, workspace.data());
    } catch (const std::bad_alloc&) {
      context->SetStatus(absl::ResourceExhaustedError(
          "Not enough memory to plan an adder convolution of this geometry"));
    }
  }

 private:
  absl::Status Allocate(OpKernelContext* context, const Geometry& geometry,
                        Tensors* tensors) const {
    const Tensor& input = context->input(0);
    const Tensor& filters = context->input(1);
    tensors->input = input.data();
    tensors->filters = filters.data();
    if (kPass != Pass::kForward) {
      tensors->output_gradient = context->input(2).data();
    }
    const auto allocate = [&](int index, const TensorShape& shape,
                              void** data) {
      Tensor* output;
      TF_RETURN_IF_ERROR(context->allocate_output(index, shape, &output));
      *data = output->data();
      return absl::OkStatus();
    };
    switch (kPass) {
      case Pass::kForward:
        return allocate(0, ShapeOfOutput(geometry), &tensors->output);
      case Pass::kInputGradient:
        return allocate(0, input.shape(), &tensors->input_gradient);
      case Pass::kFilterGradient:
        return allocate(0, filters.shape(), &tensors->filter_gradient);
      case Pass::kBackward:
        TF_RETURN_IF_ERROR(
            allocate(0, input.shape(), &tensors->input_gradient));
        return allocate(1, filters.shape(), &tensors->filter_gradient);
      case Pass::kFused:
        break;  // has an op of its own
    }
    return absl::InternalError("No op of this file has such a pass");
  }

  const KernelSet* kernels_ = nullptr;
  EngineCache engines_;
};

template <typename T, typename O>
using Forward = AdderCpuOp<Pass::kForward, T, O>;
template <typename T, typename O>
using InputGradient = AdderCpuOp<Pass::kInputGradient, T, O>;
template <typename T, typename O>
using FilterGradientOp = AdderCpuOp<Pass::kFilterGradient, T, O>;
template <typename T, typename O>
using Backward = AdderCpuOp<Pass::kBackward, T, O>;

KERAS_ADDER_REGISTER(AdderConv2D, DEVICE_CPU, Forward);
KERAS_ADDER_REGISTER(AdderConv2DBackpropInput, DEVICE_CPU, InputGradient);
KERAS_ADDER_REGISTER(AdderConv2DBackpropFilter, DEVICE_CPU, FilterGradientOp);
KERAS_ADDER_REGISTER(AdderConv2DBackprop, DEVICE_CPU, Backward);

}  // namespace
}  // namespace keras_adder
