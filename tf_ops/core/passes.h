// The passes of an adder convolution. This is the core's public face,
// together with geometry.h and parallel.h.
//
//   AdderForward         Y(m,n,t)  = -sum_ijk |X(m+i,n+j,k) - F(i,j,k,t)|
//   AdderInputGradient   dX        =  sum_t g HT(F - X)
//   AdderFilterGradient  dF        =  sum_mn g (X - F), or g sign(X - F)
//   AdderBackward        both gradients at once, for less than their sum
//
// A pass is planned from a geometry, says how much scratch memory it needs, and
// runs. T is the type of inputs and filters, O that of outputs and their
// gradients. Results are bitwise equal for any number of threads.

#ifndef KERAS_ADDER_CORE_PASSES_H_
#define KERAS_ADDER_CORE_PASSES_H_

#include <cstdint>
#include <memory>

#include "core/geometry.h"
#include "core/kernels/kernels.h"
#include "core/parallel.h"
#include "core/workspace.h"

namespace keras_adder {

namespace internal {
class CorrelationPlan;
class FilterGradientPlan;
class BackwardPlan;
}  // namespace internal

template <typename T, typename O>
class AdderForward {
 public:
  AdderForward(const Geometry& geometry, const KernelSet& kernels, int threads);
  ~AdderForward();
  int64_t workspace_bytes() const;
  void Run(ThreadPool& pool, const T* input, const T* filters, O* output,
           void* workspace) const;

 private:
  std::unique_ptr<internal::CorrelationPlan> plan_;
};

template <typename T, typename O>
class AdderInputGradient {
 public:
  AdderInputGradient(const Geometry& geometry, const KernelSet& kernels,
                     int threads);
  ~AdderInputGradient();
  int64_t workspace_bytes() const;
  void Run(ThreadPool& pool, const T* input, const T* filters,
           const O* gradient, T* input_gradient, void* workspace) const;

 private:
  std::unique_ptr<internal::CorrelationPlan> plan_;
};

template <typename T, typename O>
class AdderFilterGradient {
 public:
  AdderFilterGradient(const Geometry& geometry, FilterGradient mode,
                      const KernelSet& kernels, int threads);
  ~AdderFilterGradient();
  int64_t workspace_bytes() const;
  void Run(ThreadPool& pool, const T* input, const T* filters,
           const O* gradient, T* filter_gradient, void* workspace) const;

 private:
  std::unique_ptr<internal::FilterGradientPlan> plan_;
};

// Geometries that the common pass does not fit (the largest images, the sign
// gradient) run as the two passes above, one after the other.
template <typename T, typename O>
class AdderBackward {
 public:
  AdderBackward(const Geometry& geometry, FilterGradient mode,
                const KernelSet& kernels, int threads);
  ~AdderBackward();
  int64_t workspace_bytes() const;
  void Run(ThreadPool& pool, const T* input, const T* filters,
           const O* gradient, T* input_gradient, T* filter_gradient,
           void* workspace) const;

 private:
  std::unique_ptr<internal::BackwardPlan> plan_;  // null if it does not fit
  std::unique_ptr<AdderInputGradient<T, O>> input_gradient_;
  std::unique_ptr<AdderFilterGradient<T, O>> filter_gradient_;
};

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_PASSES_H_
