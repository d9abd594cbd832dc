// The ops on the CPU: validate, allocate, call the core.

#include <algorithm>
#include <memory>
#include <new>

#include "core/geometry.h"
#include "core/passes.h"
#include "core/select_kernels.h"
#include "core/tile.h"
#include "ops/adder_op.h"
#include "ops/intra_op_pool.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace keras_adder {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

// TensorFlow's element types and the core's, which have the same bits.
template <typename T>
struct CoreType {
  using type = T;
};
template <>
struct CoreType<Eigen::half> {
  using type = Half;
};
template <>
struct CoreType<Eigen::bfloat16> {
  using type = BFloat16;
};

template <typename T>
const typename CoreType<T>::type* Data(const Tensor& tensor) {
  return reinterpret_cast<const typename CoreType<T>::type*>(
      tensor.flat<T>().data());
}

template <typename T>
typename CoreType<T>::type* Data(Tensor* tensor) {
  return reinterpret_cast<typename CoreType<T>::type*>(
      tensor->flat<T>().data());
}

// How many threads are worth their while: to wake one up takes some ten
// microseconds, and this is thirty of work.
int UsefulThreads(int available, const Geometry& geometry) {
  constexpr double kThreadWork = 1 << 22;
  // Lanes without a filter take their time, too.
  const double lanes = static_cast<double>(geometry.groups) *
                       RoundUp(geometry.group_out(), kLanes);
  const double differences = lanes * geometry.batch * geometry.height.output *
                             geometry.width.output * geometry.kernel_taps() *
                             geometry.group_in();
  return static_cast<int>(
      std::clamp<double>(differences / kThreadWork, 1, std::max(available, 1)));
}

// What all ops have in common on the CPU.
class AdderCpuOp : public AdderOp {
 public:
  explicit AdderCpuOp(OpKernelConstruction* context) : AdderOp(context) {
    Error unusable;
    kernels_ = SelectKernels(&unusable);
    OP_REQUIRES(context, kernels_ != nullptr,
                absl::FailedPreconditionError(unusable));
  }

 protected:
  // Plans and runs a pass with a workspace from TensorFlow's allocator, so that
  // too large a request is an error like any other; plans are small, but take
  // their memory from C++.
  template <typename Plan, typename... Pointers>
  static void PlanAndRun(OpKernelContext* context, const Geometry& geometry,
                         const Plan& plan, Pointers... pointers) {
    try {
      IntraOpPool pool(context);
      const int threads = UsefulThreads(pool.size(), geometry);
      Run(context, *plan(threads), pool, pointers...);
    } catch (const std::bad_alloc&) {
      context->SetStatus(absl::ResourceExhaustedError(
          "Not enough memory to plan an adder convolution of this geometry"));
    }
  }

  const KernelSet& kernels() const { return *kernels_; }

 private:
  template <typename Pass, typename... Pointers>
  static void Run(OpKernelContext* context, const Pass& pass, IntraOpPool& pool,
                  Pointers... pointers) {
    Tensor workspace;
    OP_REQUIRES_OK(context,
                   context->allocate_temp(tensorflow::DT_INT8,
                                          TensorShape({pass.workspace_bytes()}),
                                          &workspace));
    pass.Run(pool, pointers..., workspace.flat<int8_t>().data());
  }

  const KernelSet* kernels_ = nullptr;
};

template <typename T, typename O>
class AdderConv2DOp : public AdderCpuOp {
 public:
  using AdderCpuOp::AdderCpuOp;

  void Compute(OpKernelContext* context) override {
    Geometry geometry;
    OP_REQUIRES_OK(context, ReadGeometry(context, &geometry));
    Tensor* output;
    OP_REQUIRES_OK(
        context, context->allocate_output(0, ShapeOfOutput(geometry), &output));
    if (output->NumElements() == 0) return;
    using Pass =
        AdderForward<typename CoreType<T>::type, typename CoreType<O>::type>;
    const auto plan = [&](int threads) {
      return std::make_unique<Pass>(geometry, kernels(), threads);
    };
    PlanAndRun(context, geometry, plan, Data<T>(context->input(0)),
               Data<T>(context->input(1)), Data<O>(output));
  }
};

template <typename T, typename O>
class AdderConv2DBackpropInputOp : public AdderCpuOp {
 public:
  using AdderCpuOp::AdderCpuOp;

  void Compute(OpKernelContext* context) override {
    Geometry geometry;
    OP_REQUIRES_OK(context, ReadGeometry(context, &geometry));
    OP_REQUIRES_OK(context, CheckGradient(context, geometry));
    Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(
                                0, context->input(0).shape(), &output));
    if (output->NumElements() == 0) return;
    using Pass = AdderInputGradient<typename CoreType<T>::type,
                                    typename CoreType<O>::type>;
    const auto plan = [&](int threads) {
      return std::make_unique<Pass>(geometry, kernels(), threads);
    };
    PlanAndRun(context, geometry, plan, Data<T>(context->input(0)),
               Data<T>(context->input(1)), Data<O>(context->input(2)),
               Data<T>(output));
  }
};

template <typename T, typename O>
class AdderConv2DBackpropFilterOp : public AdderCpuOp {
 public:
  using AdderCpuOp::AdderCpuOp;

  void Compute(OpKernelContext* context) override {
    Geometry geometry;
    OP_REQUIRES_OK(context, ReadGeometry(context, &geometry));
    OP_REQUIRES_OK(context, CheckGradient(context, geometry));
    Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(
                                0, context->input(1).shape(), &output));
    if (output->NumElements() == 0) return;
    using Pass = AdderFilterGradient<typename CoreType<T>::type,
                                     typename CoreType<O>::type>;
    const auto plan = [&](int threads) {
      return std::make_unique<Pass>(geometry, mode(), kernels(), threads);
    };
    PlanAndRun(context, geometry, plan, Data<T>(context->input(0)),
               Data<T>(context->input(1)), Data<O>(context->input(2)),
               Data<T>(output));
  }
};

template <typename T, typename O>
class AdderConv2DBackpropOp : public AdderCpuOp {
 public:
  using AdderCpuOp::AdderCpuOp;

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
    using Pass =
        AdderBackward<typename CoreType<T>::type, typename CoreType<O>::type>;
    const auto plan = [&](int threads) {
      return std::make_unique<Pass>(geometry, mode(), kernels(), threads);
    };
    PlanAndRun(context, geometry, plan, Data<T>(context->input(0)),
               Data<T>(context->input(1)), Data<O>(context->input(2)),
               Data<T>(input_backprop), Data<T>(filter_backprop));
  }
};

KERAS_ADDER_REGISTER(AdderConv2D, DEVICE_CPU, AdderConv2DOp);
KERAS_ADDER_REGISTER(AdderConv2DBackpropInput, DEVICE_CPU,
                     AdderConv2DBackpropInputOp);
KERAS_ADDER_REGISTER(AdderConv2DBackpropFilter, DEVICE_CPU,
                     AdderConv2DBackpropFilterOp);
KERAS_ADDER_REGISTER(AdderConv2DBackprop, DEVICE_CPU, AdderConv2DBackpropOp);

}  // namespace
}  // namespace keras_adder
