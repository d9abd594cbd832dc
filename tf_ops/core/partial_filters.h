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

  // `filter_units` is the number of parts that each chunk is cut into anyway,
  // `tiles` the number of tiles that chunks are made of.
  PartialFilters(const PackedFilters& filters, int64_t element,
                 int64_t filter_units, int64_t tiles)
      : size_(filters.destination_plane_stride()),
        stride_(CeilDiv(filters.size() * element, kAlignment) * kAlignment /
                element) {
    const int64_t affordable =
        std::max<int64_t>(1, kBytes / (filters.size() * element));
    const int64_t most =
        std::min({CeilDiv(kWantedUnits, filter_units), affordable, tiles});
    // As few as have no more tiles: chunks of 2 and 3 tiles would make some
    // threads wait for those with 3.
    chunks_ = CeilDiv(tiles, CeilDiv(tiles, most));
  }

  int64_t chunks() const { return chunks_; }
  int64_t stride() const { return stride_; }
  int64_t elements() const { return chunks_ * stride_; }

  // Adds all chunks of one packed unit to the first's.
  template <typename C>
  void AddChunks(int64_t unit, C* partials) const {
    C* const total = partials + unit * size_;
    for (int64_t chunk = 1; chunk < chunks_; ++chunk) {
      const C* partial = total + chunk * stride_;
      for (int64_t i = 0; i < size_; ++i) total[i] += partial[i];
    }
  }

 private:
  // Units wanted for a good balance between threads, and the memory that
  // partial gradients may take for it.
  static constexpr int64_t kWantedUnits = 32;
  static constexpr int64_t kBytes = 8 << 20;
  static constexpr int64_t kAlignment = 64;

  int64_t size_ = 0;
  int64_t stride_ = 0;
  int64_t chunks_ = 0;
};

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_PARTIAL_FILTERS_H_
