// TensorFlow's threads, for the core.

#ifndef KERAS_ADDER_OPS_INTRA_OP_POOL_H_
#define KERAS_ADDER_OPS_INTRA_OP_POOL_H_

#include <functional>
#include <utility>

#include "core/parallel.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/platform/threadpool.h"

namespace keras_adder {

// The threads that TensorFlow has for the inside of an op.
class IntraOpPool : public ThreadPool {
 public:
  explicit IntraOpPool(tensorflow::OpKernelContext* context)
      : threads_(*context->device()->tensorflow_cpu_worker_threads()) {}

  int size() const override { return threads_.num_threads; }

  void Schedule(int worker, std::function<void()> helper) override {
    threads_.workers->ScheduleWithHint(std::move(helper), worker, worker + 1);
  }

  // A caller waits: a thread that is woken up while the caller keeps its core
  // busy often has to wait for that core, until the caller has done all the
  // work by itself. A thread of the pool works, since others of it could all
  // be waiting, too. KERAS_ADDER_CALLER_WORKS is for builds that are to be
  // compared with this (docs/kernels.md).
  Caller caller() const override {
#ifdef KERAS_ADDER_CALLER_WORKS
    return Caller::kWorks;
#else
    return threads_.workers->CurrentThreadId() >= 0 ? Caller::kWorks
                                                    : Caller::kWaits;
#endif
  }

 private:
  const tensorflow::DeviceBase::CpuWorkerThreads& threads_;
};

}  // namespace keras_adder

#endif  // KERAS_ADDER_OPS_INTRA_OP_POOL_H_
