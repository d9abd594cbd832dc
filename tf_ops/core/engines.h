// What there is to compute a pass with. Each returns null for a problem that it
// does not take; engines.cc asks them in turn.

#ifndef KERAS_ADDER_CORE_ENGINES_H_
#define KERAS_ADDER_CORE_ENGINES_H_

#include <memory>

#include "core/engine.h"

namespace keras_adder {

// For problems in which no input meets an output: gradients are zero, whatever
// tensors hold.
std::unique_ptr<const Engine> MakeNothing(const Problem& problem);
// Of groups with few filters, and every pass of their gradients.
std::unique_ptr<const Engine> MakeDepthwiseForward(const Problem& problem);
std::unique_ptr<const Engine> MakeDepthwiseGradient(const Problem& problem);
std::unique_ptr<const Engine> MakeForward(const Problem& problem);
std::unique_ptr<const Engine> MakeFused(const Problem& problem);
std::unique_ptr<const Engine> MakeInputGradient(const Problem& problem);
std::unique_ptr<const Engine> MakeFilterGradient(const Problem& problem);
// Both gradients in one sweep, for images that are not too large.
std::unique_ptr<const Engine> MakeBackward(const Problem& problem);
// Both gradients one after the other, for all others and the sign gradient.
std::unique_ptr<const Engine> MakeSeparateGradients(const Problem& problem);

// What writes zeros to the gradients of a problem, for engines that find that
// there is nothing to add up.
std::unique_ptr<const Engine> MakeZeroGradients(const Problem& problem);

}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_ENGINES_H_
