// Filter gradients that are summed chunk by chunk: one packed partial gradient
// for each chunk of the pixels, added up in order at the end. How many chunks
// there are depends on the geometry alone, so the result does not depend on the
// number of threads.

#ifndef KERAS_ADDER_CORE_PARTIAL_FILTERS_H_
#define KERAS_ADDER_CORE_PARTIAL_FILTERS_H_

#include <algorithm>
#include <cstdint>

#include "core/packed_filters.h"

namespace keras_adder {

class PartialFilters {
 public:
  PartialFilters() = default;

  // `items_of_chunk` is how many work items each chunk has anyway, `tiles` how
  // many tiles all chunks have together.
  PartialFilters(const PackedFilters& filters, int64_t element,
                 int64_t items_of_chunk, int64_t tiles)
      : size_(filters.panel_stride()),
        stride_(CeilDiv(filters.size() * element, kAlignment) * kAlignment /
                element) {
    const int64_t affordable =
        std::max<int64_t>(1, kBytes / (filters.size() * element));
    const int64_t most =
        std::min({CeilDiv(kWantedItems, items_of_chunk), affordable, tiles});
    // As few chunks as need no more tiles each: chunks of 2 and of 3 tiles
    // would make some threads wait for those with 3.
    chunks_ = CeilDiv(tiles, CeilDiv(tiles, most));
  }

  int64_t chunks() const { return chunks_; }
  int64_t stride() const { return stride_; }
  int64_t elements() const { return chunks_ * stride_; }

  // Adds all chunks of one panel to the first's, a few slots at a time
  // that stay in the first-level cache.
  template <typename C>
  void AddChunks(const KernelSet& set, int64_t panel, C* partials) const {
    const int64_t slots = size_ / kLanes;
    for (int64_t first = 0; first < slots; first += kSumSlots) {
      const int64_t count = std::min(kSumSlots, slots - first);
      C* const total = partials + panel * size_ + first * kLanes;
      for (int64_t chunk = 1; chunk < chunks_; ++chunk) {
        KernelsOf<C>(set).add_slots(total + chunk * stride_, count, total);
      }
    }
  }

 private:
  // Work items wanted for a good balance between threads, and the memory that
  // partial gradients may take for it.
  static constexpr int64_t kWantedItems = 32;
  static constexpr int64_t kBytes = 8 << 20;
  static constexpr int64_t kAlignment = 64;
  static constexpr int64_t kSumSlots = 128;

  int64_t size_ = 0;
  int64_t stride_ = 0;
  int64_t chunks_ = 0;
};

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_PARTIAL_FILTERS_H_
