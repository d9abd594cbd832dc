// Engines that are remembered: to plan one takes as long as to run a small one.

#ifndef KERAS_ADDER_CORE_ENGINE_CACHE_H_
#define KERAS_ADDER_CORE_ENGINE_CACHE_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <utility>

#include "core/engine.h"

namespace keras_adder {

// The engines used last, of one operation: attributes and types are the same
// for all, so that shapes and threads tell them apart. Several threads may use
// it at once.
class EngineCache {
 public:
  // The sizes of the input, of the filters, and the threads.
  using Key = std::array<int64_t, 9>;
  using Value = std::shared_ptr<const Engine>;

  // Null if there is none.
  Value Find(const Key& key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found =
        std::find_if(entries_.begin(), entries_.end(),
                     [&](const auto& entry) { return entry.first == key; });
    if (found == entries_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, found);
    return found->second;
  }

  void Insert(const Key& key, Value value) {
    const std::lock_guard<std::mutex> lock(mutex_);
    // Another thread may have planned the same.
    entries_.remove_if([&](const auto& entry) { return entry.first == key; });
    entries_.emplace_front(key, std::move(value));
    if (entries_.size() > kCapacity) entries_.pop_back();
  }

 private:
  static constexpr size_t kCapacity = 8;

  std::mutex mutex_;
  std::list<std::pair<Key, Value>> entries_;
};

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_ENGINE_CACHE_H_
