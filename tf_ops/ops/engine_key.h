// What tells an op's engines apart.

#ifndef KERAS_ADDER_OPS_ENGINE_KEY_H_
#define KERAS_ADDER_OPS_ENGINE_KEY_H_

#include "core/engine_cache.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace keras_adder {

// The shapes of input and filters must have been checked.
inline EngineCache::Key EngineKey(tensorflow::OpKernelContext* context,
                                  int threads) {
  EngineCache::Key key;
  for (int i = 0; i < 4; ++i) {
    key[i] = context->input(0).dim_size(i);
    key[4 + i] = context->input(1).dim_size(i);
  }
  key[8] = threads;
  return key;
}

}  // namespace keras_adder

#endif  // KERAS_ADDER_OPS_ENGINE_KEY_H_
