#include "core/parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace keras_adder {
namespace internal {
namespace {

using Clock = std::chrono::steady_clock;

// How long a worker looks out for the end of a task before it lets itself be
// woken up. What it waits for is the rest of an item or two, and often shorter
// than to fall asleep and wake up, which takes some ten microseconds and on
// virtual machines several times as many. A thread that looks for about as long
// as that takes loses no more than twice the time of the better choice.
constexpr auto kLookOut = std::chrono::microseconds(100);

// How long a caller that waits leaves the work to a pool of which nobody has
// come. A thread that is idle comes after some ten microseconds, so a pool that
// has sent none after a hundred times that has none to send for now: all may
// be callers themselves, or busy for long. Little enough not to be noticed
// once, and not so little that a busy machine often makes the caller compete
// with the threads that it waits for.
constexpr auto kPatience = std::chrono::milliseconds(1);

// The first thing that an item has thrown.
class Failure {
 public:
  bool happened() const { return happened_.load(std::memory_order_relaxed); }

  void Keep(std::exception_ptr what) {
    if (!happened_.exchange(true, std::memory_order_relaxed)) {
      what_ = std::move(what);
    }
  }

  // When all items are done.
  void Rethrow() {
    if (what_ != nullptr) {
      std::rethrow_exception(std::exchange(what_, nullptr));
    }
  }

 private:
  std::atomic<bool> happened_{false};
  std::exception_ptr what_;
};

// Deals a task's items out to workers. Each has a range of its own, so that
// the same thread meets the same part of a tensor in one op as in the next, and
// helps others when it is done. The task is touched only by who has taken an
// item of it, so nobody does once all are done.
class ItemQueue {
 public:
  ItemQueue(const AnyTask& task, int workers)
      : task_(task), ranges_(workers), left_(task.items) {
    for (int i = 0; i < workers; ++i) {
      ranges_[i].next = task.items * i / workers;
      ranges_[i].end = task.items * (i + 1) / workers;
    }
  }

  // Runs items until all have been taken.
  void Take(int worker, Failure& failure) {
    const int workers = static_cast<int>(ranges_.size());
    for (int i = 0; i < workers; ++i) {
      ItemRange& range = ranges_[(worker + i) % workers];
      for (int64_t item = range.next++; item < range.end; item = range.next++) {
        RunItem(item, worker, failure);
      }
    }
  }

  bool done() const { return left_.load(std::memory_order_acquire) == 0; }

  // Until all items are done. Whoever comes here has taken what nobody else
  // had, so those that are waited for are running.
  void Wait() {
    const Clock::time_point end = Clock::now() + kLookOut;
    while (!done()) {
      if (Clock::now() >= end) return Sleep();
      // In favour of who runs an item on this core, if anybody does.
      std::this_thread::yield();
    }
  }

  // The same, but does not take a moment of a core that others could use.
  void Sleep() {
    std::unique_lock<std::mutex> lock(mutex_);
    all_done_.wait(lock, [this] { return done(); });
  }

  void SleepAtMost(Clock::duration duration) {
    std::unique_lock<std::mutex> lock(mutex_);
    all_done_.wait_for(lock, duration, [this] { return done(); });
  }

 private:
  struct alignas(64) ItemRange {
    std::atomic<int64_t> next;
    int64_t end;
  };

  void RunItem(int64_t item, int worker, Failure& failure) {
    if (!failure.happened()) {
      try {
        task_.run(task_.work, item, worker);
      } catch (...) {
        failure.Keep(std::current_exception());
      }
    }
    if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) WakeAll();
  }

  void WakeAll() {
    // Who has seen an item left is asleep by the time the lock is free.
    {
      const std::lock_guard<std::mutex> lock(mutex_);
    }
    all_done_.notify_all();
  }

  const AnyTask task_;
  std::vector<ItemRange> ranges_;
  alignas(64) std::atomic<int64_t> left_;
  std::mutex mutex_;
  std::condition_variable all_done_;
};

// What the caller and its helpers share. It outlives the tasks themselves, for
// the sake of helpers that come late.
class TaskRun {
 public:
  static constexpr int kNone = -1;

  TaskRun(int workers, const AnyTask* tasks, int count) : taken_(workers) {
    // Without empty tasks, all are done when the last one is.
    for (int i = 0; i < count; ++i) {
      if (tasks[i].items > 0) queues_.emplace_back(tasks[i], workers);
    }
  }

  bool done() const { return queues_.empty() || queues_.back().done(); }

  // Returns the number of a new worker, `wanted` if nobody has it; or kNone, if
  // there is nothing to do or there are enough.
  int Enter(int wanted) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (done()) return kNone;
    if (taken_[wanted]) {
      const auto free = std::find(taken_.begin(), taken_.end(), false);
      if (free == taken_.end()) return kNone;
      wanted = static_cast<int>(free - taken_.begin());
    }
    taken_[wanted] = true;
    begun_ = true;
    return wanted;
  }

  // Takes part until all items of the last task have been taken.
  void Work(int worker) {
    if (worker == kNone) return;
    for (ItemQueue& queue : queues_) {
      queue.Take(worker, failure_);
      if (&queue != &queues_.back()) queue.Wait();
    }
  }

  // Waits until all is done, unless no helper has come after a while.
  void LeaveToHelpers() {
    queues_.back().SleepAtMost(kPatience);
    if (begun()) queues_.back().Sleep();
  }

  // Waits until all is done, and throws what an item has thrown.
  void Finish() {
    queues_.back().Wait();
    failure_.Rethrow();
  }

 private:
  bool begun() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return begun_;
  }

  std::deque<ItemQueue> queues_;
  Failure failure_;
  std::mutex mutex_;
  std::vector<bool> taken_;  // worker numbers
  bool begun_ = false;       // by a worker, whichever
};

// Asks for helpers `first` to `workers` - 1; returns whether the pool has taken
// any.
bool Offer(ThreadPool& pool, const std::shared_ptr<TaskRun>& run, int first,
           int workers) {
  for (int i = first; i < workers; ++i) {
    if (run->done()) return true;
    try {
      pool.Schedule(i, [run, i] { run->Work(run->Enter(i)); });
    } catch (...) {
      // For lack of memory or threads: one that will not come.
      return i > first;
    }
  }
  return workers > first;
}

}  // namespace

void RunAnyTasks(ThreadPool& pool, int workers, const AnyTask* tasks,
                 int count) {
  const auto run = std::make_shared<TaskRun>(workers, tasks, count);
  if (run->done()) return;
  if (pool.caller() == ThreadPool::Caller::kWorks) {
    // Before any helper, so that it has the same part of the work every time.
    const int worker = run->Enter(0);
    Offer(pool, run, 1, workers);
    run->Work(worker);
  } else {
    if (Offer(pool, run, 0, workers)) run->LeaveToHelpers();
    run->Work(run->Enter(0));
  }
  run->Finish();
}

}  // namespace internal
}  // namespace keras_adder
