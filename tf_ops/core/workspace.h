// How the parts of a workspace lie in memory.

#ifndef KERAS_ADDER_CORE_WORKSPACE_H_
#define KERAS_ADDER_CORE_WORKSPACE_H_

#include <cstdint>

#include "core/tile.h"

namespace keras_adder {

// Workspaces start at a multiple of this many bytes.
constexpr int64_t kWorkspaceAlignment = 64;

// What different threads write lies this many bytes apart. Nearer, two cores
// that have no cache in common took up to a tenth more time; beyond 256 KiB
// there was no difference. Nothing touches a gap, so it takes no memory.
constexpr int64_t kGap = 256 << 10;

// The elements that a part takes.
inline int64_t Aligned(int64_t elements, int64_t element_bytes) {
  return RoundUp(elements, kWorkspaceAlignment / element_bytes);
}

// The same, with a gap behind it (which the last part of a workspace lacks).
inline int64_t SetApart(int64_t elements, int64_t element_bytes) {
  return Aligned(elements, element_bytes) + kGap / element_bytes;
}

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_WORKSPACE_H_
