// The one thing the core asks of its host besides memory: a way to run
// functions at the same time.
//
// A pool is asked for help and owes nothing. Whoever calls RunTasks can do all
// of the work alone; a helper that the pool runs takes part from when it comes.
// It may come late, when it finds nothing left to do, or never. What helpers
// and caller share (internal::TaskRun in parallel.cc) lives as long as the last
// of them, and nobody waits but for items that somebody is running.

#ifndef KERAS_ADDER_CORE_PARALLEL_H_
#define KERAS_ADDER_CORE_PARALLEL_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>

namespace keras_adder {

class ThreadPool {
 public:
  // What the thread that calls RunTasks does while helpers may work: the same
  // as they, or nothing. A caller that waits begins to work if no helper has
  // come within kPatience (parallel.cc).
  enum class Caller { kWorks, kWaits };

  virtual ~ThreadPool() = default;

  // How many threads may work at the same time (at least 1), the caller among
  // them if it works.
  virtual int size() const = 0;

  // Runs `helper` at any time, on any thread, or never; but once at most, and
  // not later than code of this library can be run. It throws nothing and does
  // not block for long. Where threads can be chosen, the same `worker`, less
  // than size(), should mean the same one every time: it then meets the same
  // part of a tensor. Schedule may throw if it has not taken the helper.
  virtual void Schedule(int worker, std::function<void()> helper) = 0;

  // Asked once for each call of RunTasks, on the thread that calls.
  virtual Caller caller() const { return Caller::kWorks; }
};

// Work items that a pass should have for each thread, so that one that is late
// does not matter much.
constexpr int64_t kItemsPerThread = 4;

// Some pieces of work, work(item, worker), that may be done at the same time.
// What an item computes must not depend on the worker, which is how results
// stay bitwise equal for any number of threads.
template <typename Work>
struct Task {
  int64_t items;
  Work work;
};

template <typename Work>
Task(int64_t, Work) -> Task<Work>;

// Fills memory with zeros.
inline auto ZeroTask(void* memory, int64_t bytes) {
  static constexpr int64_t kItemBytes = 256 << 10;
  const auto clear = [memory, bytes](int64_t item, int) {
    const int64_t first = item * kItemBytes;
    std::memset(static_cast<char*>(memory) + first, 0,
                std::min(kItemBytes, bytes - first));
  };
  return Task{(bytes + kItemBytes - 1) / kItemBytes, clear};
}

namespace internal {

// A task of any type of work, which somebody else owns.
struct AnyTask {
  int64_t items;
  const void* work;
  void (*run)(const void* work, int64_t item, int worker);
};

template <typename Work>
AnyTask AnyTaskOf(const Task<Work>& task) {
  const auto run = [](const void* work, int64_t item, int worker) {
    (*static_cast<const Work*>(work))(item, worker);
  };
  return {task.items, &task.work, run};
}

void RunAnyTasks(ThreadPool& pool, int workers, const AnyTask* tasks,
                 int count);

}  // namespace internal

// Runs tasks one after the other, all by the same threads, at most `workers`
// and no more than the pool has: to wake them up takes longer than many a task.
// A worker number, less than `workers`, belongs to one thread and so names its
// scratch memory. After an item that throws, no other is begun, and once those
// that had been are done, RunTasks throws the same.
template <typename... Works>
void RunTasks(ThreadPool& pool, int workers, const Task<Works>&... tasks) {
  workers = std::min(workers, pool.size());
  if (workers <= 1) {
    const auto run = [](const auto& task) {
      for (int64_t item = 0; item < task.items; ++item) task.work(item, 0);
    };
    (run(tasks), ...);
    return;
  }
  const internal::AnyTask any[] = {internal::AnyTaskOf(tasks)...};
  internal::RunAnyTasks(pool, workers, any, sizeof...(tasks));
}

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_PARALLEL_H_
