// What becomes of a sum before it is written: multiplied and offset by channel,
// then bounded. A batch normalization and a ReLU are one such epilogue.

#ifndef KERAS_ADDER_CORE_EPILOGUE_H_
#define KERAS_ADDER_CORE_EPILOGUE_H_

#include <cstdint>
#include <functional>
#include <limits>

namespace keras_adder {

// In this order, each step rounded by itself:
//
//   output = min(max(sum * multiplier + offset, lower), upper)
//
// A NaN stays one.
struct Epilogue {
  const float* multiplier = nullptr;  // of each output channel; null: 1
  const float* offset = nullptr;      // of each output channel; null: 0
  float lower = -std::numeric_limits<float>::infinity();
  float upper = std::numeric_limits<float>::infinity();
  // What else there is to do with runs of neighbouring elements of the output,
  // once they are written, on the thread that did it: they are in its caches.
  const std::function<void(int64_t first, int64_t count)>* after = nullptr;
};

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_EPILOGUE_H_
