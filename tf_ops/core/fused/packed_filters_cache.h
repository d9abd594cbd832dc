// Filters that are remembered in packed form, for those of trained networks:
// they are the same from call to call.

#ifndef KERAS_ADDER_CORE_FUSED_PACKED_FILTERS_CACHE_H_
#define KERAS_ADDER_CORE_FUSED_PACKED_FILTERS_CACHE_H_

#include <cstddef>
#include <cstring>
#include <list>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "core/engine.h"
#include "core/engine_cache.h"
#include "core/workspace.h"

namespace keras_adder {

// The filters that engines used last. An address says nothing about what lies
// there now, so contents are compared, byte by byte. Several threads may use it
// at once.
class PackedFiltersCache {
 public:
  class Entry {
   public:
    Entry(ThreadPool& pool, EngineCache::Value engine, const void* filters,
          size_t bytes)
        : engine_(std::move(engine)),
          filters_(static_cast<const char*>(filters),
                   static_cast<const char*>(filters) + bytes),
          packed_(engine_->packed_filters_bytes() + kWorkspaceAlignment) {
      engine_->PackFilters(pool, filters, data());
    }

    bool Is(const EngineCache::Value& engine, const void* filters,
            size_t bytes) const {
      return engine_ == engine && filters_.size() == bytes &&
             std::memcmp(filters_.data(), filters, bytes) == 0;
    }
    void* data() const {
      void* aligned = const_cast<char*>(packed_.data());
      size_t space = packed_.size();
      return std::align(kWorkspaceAlignment, 1, aligned, space);
    }

   private:
    EngineCache::Value engine_;
    std::vector<char> filters_, packed_;
  };
  using Value = std::shared_ptr<const Entry>;

  // Null for engines that pack nothing apart.
  Value Get(ThreadPool& pool, const EngineCache::Value& engine,
            const void* filters, size_t bytes) {
    if (engine->packed_filters_bytes() == 0) return nullptr;
    for (const Value& entry : Entries()) {
      if (entry->Is(engine, filters, bytes)) return Remember(entry);
    }
    return Remember(
        std::make_shared<const Entry>(pool, engine, filters, bytes));
  }

 private:
  // As many as there are engines that are remembered.
  static constexpr size_t kCapacity = 8;

  // They are compared without the lock, which is why they are shared.
  std::vector<Value> Entries() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return {entries_.begin(), entries_.end()};
  }

  Value Remember(Value entry) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!entries_.empty() && entries_.front() == entry) return entry;
    entries_.remove(entry);
    entries_.push_front(entry);
    if (entries_.size() > kCapacity) entries_.pop_back();
    return entry;
  }

  std::mutex mutex_;
  std::list<Value> entries_;
};

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_FUSED_PACKED_FILTERS_CACHE_H_
