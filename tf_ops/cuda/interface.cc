// The C interface: checks a call, plans it, and has it launched.

#include <string>

#include "cuda/keras_adder_cuda.h"
#include "cuda/launch.h"

namespace keras_adder {
namespace cuda {
namespace {

int64_t PartialBytes(const Plan& plan, const Launch& launch) {
  if (launch.general || plan.splits == 1) return 0;
  return int64_t{plan.splits} * launch.result_size * sizeof(float);
}

// Whether four channels of a source can be read at once, as far as its address
// goes.
bool IsAligned(const Plan& plan) {
  const KerasAdderCall& call = plan.request.call;
  const bool gradient = call.pass == KERAS_ADDER_INPUT_GRADIENT;
  const void* source = gradient ? plan.request.gradient : plan.request.input;
  const int32_t type = gradient ? call.output_type : call.type;
  const uintptr_t bytes = type == KERAS_ADDER_FLOAT32 ? 16 : 8;
  return reinterpret_cast<uintptr_t>(source) % bytes == 0;
}

const char* Run(const Request& request, void* workspace, void* stream) {
  Plan plan;
  const Launch launch = MakePlan(request.call, &plan);
  if (launch.result_size == 0) return nullptr;
  if (launch.general) {
    return LaunchGeneral(request, launch.result_size, stream);
  }
  plan.request = request;
  plan.partials = static_cast<float*>(workspace);
  plan.vectors = plan.vectors && IsAligned(plan);
  return LaunchTiles(plan, launch, stream);
}

}  // namespace
}  // namespace cuda
}  // namespace keras_adder

const char* keras_adder_cuda_unusable(void) {
  return keras_adder::cuda::Unusable();
}

int64_t keras_adder_cuda_workspace(const KerasAdderCall* call) {
  using namespace keras_adder::cuda;
  KerasAdderCall own;
  if (ReadCall(call, &own) != nullptr) return 0;
  Plan plan;
  const Launch launch = MakePlan(own, &plan);
  return PartialBytes(plan, launch);
}

const char* keras_adder_cuda_run(const KerasAdderCall* call, const void* input,
                                 const void* filters, const void* gradient,
                                 void* result, void* workspace, void* stream) {
  using namespace keras_adder::cuda;
  Request request = {{}, input, filters, gradient, result};
  if (const char* error = ReadCall(call, &request.call)) return error;
  return Run(request, workspace, stream);
}

const char* keras_adder_cuda_kernel(const KerasAdderCall* call) {
  using namespace keras_adder::cuda;
  static thread_local std::string name;
  KerasAdderCall own;
  if (const char* error = ReadCall(call, &own)) return error;
  Plan plan;
  const Launch launch = MakePlan(own, &plan);
  if (launch.general) return "general";
  name = "tile " + std::to_string(launch.tile_rows) + "x" +
         std::to_string(launch.tile_columns) + "/" +
         std::to_string(plan.splits);
  return name.c_str();
}
