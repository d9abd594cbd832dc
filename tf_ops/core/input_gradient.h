// The input gradient alone: for each pixel and channel of the input, the sum of
// the output gradients that it meets, each times HT(filter - input). Inputs
// that are equal modulo the stride meet the same taps, and are a phase each.

#ifndef KERAS_ADDER_CORE_INPUT_GRADIENT_H_
#define KERAS_ADDER_CORE_INPUT_GRADIENT_H_

#include <cstdint>
#include <vector>

#include "core/blocking.h"
#include "core/engine.h"
#include "core/typed_engine.h"

namespace keras_adder {
namespace internal {

class InputGradientPlan {
 public:
  // The phases of both axes: at least one each.
  InputGradientPlan(const Problem& problem, const Geometry& geometry,
                    const AxisPhases& rows, const AxisPhases& columns);

  int64_t workspace_bytes() const;

  template <typename T, typename O>
  void Run(ThreadPool& pool, const TypedTensors<T, O>& tensors,
           void* workspace) const;

 private:
  // The output's gradient, and the input.
  const Image& gradient_image() const { return blocking_.source; }
  const Image& input_image() const { return blocking_.destination; }
  template <typename C>
  struct Worker {
    C* gradient;
    C* totals;
    C* input;
  };

  template <typename C, typename T, typename O>
  void RunItem(const WorkItem& item, const TypedTensors<T, O>& tensors,
               const C* filters, bool finite, const Worker<C>& worker) const;
  template <typename C>
  void AddTerms(const WorkItem& item, const ReductionBlock& reduction,
                const std::vector<RowSegments>& segments, bool propagate_nan,
                const C* filters, const Worker<C>& worker) const;
  template <typename C>
  void AddSegments(const WorkItem& item, const RowSegments& segments,
                   const InputGradientParams<C>& params) const;
  template <typename C>
  void AddInside(const WorkItem& item,
                 const InputGradientParams<C>& params) const;

  const KernelSet& set_;
  PackedFilters filters_;
  int64_t input_size_;
  bool partial_;  // some inputs meet no tap: their gradient is zero
  Blocking blocking_;
  int64_t gradient_scratch_, tile_scratch_;  // elements of a worker
  int64_t worker_elements() const {
    return gradient_scratch_ + 2 * tile_scratch_;
  }
};

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_INPUT_GRADIENT_H_
