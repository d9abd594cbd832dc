// What a machine has to bring: a way to run the kernels. kernels.cu runs them
// on a GPU and emulated.cc on the processor; interface.cc is common to both.

#ifndef KERAS_ADDER_CUDA_LAUNCH_H_
#define KERAS_ADDER_CUDA_LAUNCH_H_

#include "cuda/plan.h"
#include "cuda/tile.h"

namespace keras_adder {
namespace cuda {

// NULL if kernels can be launched, and else why not.
const char* Unusable();

// Each enqueues on a stream and returns NULL, or what went wrong.
const char* LaunchGeneral(const Request& request, int64_t result_size,
                          void* stream);
const char* LaunchTiles(const Plan& plan, const Launch& launch, void* stream);

// Calls launch.Run<Operation, Tile>() with those of a plan.
template <typename Launcher>
void Dispatch(const Plan& plan, bool narrow, const Launcher& launcher) {
  switch (plan.request.call.pass) {
    case KERAS_ADDER_FORWARD:
      narrow ? launcher.template Run<Forward, NarrowTile>()
             : launcher.template Run<Forward, ForwardTile>();
      break;
    case KERAS_ADDER_INPUT_GRADIENT:
      narrow ? launcher.template Run<InputGradient, NarrowTile>()
             : launcher.template Run<InputGradient, GradientTile>();
      break;
    default:
      if (plan.request.call.sign) {
        narrow ? launcher.template Run<SignFilterGradient, NarrowTile>()
               : launcher.template Run<SignFilterGradient, GradientTile>();
      } else {
        narrow ? launcher.template Run<FilterGradient, NarrowTile>()
               : launcher.template Run<FilterGradient, GradientTile>();
      }
  }
}

}  // namespace cuda
}  // namespace keras_adder

#endif  // KERAS_ADDER_CUDA_LAUNCH_H_
