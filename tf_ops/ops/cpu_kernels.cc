// The ops on the CPU: validate, allocate, call the core.

#include <array>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "core/geometry.h"
#include "core/parallel.h"
#include "core/passes.h"
#include "core/select_kernels.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/platform/threadpool.h"

namespace keras_adder {
namespace {

using tensorflow::OpKernel;
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

// TensorFlow's intra-op threads.
class IntraOpPool : public ThreadPool {
 public:
  explicit IntraOpPool(OpKernelContext* context)
      : threads_(*context->device()->tensorflow_cpu_worker_threads()) {}

  int size() const override { return threads_.num_threads; }

  void Run(int count, const std::function<void(int)>& run) override {
    using Pool = tensorflow::thread::ThreadPool;
    threads_.workers->ParallelFor(
        count,
        Pool::SchedulingParams::Fixed(/*block_size=*/1),
        [&](int64_t first, int64_t last) {
          for (int64_t i = first; i < last; ++i) run(static_cast<int>(i));
        });
  }

 private:
  const tensorflow::DeviceBase::CpuWorkerThreads& threads_;
};

absl::Status ShapeOf(const char* name, const Tensor& tensor,
                     std::array<int64_t, 4>* shape) {
  if (tensor.dims() != 4) {
    return absl::InvalidArgumentError(
        std::string(name) + " must have four dimensions. Received: shape " +
        tensor.shape().DebugString());
  }
  for (int i = 0; i < 4; ++i) (*shape)[i] = tensor.dim_size(i);
  return absl::OkStatus();
}

// What all ops have in common.
class AdderOp : public OpKernel {
 public:
  explicit AdderOp(OpKernelConstruction* context) : OpKernel(context) {
    std::string data_format, padding;
    std::vector<int64_t> explicit_paddings, strides, dilations;
    OP_REQUIRES_OK(context, context->GetAttr("data_format", &data_format));
    OP_REQUIRES_OK(context, context->GetAttr("padding", &padding));
    OP_REQUIRES_OK(context,
                   context->GetAttr("explicit_paddings", &explicit_paddings));
    OP_REQUIRES_OK(context, context->GetAttr("strides", &strides));
    OP_REQUIRES_OK(context, context->GetAttr("dilations", &dilations));
    const Error error =
        ParseAttributes(data_format, padding, explicit_paddings, strides,
                        dilations, &attributes_);
    OP_REQUIRES(context, error.empty(), absl::InvalidArgumentError(error));
    Error unusable;
    kernels_ = SelectKernels(&unusable);
    OP_REQUIRES(context, kernels_ != nullptr,
                absl::FailedPreconditionError(unusable));
  }

 protected:
  absl::Status ReadGeometry(OpKernelContext* context,
                            Geometry* geometry) const {
    std::array<int64_t, 4> input, filter;
    TF_RETURN_IF_ERROR(ShapeOf("input", context->input(0), &input));
    TF_RETURN_IF_ERROR(ShapeOf("filter", context->input(1), &filter));
    const Error error = MakeGeometry(attributes_, input, filter, geometry);
    return error.empty() ? absl::OkStatus()
                         : absl::InvalidArgumentError(error);
  }

  TensorShape ShapeOfOutput(const Geometry& geometry) const {
    return TensorShape(OutputShape(geometry, attributes_.data_format));
  }

  absl::Status CheckGradient(OpKernelContext* context,
                             const Geometry& geometry) const {
    const TensorShape expected = ShapeOfOutput(geometry);
    if (context->input(2).shape() == expected) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "out_backprop must have the output's shape " +
        expected.DebugString() + ". Received: shape " +
        context->input(2).shape().DebugString());
  }

  // Plans and runs a pass with a workspace from TensorFlow's allocator, so that
  // too large a request is an error like any other; plans are small, but take
  // their memory from C++.
  template <typename Plan, typename... Pointers>
  static void PlanAndRun(OpKernelContext* context, const Plan& plan,
                         Pointers... pointers) {
    try {
      IntraOpPool pool(context);
      Run(context, *plan(pool.size()), pool, pointers...);
    } catch (const std::bad_alloc&) {
      context->SetStatus(absl::ResourceExhaustedError(
          "Not enough memory to plan an adder convolution of this geometry"));
    }
  }

  const KernelSet& kernels() const { return *kernels_; }

 private:
  template <typename Pass, typename... Pointers>
  static void Run(OpKernelContext* context, const Pass& pass,
                  IntraOpPool& pool, Pointers... pointers) {
    Tensor workspace;
    OP_REQUIRES_OK(context, context->allocate_temp(
                                tensorflow::DT_INT8,
                                TensorShape({pass.workspace_bytes()}),
                                &workspace));
    pass.Run(pool, pointers..., workspace.flat<int8_t>().data());
  }

  Attributes attributes_;
  const KernelSet* kernels_ = nullptr;
};

template <typename T, typename O>
class AdderConv2DOp : public AdderOp {
 public:
  using AdderOp::AdderOp;

  void Compute(OpKernelContext* context) override {
    Geometry geometry;
    OP_REQUIRES_OK(context, ReadGeometry(context, &geometry));
    Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(
                                0, ShapeOfOutput(geometry), &output));
    if (output->NumElements() == 0) return;
    using Pass = AdderForward<typename CoreType<T>::type,
                           typename CoreType<O>::type>;
    const auto plan = [&](int threads) {
      return std::make_unique<Pass>(geometry, kernels(), threads);
    };
    PlanAndRun(context, plan, Data<T>(context->input(0)),
            Data<T>(context->input(1)), Data<O>(output));
  }
};

template <typename T, typename O>
class AdderConv2DBackpropInputOp : public AdderOp {
 public:
  using AdderOp::AdderOp;

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
    PlanAndRun(context, plan, Data<T>(context->input(0)),
            Data<T>(context->input(1)), Data<O>(context->input(2)),
            Data<T>(output));
  }
};

// The ops whose result depends on how filters are treated.
class FilterGradientOp : public AdderOp {
 public:
  explicit FilterGradientOp(OpKernelConstruction* context) : AdderOp(context) {
    std::string name;
    OP_REQUIRES_OK(context, context->GetAttr("filter_gradient", &name));
    const Error error = ParseFilterGradient(name, &mode_);
    OP_REQUIRES(context, error.empty(), absl::InvalidArgumentError(error));
  }

 protected:
  FilterGradient mode() const { return mode_; }

 private:
  FilterGradient mode_ = FilterGradient::kFullPrecision;
};

template <typename T, typename O>
class AdderConv2DBackpropFilterOp : public FilterGradientOp {
 public:
  using FilterGradientOp::FilterGradientOp;

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
    PlanAndRun(context, plan, Data<T>(context->input(0)),
            Data<T>(context->input(1)), Data<O>(context->input(2)),
            Data<T>(output));
  }
};

template <typename T, typename O>
class AdderConv2DBackpropOp : public FilterGradientOp {
 public:
  using FilterGradientOp::FilterGradientOp;

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
    using Pass = AdderBackward<typename CoreType<T>::type,
                           typename CoreType<O>::type>;
    const auto plan = [&](int threads) {
      return std::make_unique<Pass>(geometry, mode(), kernels(), threads);
    };
    PlanAndRun(context, plan, Data<T>(context->input(0)),
            Data<T>(context->input(1)), Data<O>(context->input(2)),
            Data<T>(input_backprop), Data<T>(filter_backprop));
  }
};

#define REGISTER(OP, T, O)                                       \
  REGISTER_KERNEL_BUILDER(Name("KerasAdder>" #OP)                \
                              .Device(tensorflow::DEVICE_CPU)    \
                              .TypeConstraint<T>("T")            \
                              .TypeConstraint<O>("output_type"), \
                          OP##Op<T, O>)
#define REGISTER_TYPES(OP)                           \
  REGISTER(OP, Eigen::half, Eigen::half);            \
  REGISTER(OP, Eigen::half, float);                  \
  REGISTER(OP, Eigen::bfloat16, Eigen::bfloat16);    \
  REGISTER(OP, Eigen::bfloat16, float);              \
  REGISTER(OP, float, float);                        \
  REGISTER(OP, double, double)
REGISTER_TYPES(AdderConv2D);
REGISTER_TYPES(AdderConv2DBackpropInput);
REGISTER_TYPES(AdderConv2DBackpropFilter);
REGISTER_TYPES(AdderConv2DBackprop);
#undef REGISTER_TYPES
#undef REGISTER

}  // namespace
}  // namespace keras_adder
