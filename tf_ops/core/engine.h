// The passes of an adder convolution. This is the core's public face, together
// with geometry.h and parallel.h.
//
//   Pass::kForward         Y(m,n,t) = -sum_ijk |X(m+i,n+j,k) - F(i,j,k,t)|
//   Pass::kInputGradient   dX       =  sum_t g HT(F - X)
//   Pass::kFilterGradient  dF       =  sum_mn g (X - F), or g sign(X - F)
//   Pass::kBackward        both gradients at once, for less than their sum
//   Pass::kFused           a trained network's forward pass: fused/fusion.h
//
// An engine is a way to compute a pass. engines.cc has the list of them: each
// says whether it takes a problem, how much scratch memory it needs, and runs.
// An engine does not change when it runs, so several threads may run the same
// one, each with a workspace of its own. Results are bitwise equal for any
// number of threads.

#ifndef KERAS_ADDER_CORE_ENGINE_H_
#define KERAS_ADDER_CORE_ENGINE_H_

#include <cstdint>
#include <memory>

#include "core/dtype.h"
#include "core/epilogue.h"
#include "core/fused/fusion.h"
#include "core/geometry.h"
#include "core/kernels/kernels.h"
#include "core/parallel.h"

namespace keras_adder {

enum class Pass {
  kForward,
  kInputGradient,
  kFilterGradient,
  kBackward,
  kFused
};

// What an engine is made for.
struct Problem {
  Pass pass = Pass::kForward;
  Geometry geometry;
  // Of the filter gradient, if there is one.
  FilterGradientMode mode = FilterGradientMode::kFullPrecision;
  // Of inputs and filters, and of outputs; so are their gradients. The filters
  // of a fused pass have a type of their own.
  DataType type = DataType::kFloat32;
  DataType output_type = DataType::kFloat32;
  const KernelSet* kernels = nullptr;
  int threads = 1;
  Fusion fusion{};  // of the fused pass
};

// What an engine runs on. A pass reads and writes what it is about, and nothing
// of the rest, which may be null.
struct Tensors {
  const void* input = nullptr;
  const void* filters = nullptr;
  const void* output_gradient = nullptr;
  void* output = nullptr;
  void* input_gradient = nullptr;
  void* filter_gradient = nullptr;
  // What PackFilters made of these very filters, or null.
  const void* packed_filters = nullptr;
  const Epilogue* epilogue = nullptr;  // of both forward passes, or null
  const void* residual = nullptr;      // of the fused pass, if it has one
};

class Engine {
 public:
  virtual ~Engine() = default;

  // Bytes of scratch memory, which starts at a multiple of kWorkspaceAlignment.
  virtual int64_t workspace_bytes(bool filters_are_packed) const = 0;

  virtual void Run(ThreadPool& pool, const Tensors& tensors,
                   void* workspace) const = 0;

  // Filters that do not change between runs can be packed apart from them. What
  // is packed belongs to this engine's geometry, types and instruction set:
  // nobody should save it, nor believe it to be that of filters because of
  // their address. 0 bytes: this engine packs at every run.
  virtual int64_t packed_filters_bytes() const { return 0; }
  virtual void PackFilters(ThreadPool& /*pool*/, const void* /*filters*/,
                           void* /*packed*/) const {}
};

// The first engine of the list that takes a problem; null for types that no
// list has, which is the one thing that a caller has to check.
std::unique_ptr<const Engine> MakeEngine(const Problem& problem);

// How many of the threads that are available are worth their while.
int UsefulThreads(int available, const Geometry& geometry);

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_ENGINE_H_
