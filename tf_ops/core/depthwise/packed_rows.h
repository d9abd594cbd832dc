// Rows of a tensor that are packed, as many as taps meet at once. Without
// dilation a row serves all rows at the other end of the filters that meet it,
// one after the other.

#ifndef KERAS_ADDER_CORE_DEPTHWISE_PACKED_ROWS_H_
#define KERAS_ADDER_CORE_DEPTHWISE_PACKED_ROWS_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/tile.h"

namespace keras_adder {
namespace internal {

class PackedRows {
 public:
  // For so many taps, each of which meets `distance` rows from the one before,
  // of a tensor that has `rows`.
  PackedRows(int64_t taps, int64_t distance, int64_t rows)
      : distance_(distance),
        slots_(std::max<int64_t>(1, std::min(taps, CeilDiv(rows, distance)))) {}

  int64_t slots() const { return slots_; }
  // Rows that are met at once have slots of their own.
  int64_t SlotOf(int64_t row) const { return row / distance_ % slots_; }

  // Which row each slot holds: for a worker to remember.
  class Held {
   public:
    explicit Held(const PackedRows& rows) : rows_(rows.slots(), -1) {}
    // Whether a row has yet to be packed into this slot, as it now will be.
    bool Misses(int64_t slot, int64_t row) {
      if (rows_[slot] == row) return false;
      rows_[slot] = row;
      return true;
    }

   private:
    std::vector<int64_t> rows_;
  };

 private:
  int64_t distance_, slots_;
};

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_DEPTHWISE_PACKED_ROWS_H_
