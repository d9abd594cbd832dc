#include "core/fused/float_fused.h"

#include <functional>
#include <utility>

#include "core/engines.h"
#include "core/tile.h"
#include "core/workspace.h"

namespace keras_adder {
namespace internal {
namespace {

Problem ForwardOf(const Problem& problem) {
  Problem forward = problem;
  forward.pass = Pass::kForward;
  forward.output_type = DataType::kFloat32;
  return forward;
}

class FloatFused : public Engine {
 public:
  FloatFused(const Problem& problem, const FusedKernels& kernels)
      : forward_(MakeEngine(ForwardOf(problem))),
        fusion_(problem.fusion),
        kernels_(kernels),
        output_type_(problem.output_type),
        elements_(problem.geometry.output_size()) {}

  int64_t workspace_bytes(bool filters_are_packed) const override {
    return ValueBytes() + forward_->workspace_bytes(filters_are_packed);
  }
  int64_t packed_filters_bytes() const override {
    return forward_->packed_filters_bytes();
  }
  void PackFilters(ThreadPool& pool, const void* filters,
                   void* packed) const override {
    forward_->PackFilters(pool, filters, packed);
  }

  void Run(ThreadPool& pool, const Tensors& tensors,
           void* workspace) const override {
    auto* memory = static_cast<char*>(workspace);
    if (!HasMore()) return forward_->Run(pool, tensors, memory);
    Epilogue unbounded;
    unbounded.multiplier = tensors.epilogue->multiplier;
    unbounded.offset = tensors.epilogue->offset;
    Tensors sums = tensors;
    sums.epilogue = &unbounded;
    if (ValueBytes() > 0) sums.output = memory;
    const std::function<void(int64_t, int64_t)> finish = [&](int64_t first,
                                                             int64_t count) {
      Finish(tensors, static_cast<const float*>(sums.output), first, count);
    };
    unbounded.after = &finish;
    forward_->Run(pool, sums, memory + ValueBytes());
  }

 private:
  // Whether there is something that the forward pass's epilogue has not.
  bool HasMore() const {
    return fusion_.has_residual || output_type_ != DataType::kFloat32;
  }
  // Sums of floats need a place of their own if the output is not floats.
  int64_t ValueBytes() const {
    return output_type_ == DataType::kFloat32
               ? 0
               : RoundUp(elements_ * sizeof(float), kWorkspaceAlignment);
  }

  void Finish(const Tensors& tensors, const float* values, int64_t first,
              int64_t count) const {
    const int residual =
        fusion_.has_residual ? TypeIndex(fusion_.residual_type) : kNoResidual;
    FloatOutputParams params{};
    params.values = values + first;
    params.count = count;
    params.lower = tensors.epilogue->lower;
    params.upper = tensors.epilogue->upper;
    params.residual = fusion_.residual;
    params.output = fusion_.output;
    if (fusion_.has_residual) {
      params.residuals = static_cast<const char*>(tensors.residual) +
                         first * SizeOf(fusion_.residual_type);
    }
    params.outputs =
        static_cast<char*>(tensors.output) + first * SizeOf(output_type_);
    kernels_.float_outputs[residual][TypeIndex(output_type_)](params);
  }

  const std::unique_ptr<const Engine> forward_;
  const Fusion fusion_;
  const FusedKernels& kernels_;
  const DataType output_type_;
  const int64_t elements_;
};

}  // namespace

std::unique_ptr<const Engine> MakeFloatFused(const Problem& problem,
                                             const FusedKernels& kernels) {
  return std::make_unique<const FloatFused>(problem, kernels);
}

}  // namespace internal
}  // namespace keras_adder
