// The one thing the core asks of its host besides memory: a way to run
// functions at the same time.

#ifndef KERAS_ADDER_CORE_PARALLEL_H_
#define KERAS_ADDER_CORE_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <iterator>
#include <thread>
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

// Some pieces of work, work(unit, worker), that may be done at the same time.
// What a unit computes must not depend on the worker, which is how results stay
// bitwise equal for any number of threads.
template <typename Work>
struct Task {
  int64_t units;
  Work work;
};

template <typename Work>
Task(int64_t, Work) -> Task<Work>;

// Fills memory with zeros.
inline auto ZeroTask(void* memory, int64_t bytes) {
  static constexpr int64_t kUnitBytes = 256 << 10;
  const auto clear = [memory, bytes](int64_t unit, int) {
    const int64_t first = unit * kUnitBytes;
    std::memset(static_cast<char*>(memory) + first, 0,
                std::min(kUnitBytes, bytes - first));
  };
  return Task{(bytes + kUnitBytes - 1) / kUnitBytes, clear};
}

// Deals a task's units out to workers. Each has a range of its own, so that
// the same thread meets the same part of a tensor in one op as in the next, and
// helps others when it is done.
class UnitQueue {
 public:
  UnitQueue(int64_t units, int workers) : ranges_(workers), left_(units) {
    for (int i = 0; i < workers; ++i) {
      ranges_[i].next = units * i / workers;
      ranges_[i].end = units * (i + 1) / workers;
    }
  }

  template <typename Work>
  void Take(int worker, const Work& work) {
    const int workers = static_cast<int>(ranges_.size());
    for (int i = 0; i < workers; ++i) {
      Range& range = ranges_[(worker + i) % workers];
      for (int64_t unit = range.next++; unit < range.end; unit = range.next++) {
        const Done done{left_};
        work(unit, worker);
      }
    }
  }

  // Until all units are done. Whoever comes here has taken what nobody else
  // had begun, so those that are waited for are running.
  void Wait() const {
    while (left_.load(std::memory_order_acquire) > 0) std::this_thread::yield();
  }

 private:
  struct alignas(64) Range {
    std::atomic<int64_t> next;
    int64_t end;
  };
  // Even if the unit throws, or others would wait forever.
  struct Done {
    std::atomic<int64_t>& left;
    ~Done() { left.fetch_sub(1, std::memory_order_release); }
  };

  std::vector<Range> ranges_;
  std::atomic<int64_t> left_;
};

// Runs tasks one after the other, all by the same threads, at most `workers`:
// to wake them up takes longer than many a task. A worker number belongs to
// one thread and so names its scratch memory. After a unit that throws, the
// others go on with whatever it left, and Run throws in the end.
template <typename... Works>
void RunTasks(ThreadPool& pool, int workers, const Task<Works>&... tasks) {
  if (workers <= 1) {
    const auto run = [](const auto& task) {
      for (int64_t unit = 0; unit < task.units; ++unit) task.work(unit, 0);
    };
    (run(tasks), ...);
    return;
  }
  std::deque<UnitQueue> queues;
  (queues.emplace_back(tasks.units, workers), ...);
  pool.Run(workers, [&](int worker) {
    auto queue = queues.begin();
    const auto run = [&](const auto& task) {
      if (queue != queues.begin()) std::prev(queue)->Wait();
      queue->Take(worker, task.work);
      ++queue;
    };
    (run(tasks), ...);
  });
}

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_PARALLEL_H_
