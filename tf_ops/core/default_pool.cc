#include "core/default_pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

namespace keras_adder {
namespace {

// Threads that sleep until there is something for them to run.
class Crew {
 public:
  // Threads other than the one of this number run the function if it is busy.
  void Schedule(int number, std::function<void()> function) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (stopped_) return;
    while (static_cast<int>(members_.size()) <= number) Start();
    Member& member = Chosen(number);
    member.functions.push_back(std::move(function));
    member.idle = false;
    member.wake.notify_one();
  }

  // Returns when no thread is left. Functions that none has begun never run.
  void Stop() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopped_ = true;
      for (Member& member : members_) member.wake.notify_one();
    }
    for (Member& member : members_) member.thread.join();
  }

 private:
  struct Member {
    std::deque<std::function<void()>> functions;
    std::condition_variable wake;
    bool idle = true;  // it sleeps, and nobody has given it anything
    std::thread thread;
  };

  void Start() {
    Member& member = members_.emplace_back();
    // Signals are the program's own threads' business.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      member.thread = std::thread([this, &member] { Run(member); });
    } catch (...) {
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      members_.pop_back();
      throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  Member& Chosen(int number) {
    Member& wanted = members_[number];
    const auto is_idle = [](const Member& member) { return member.idle; };
    const auto idle =
        wanted.idle ? members_.begin() + number
                    : std::find_if(members_.begin(), members_.end(), is_idle);
    Member& chosen = idle == members_.end() ? wanted : *idle;
    return chosen;
  }

  void Run(Member& member) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!stopped_) {
      std::function<void()> function = Next(member);
      if (function == nullptr) {
        member.idle = true;
        member.wake.wait(lock);
        member.idle = false;
        continue;
      }
      lock.unlock();
      function();
      function = nullptr;
      lock.lock();
    }
  }

  // What this thread is to run or, if that is nothing, what another one has
  // not come to yet.
  std::function<void()> Next(Member& member) {
    const auto has_any = [](const Member& m) { return !m.functions.empty(); };
    const auto other = std::find_if(members_.begin(), members_.end(), has_any);
    if (!has_any(member) && other == members_.end()) return nullptr;
    auto& functions = has_any(member) ? member.functions : other->functions;
    std::function<void()> next = std::move(functions.front());
    functions.pop_front();
    return next;
  }

  std::mutex mutex_;
  std::deque<Member> members_;  // they stay where they are
  bool stopped_ = false;
};

// Made when it is first needed and never freed: somebody may still be about to
// schedule when the process ends. A child process gets another one, since the
// threads of this one are not in it and may have held its lock.
std::atomic<Crew*> current_crew{nullptr};

Crew& CurrentCrew() {
  Crew* crew = current_crew.load(std::memory_order_acquire);
  if (crew != nullptr) return *crew;
  Crew* const made = new Crew;
  if (current_crew.compare_exchange_strong(crew, made)) return *made;
  delete made;
  return *crew;
}

// Made when the library is loaded, destroyed when it is unloaded or the process
// ends. If there is no crew by then, a stopped one keeps others from being
// made.
struct Lifetime {
  Lifetime() {
    pthread_atfork(nullptr, nullptr, [] { current_crew = nullptr; });
  }
  ~Lifetime() { CurrentCrew().Stop(); }
} lifetime;

}  // namespace

void DefaultPool::Schedule(int worker, std::function<void()> helper) {
  // The caller is worker 0.
  CurrentCrew().Schedule(std::max(worker - 1, 0), std::move(helper));
}

}  // namespace keras_adder
