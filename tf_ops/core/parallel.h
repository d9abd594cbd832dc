// The one thing the core asks of its host besides memory: a way to run
// functions at the same time.

#ifndef KERAS_ADDER_CORE_PARALLEL_H_
#define KERAS_ADDER_CORE_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>

namespace keras_adder {

class ThreadPool {
 public:
  virtual ~ThreadPool() = default;

  // How many functions may run at the same time (at least 1).
  virtual int size() const = 0;

  // Calls run(0) ... run(count - 1), each once, and returns when all are done.
  // `count` is at most size().
  virtual void Run(int count, const std::function<void(int)>& run) = 0;
};

// Shares `units` pieces of work among at most `workers` threads, first come,
// first served: work(unit, worker). A worker number belongs to one thread at a
// time and so names its scratch memory. What a unit computes must not depend on
// the worker, which is how results stay bitwise equal for any number of
// threads.
template <typename Work>
void ForEachUnit(ThreadPool& pool, int64_t units, int workers,
                 const Work& work) {
  if (workers > units) workers = static_cast<int>(units);
  if (workers <= 1) {
    for (int64_t unit = 0; unit < units; ++unit) work(unit, 0);
    return;
  }
  std::atomic<int64_t> next{0};
  pool.Run(workers, [&](int worker) {
    for (int64_t unit = next++; unit < units; unit = next++) work(unit, worker);
  });
}

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_PARALLEL_H_
