// What the ops on the CPU have in common: engines that are remembered, and
// memory for them.

#ifndef KERAS_ADDER_OPS_CPU_ENGINE_H_
#define KERAS_ADDER_OPS_CPU_ENGINE_H_

#include "core/engine.h"
#include "core/engine_cache.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace keras_adder {

// The engine that was planned for these shapes before, if it is remembered. The
// shapes of input and filters have been checked, and are the problem's; its
// threads are those that there are. Planning allocates with `new`.
inline absl::Status FindEngine(tensorflow::OpKernelContext* context,
                               Problem problem, EngineCache* engines,
                               EngineCache::Value* engine) {
  problem.threads = UsefulThreads(problem.threads, problem.geometry);
  EngineCache::Key key;
  for (int i = 0; i < 4; ++i) {
    key[i] = context->input(0).dim_size(i);
    key[4 + i] = context->input(1).dim_size(i);
  }
  key[8] = problem.threads;
  *engine = engines->Find(key);
  if (*engine != nullptr) return absl::OkStatus();
  *engine = MakeEngine(problem);
  if (*engine == nullptr) {
    return absl::InternalError("No engine takes these types");
  }
  engines->Insert(key, *engine);
  return absl::OkStatus();
}

// From TensorFlow's allocator, so that too large a request is an error like any
// other.
inline absl::Status AllocateWorkspace(tensorflow::OpKernelContext* context,
                                      int64_t bytes,
                                      tensorflow::Tensor* workspace) {
  if (bytes < 0) {
    return absl::ResourceExhaustedError(
        "Not enough memory for an adder convolution of this geometry");
  }
  return context->allocate_temp(tensorflow::DT_INT8,
                                tensorflow::TensorShape({bytes}), workspace);
}

}  // namespace keras_adder

#endif  // KERAS_ADDER_OPS_CPU_ENGINE_H_
