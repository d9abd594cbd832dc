#include "threads_test.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/default_pool.h"
#include "core/parallel.h"

namespace keras_adder {
namespace {

using Caller = ThreadPool::Caller;
using std::chrono::microseconds;
using std::chrono::milliseconds;

// A hang is a failure. Seconds, for an emulator, too.
constexpr unsigned kTimeLimit = 300;

std::atomic<int> checks{0};
std::atomic<int> failures{0};

void Expect(bool condition, const char* what) {
  ++checks;
  if (condition) return;
  ++failures;
  std::printf("FAILED threads: %s\n", what);
}

class TestPool : public ThreadPool {
 public:
  TestPool(int size, Caller caller) : size_(size), caller_(caller) {}
  int size() const override { return size_; }
  Caller caller() const override { return caller_; }

 private:
  int size_;
  Caller caller_;
};

// The default pool, with callers of either kind.
class RealPool : public TestPool {
 public:
  using TestPool::TestPool;
  void Schedule(int worker, std::function<void()> helper) override {
    DefaultPool(size()).Schedule(worker, std::move(helper));
  }
};

class NeverPool : public TestPool {
 public:
  using TestPool::TestPool;
  void Schedule(int, std::function<void()>) override {}
};

class ThrowingPool : public TestPool {
 public:
  ThrowingPool(int size, Caller caller, int taken)
      : TestPool(size, caller), taken_(taken) {}
  void Schedule(int worker, std::function<void()> helper) override {
    if (taken_-- <= 0) throw std::bad_alloc();
    DefaultPool(size()).Schedule(worker, std::move(helper));
  }

 private:
  int taken_;
};

class InlinePool : public TestPool {
 public:
  using TestPool::TestPool;
  void Schedule(int, std::function<void()> helper) override { helper(); }
};

// Runs helpers when it is told to.
class LatePool : public TestPool {
 public:
  using TestPool::TestPool;
  void Schedule(int, std::function<void()> helper) override {
    helpers_.push_back(std::move(helper));
  }
  void RunAll() {
    for (const auto& helper : helpers_) helper();
    helpers_.clear();
  }

 private:
  std::vector<std::function<void()>> helpers_;
};

// Runs helpers on threads that begin within some time: before the caller has
// done its part, while it returns, or after.
class UnpunctualPool : public TestPool {
 public:
  UnpunctualPool(int size, Caller caller, microseconds earliest,
                 microseconds latest)
      : TestPool(size, caller), delay_(earliest.count(), latest.count()) {}
  ~UnpunctualPool() override {
    for (std::thread& thread : threads_) thread.join();
  }
  void Schedule(int, std::function<void()> helper) override {
    const microseconds delay(delay_(random_));
    threads_.emplace_back([delay, helper = std::move(helper)] {
      std::this_thread::sleep_for(delay);
      helper();
    });
  }

 private:
  std::uniform_int_distribution<int64_t> delay_;
  std::mt19937 random_{1912};
  std::vector<std::thread> threads_;
};

// Runs all helpers on one thread, whatever it says.
class OneThreadPool : public TestPool {
 public:
  using TestPool::TestPool;
  ~OneThreadPool() override {
    done_ = true;
    thread_.join();
  }
  void Schedule(int, std::function<void()> helper) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    helpers_.push_back(std::move(helper));
  }

 private:
  void Run() {
    while (!done_) {
      std::vector<std::function<void()>> helpers;
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        helpers.swap(helpers_);
      }
      for (const auto& helper : helpers) helper();
      std::this_thread::yield();
    }
  }

  std::mutex mutex_;
  std::vector<std::function<void()>> helpers_;
  std::atomic<bool> done_{false};
  std::thread thread_{[this] { Run(); }};
};

void Spin(microseconds duration) {
  const auto end = std::chrono::steady_clock::now() + duration;
  while (std::chrono::steady_clock::now() < end) {
  }
}

// A run of tasks that notices whatever must not happen. Its memory is freed
// when it ends, for sanitizers to see who comes later.
class Exercise {
 public:
  // `extra` is done by every item, besides.
  Exercise(
      ThreadPool& pool, int workers,
      std::function<void(int64_t)> extra = [](int64_t) {})
      : pool_(pool),
        workers_(workers),
        extra_(std::move(extra)),
        busy_(std::make_unique<std::atomic<bool>[]>(workers)) {}

  void Run(int64_t first = 3, int64_t second = 37, int64_t third = 2) {
    Stage a(0, first), b(first, second), c(first + second, third);
    const auto work = [this](Stage& stage) {
      return Task{stage.items, [this, &stage](int64_t item, int worker) {
                    RunItem(stage, item, worker);
                  }};
    };
    const Task nothing{0, [](int64_t, int) { Expect(false, "no items"); }};
    RunTasks(pool_, workers_, nothing, work(a), work(b), nothing, work(c),
             nothing);
    CheckEnd({&a, &b, &c});
  }

 private:
  struct Stage {
    Stage(int64_t before, int64_t items)
        : before(before),
          items(items),
          times(std::make_unique<std::atomic<int>[]>(items)) {}
    const int64_t before;  // items of earlier stages
    const int64_t items;
    std::unique_ptr<std::atomic<int>[]> times;
  };

  void RunItem(Stage& stage, int64_t item, int worker) {
    if (ended_ || worker < 0 || worker >= workers_) {
      return Expect(false, "an item only while its run lasts");
    }
    // Relaxed, so that a sanitizer sees whether threads are told of each other.
    if (busy_[worker].exchange(true, std::memory_order_relaxed)) {
      Expect(false, "a worker number belongs to one thread");
    }
    if (completed_.load(std::memory_order_relaxed) < stage.before) {
      Expect(false, "a task begins when the one before it is done");
    }
    ++plain_[worker % kPlain][stage.before == 0];
    stage.times[item].fetch_add(1, std::memory_order_relaxed);
    extra_(item);
    completed_.fetch_add(1, std::memory_order_relaxed);
    busy_[worker].store(false, std::memory_order_relaxed);
  }

  void CheckEnd(const std::vector<const Stage*>& stages) {
    ended_ = true;
    int64_t items = 0;
    bool once = true;
    for (const Stage* stage : stages) {
      for (int64_t i = 0; i < stage->items; ++i) once &= stage->times[i] == 1;
      items += stage->items;
    }
    int64_t plain = 0;
    for (const auto& counts : plain_) plain += counts[0] + counts[1];
    Expect(once, "every item runs once");
    Expect(completed_ == items && plain == items, "all is done at the end");
  }

  // Not atomic: a worker's scratch memory.
  static constexpr int kPlain = 64;
  int64_t plain_[kPlain][2] = {};

  ThreadPool& pool_;
  const int workers_;
  const std::function<void(int64_t)> extra_;
  std::unique_ptr<std::atomic<bool>[]> busy_;
  std::atomic<int64_t> completed_{0};
  std::atomic<bool> ended_{false};
};

void TestPools(Caller caller) {
  for (const int workers : {1, 2, 3, 8}) {
    NeverPool never(workers, caller);
    Exercise(never, workers).Run();
    InlinePool in_line(workers, caller);
    Exercise(in_line, workers).Run();
    OneThreadPool one(workers, caller);
    for (int i = 0; i < 20; ++i) Exercise(one, workers).Run();
    RealPool real(workers, caller);
    for (int i = 0; i < 200; ++i) Exercise(real, workers).Run();
    Exercise(real, workers).Run(0, 0, 0);
    Exercise(real, workers).Run(1, 0, 0);
    for (int taken = 0; taken < workers; ++taken) {
      ThrowingPool throwing(workers, caller, taken);
      Exercise(throwing, workers).Run();
    }
  }
}

// Helpers come until well after a caller that waits has lost its patience.
void TestLateHelpers(Caller caller) {
  LatePool late(4, caller);
  std::make_unique<Exercise>(late, 4)->Run();
  late.RunAll();
  UnpunctualPool unpunctual(4, caller, microseconds(0), milliseconds(3));
  for (int i = 0; i < 60; ++i) {
    const auto spin = [i](int64_t) { Spin(microseconds(2 * i)); };
    std::make_unique<Exercise>(unpunctual, 4, spin)->Run();
  }
}

// An item may itself run tasks, and all threads of a pool may be callers.
void TestNestedRuns(Caller caller) {
  RealPool pool(3, caller);
  const auto nested = [&pool](int64_t item) {
    if (item % 4 == 0) Exercise(pool, 3).Run();
  };
  for (int i = 0; i < 10; ++i) Exercise(pool, 3, nested).Run();
}

void TestManyCallers(Caller caller) {
  RealPool pool(4, caller);
  std::vector<std::thread> callers;
  for (int i = 0; i < 8; ++i) {
    callers.emplace_back([&pool] {
      for (int i = 0; i < 50; ++i) Exercise(pool, 4).Run();
    });
  }
  for (std::thread& thread : callers) thread.join();
}

// `throws` says which items do.
void TestThrowing(ThreadPool& pool,
                  const std::function<bool(int64_t)>& throws) {
  std::atomic<int> running{0}, after{0};
  const auto work = [&](int64_t item, int) {
    ++running;
    Spin(microseconds(20));
    --running;
    if (throws(item)) throw std::bad_alloc();
  };
  int caught = 0;
  try {
    RunTasks(pool, pool.size(), Task{int64_t{40}, work},
             Task{int64_t{40}, [&](int64_t, int) { ++after; }});
  } catch (const std::bad_alloc&) {
    ++caught;
    Expect(running == 0, "no item runs when the exception arrives");
  }
  Expect(caught == 1, "what an item throws is thrown in the caller");
  Expect(after == 0, "no task begins after an item that has thrown");
  Exercise(pool, pool.size()).Run();
}

void TestExceptions(Caller caller) {
  const auto all = [](int64_t) { return true; };
  const auto first = [](int64_t item) { return item == 0; };
  const auto last = [](int64_t item) { return item == 39; };
  NeverPool never(4, caller);
  InlinePool in_line(4, caller);
  RealPool real(4, caller);
  for (ThreadPool* pool :
       std::initializer_list<ThreadPool*>{&never, &in_line, &real, &real}) {
    TestThrowing(*pool, all);
    TestThrowing(*pool, first);
    TestThrowing(*pool, last);
  }
  int caught = 0;
  try {
    RunTasks(real, 4, Task{int64_t{9}, [](int64_t, int) {
                             throw std::range_error("as it was");
                           }});
  } catch (const std::range_error& error) {
    caught += std::string(error.what()) == "as it was";
  }
  Expect(caught == 1, "an exception of any type arrives");
}

// Workers that come in time begin with the items of their own number.
void TestOwnRanges() {
  constexpr int kWorkers = 4;
  DefaultPool pool(kWorkers);
  std::atomic<int> arrived{0};
  std::atomic<bool> own{true};
  const auto work = [&](int64_t item, int worker) {
    if (item != worker) own = false;
    for (++arrived; arrived < kWorkers;) std::this_thread::yield();
  };
  RunTasks(pool, kWorkers, Task{int64_t{kWorkers}, work});
  Expect(own, "each worker has its own range first");
}

// To wait for an item that takes long costs no processor's time.
void TestLongWaits(Caller caller) {
  RealPool pool(4, caller);
  const auto sleep = [](int64_t item, int) {
    if (item == 0) std::this_thread::sleep_for(milliseconds(200));
  };
  const std::clock_t begin = std::clock();
  RunTasks(pool, 4, Task{int64_t{4}, sleep}, Task{int64_t{4}, sleep});
  const double seconds =
      static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  Expect(seconds < 0.1, "long waits are spent asleep");
}

// When nobody has come to a caller that waits, helpers still can.
void TestHelpersJoinImpatientCaller() {
  UnpunctualPool pool(2, Caller::kWaits, milliseconds(20), milliseconds(20));
  std::atomic<bool> helped{false};
  const auto caller = std::this_thread::get_id();
  const auto work = [&](int64_t, int) {
    if (std::this_thread::get_id() != caller) helped = true;
    for (int i = 0; i < 5000 && !helped; ++i) {
      std::this_thread::sleep_for(milliseconds(1));
    }
  };
  RunTasks(pool, 2, Task{int64_t{2}, work});
  Expect(helped, "a caller does not go on alone when helpers come");
}

// The child has none of its parent's threads.
void TestFork() {
  // Neither ThreadSanitizer nor the emulator that runs aarch64 can start
  // threads there.
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
  DefaultPool pool(3);
  Exercise(pool, 3).Run();
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    alarm(kTimeLimit);  // not inherited
    failures = 0;
    TestOwnRanges();  // it needs all helpers
    for (int i = 0; i < 20; ++i) Exercise(pool, 3).Run();
    std::fflush(stdout);
    _exit(failures == 0 ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  Expect(status == 0, "a child process starts threads of its own");
#endif
}

}  // namespace

void TestThreads(int* all_checks, int* all_failures) {
  alarm(kTimeLimit);
  for (const Caller caller : {Caller::kWorks, Caller::kWaits}) {
    TestPools(caller);
    TestLateHelpers(caller);
    TestNestedRuns(caller);
    TestManyCallers(caller);
    TestExceptions(caller);
    TestLongWaits(caller);
  }
  TestOwnRanges();
  TestHelpersJoinImpatientCaller();
  TestFork();
  alarm(0);
  *all_checks += checks;
  *all_failures += failures;
}

}  // namespace keras_adder
