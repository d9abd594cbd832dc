// The one thing the core asks of its host besides memory: a way to run
// functions at the same time.

#ifndef KERAS_ADDER_CORE_PARALLEL_H_
#define KERAS_ADDER_CORE_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

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

// Units first ... end - 1 of a worker, of which `next` is the first that nobody
// has taken. On a cache line of its own.
struct alignas(64) UnitRange {
  std::atomic<int64_t> next;
  int64_t end;
};

// Shares `units` pieces of work among at most `workers` threads:
// work(unit, worker). Each has a range of its own, so that the same thread
// meets the same part of a tensor in one op as in the next, and helps others
// when it is done. A worker number belongs to one thread at a time and so names
// its scratch memory. What a unit computes must not depend on the worker, which
// is how results stay bitwise equal for any number of threads.
template <typename Work>
void ForEachUnit(ThreadPool& pool, int64_t units, int workers,
                 const Work& work) {
  if (workers > units) workers = static_cast<int>(units);
  if (workers <= 1) {
    for (int64_t unit = 0; unit < units; ++unit) work(unit, 0);
    return;
  }
  std::vector<UnitRange> ranges(workers);
  for (int i = 0; i < workers; ++i) {
    ranges[i].next = units * i / workers;
    ranges[i].end = units * (i + 1) / workers;
  }
  pool.Run(workers, [&](int worker) {
    for (int i = 0; i < workers; ++i) {
      UnitRange& range = ranges[(worker + i) % workers];
      for (int64_t unit = range.next++; unit < range.end; unit = range.next++) {
        work(unit, worker);
      }
    }
  });
}

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_PARALLEL_H_
