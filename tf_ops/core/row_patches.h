// Lanes for those who have few channels.

#ifndef KERAS_ADDER_CORE_ROW_PATCHES_H_
#define KERAS_ADDER_CORE_ROW_PATCHES_H_

#include "core/geometry.h"

namespace keras_adder {

// An equal convolution that fills the lanes of few input channels: the taps of
// a row, which lie next to each other in the input and in the filters, become
// the channels of filters of one column, and the input's pixels the patches
// that one output sees of a row. Returns the geometry as it is where that does
// not pay, or channels of neighbouring pixels are not neighbours.
Geometry WithRowsAsChannels(const Geometry& geometry);

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_ROW_PATCHES_H_
