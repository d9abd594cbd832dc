// How the parts of a workspace lie in memory.

#ifndef KERAS_ADDER_CORE_WORKSPACE_H_
#define KERAS_ADDER_CORE_WORKSPACE_H_

#include <cstdint>

#include "core/tile.h"

namespace keras_adder {

// Workspaces start at a multiple of this many bytes.
constexpr int64_t kWorkspaceAlignment = 64;

// What different threads write lies this many bytes apart. Nearer, two cores
// that have no cache in common took more time; beyond 256 KiB there was no
// difference. Nothing touches a gap, so it takes no memory.
inline int64_t GapBytes(int threads) { return threads > 1 ? 256 << 10 : 0; }

// The elements that a part of a workspace takes, and a gap behind it (which the
// last part of all lacks).
inline int64_t PaddedSize(int64_t elements, int64_t element_bytes,
                          int threads) {
  return RoundUp(elements, kWorkspaceAlignment / element_bytes) +
         GapBytes(threads) / element_bytes;
}

// Hands out parts of a workspace: where each begins, in bytes.
class Places {
 public:
  int64_t Take(int64_t bytes) {
    const int64_t begin = end_;
    end_ += RoundUp(bytes, kWorkspaceAlignment);
    return begin;
  }
  int64_t end() const { return end_; }

 private:
  int64_t end_ = 0;
};

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_WORKSPACE_H_
