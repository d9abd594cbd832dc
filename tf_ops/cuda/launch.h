// What a machine has to bring: a way to run the kernels. kernels.cu runs them
// on a GPU and emulated.cc on the processor; interface.cc is common to both.

#ifndef KERAS_ADDER_CUDA_LAUNCH_H_
#define KERAS_ADDER_CUDA_LAUNCH_H_

#include "cuda/partials.h"
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

template <typename Operation, typename Launcher>
struct WithOperation {
  const Launcher& launcher;

  template <typename Tile>
  void Run() const {
    launcher.template Run<Operation, Tile>();
  }
};

// Calls launcher.Run<Operation, Tile>() with those of a plan.
template <typename Launcher>
void Dispatch(const Plan& plan, const Launch& launch,
              const Launcher& launcher) {
  const auto run = [&](auto operation) {
    using Operation = decltype(operation);
    WithTile<Operation::kPass>(launch.tile,
                               WithOperation<Operation, Launcher>{launcher});
  };
  const KerasAdderCall& call = plan.request.call;
  if (call.pass == KERAS_ADDER_FORWARD) {
    run(Forward());
  } else if (call.pass == KERAS_ADDER_INPUT_GRADIENT) {
    run(InputGradient());
  } else if (call.sign) {
    run(SignFilterGradient());
  } else {
    run(FilterGradient());
  }
}

}  // namespace cuda
}  // namespace keras_adder

#endif  // KERAS_ADDER_CUDA_LAUNCH_H_
