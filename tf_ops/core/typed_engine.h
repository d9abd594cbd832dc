// From an engine for types known at run time to a plan, whose Run is a template
// of them.

#ifndef KERAS_ADDER_CORE_TYPED_ENGINE_H_
#define KERAS_ADDER_CORE_TYPED_ENGINE_H_

#include <memory>
#include <utility>

#include "core/engine.h"

namespace keras_adder {
namespace internal {

template <typename T, typename O>
struct TypedTensors {
  explicit TypedTensors(const Tensors& tensors)
      : input(static_cast<const T*>(tensors.input)),
        filters(static_cast<const T*>(tensors.filters)),
        output_gradient(static_cast<const O*>(tensors.output_gradient)),
        output(static_cast<O*>(tensors.output)),
        input_gradient(static_cast<T*>(tensors.input_gradient)),
        filter_gradient(static_cast<T*>(tensors.filter_gradient)),
        packed_filters(tensors.packed_filters),
        epilogue(tensors.epilogue) {}

  const T* input;
  const T* filters;
  const O* output_gradient;
  O* output;
  T* input_gradient;
  T* filter_gradient;
  const void* packed_filters;
  const Epilogue* epilogue;
};

// A plan that packs filters at every run.
template <typename Plan, typename T, typename O>
class TypedEngine : public Engine {
 public:
  explicit TypedEngine(Plan plan) : plan_(std::move(plan)) {}

  int64_t workspace_bytes(bool) const override {
    return plan_.workspace_bytes();
  }
  void Run(ThreadPool& pool, const Tensors& tensors,
           void* workspace) const override {
    plan_.Run(pool, TypedTensors<T, O>(tensors), workspace);
  }

 protected:
  const Plan plan_;
};

// A plan that packs them apart, too.
template <typename Plan, typename T, typename O>
class PackingEngine : public TypedEngine<Plan, T, O> {
 public:
  using TypedEngine<Plan, T, O>::TypedEngine;

  int64_t workspace_bytes(bool filters_are_packed) const override {
    return this->plan_.workspace_bytes(filters_are_packed);
  }
  int64_t packed_filters_bytes() const override {
    return this->plan_.packed_filters_bytes();
  }
  void PackFilters(ThreadPool& pool, const void* filters,
                   void* packed) const override {
    this->plan_.PackFilters(pool, static_cast<const T*>(filters), packed);
  }
};

// The engine of a plan, for the types of a problem; null if no list has them.
template <template <typename, typename, typename> class EngineOf, typename Plan>
std::unique_ptr<const Engine> MakeTyped(const Problem& problem, Plan plan) {
#define KERAS_ADDER_CASE(T, O)                                            \
  if (problem.type == DataTypeOf<T>() &&                                  \
      problem.output_type == DataTypeOf<O>()) {                           \
    return std::make_unique<const EngineOf<Plan, T, O>>(std::move(plan)); \
  }
  KERAS_ADDER_FOR_EACH_TYPES(KERAS_ADDER_CASE)
#undef KERAS_ADDER_CASE
  return nullptr;
}

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_TYPED_ENGINE_H_
