// Threads for hosts that have none of their own.

#ifndef KERAS_ADDER_CORE_DEFAULT_POOL_H_
#define KERAS_ADDER_CORE_DEFAULT_POOL_H_

#include <functional>

#include "core/parallel.h"

namespace keras_adder {

// A share of threads that all objects of this class have in common. They are
// started when they are first needed, as many as the largest size() less one,
// since the caller works, and then sleep between one run and the next. An
// object holds nothing and costs nothing.
//
// - When the process ends, or dlclose unloads the library, threads are told to
//   stop and joined: none runs code that is gone. Who still calls RunTasks then
//   does the work alone.
// - After fork() the child has none of its parent's threads, and starts its own
//   when it needs them. It does not matter what other threads were doing, but
//   an item must not fork.
class DefaultPool : public ThreadPool {
 public:
  explicit DefaultPool(int size) : size_(size) {}

  int size() const override { return size_; }
  void Schedule(int worker, std::function<void()> helper) override;

 private:
  int size_;
};

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_DEFAULT_POOL_H_
