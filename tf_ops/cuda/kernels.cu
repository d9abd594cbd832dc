// The kernels on a GPU, and their launches.

#include <cuda_runtime.h>

#include <algorithm>
#include <string>

#include "cuda/launch.h"

namespace keras_adder {
namespace cuda {
namespace {

// Blocks of 128 threads that share a multiprocessor: what registers allow
// without spills.
template <typename Operation, typename Tile>
constexpr int kBlocks =
    Tile::kThreadColumns == 8 ||
            (Operation::kHasFixed && (Tile::kDepth > 8 || Tile::kRows > 128))
        ? 3
        : 4;

template <typename Operation, typename Tile>
__global__ void __launch_bounds__(kTileThreads, kBlocks<Operation, Tile>)
    TileKernel(const __grid_constant__ Plan plan) {
  __shared__ SharedTile<Tile> shared[2];
  Totals<Tile> totals;
  TileThread<Operation, Tile> thread;
  thread.Begin(plan, ThreadPlace(), &totals);
  if (thread.left() > 0) {
    thread.Load(plan);
    thread.Store(plan, &shared[0]);
    __syncthreads();
  }
  KERAS_ADDER_ROLLED
  for (int current = 0; thread.left() > 0; current ^= 1) {
    const bool more = thread.left() > Tile::kDepth;
    if (more) thread.Load(plan);
    thread.Accumulate(&shared[current]);
    // The buffer that this fills was read a step, and a barrier, ago.
    if (more) thread.Store(plan, &shared[current ^ 1]);
    __syncthreads();
  }
  thread.Finish(plan);
}

__device__ int64_t FirstIndex() {
  return int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
}

__device__ int64_t IndexStep() { return int64_t{gridDim.x} * blockDim.x; }

__global__ void SumFewPartialsKernel(const __grid_constant__ Plan plan) {
  for (int64_t i = FirstIndex(); i < plan.result_size; i += IndexStep()) {
    SumFewPartials(plan, i);
  }
}

// Elements that a block of SumPartialsKernel sums at a time.
constexpr int kSumElements = kGeneralThreads / kSumLanes;

__global__ void SumPartialsKernel(const __grid_constant__ Plan plan) {
  __shared__ float parts[kSumLanes][kSumElements];
  const int element = threadIdx.x % kSumElements;
  const int lane = threadIdx.x / kSumElements;
  const int64_t step = int64_t{gridDim.x} * kSumElements;
  for (int64_t first = int64_t{blockIdx.x} * kSumElements;
       first < plan.result_size; first += step) {
    const int64_t i = first + element;
    const bool exists = i < plan.result_size;
    parts[lane][element] = exists ? SumPartials(plan, i, lane) : 0;
    __syncthreads();
    if (lane == 0 && exists) {
      StoreSum(plan, i, &parts[0][element], kSumElements);
    }
    __syncthreads();
  }
}

__global__ void RepairKernel(const __grid_constant__ Request request,
                             int64_t size) {
  for (int64_t i = FirstIndex(); i < size; i += IndexStep()) {
    RepairInputGradient(request, i);
  }
}

template <typename Sum>
__global__ void __launch_bounds__(kGeneralThreads)
    GeneralKernel(const __grid_constant__ Request request, int64_t size) {
  const KerasAdderCall& call = request.call;
  for (int64_t i = FirstIndex(); i < size; i += IndexStep()) {
    if (call.pass == KERAS_ADDER_FORWARD) {
      Elements<Sum>::Store(request.result, call.output_type, i,
                           GeneralForward<Sum>(request, i));
    } else {
      Elements<Sum>::Store(request.result, call.type, i,
                           GeneralInputGradient<Sum>(request, i));
    }
  }
}

// A block to an element of the filters; its threads share the pixels.
template <typename Sum>
__global__ void __launch_bounds__(kGeneralThreads)
    GeneralFilterGradientKernel(const __grid_constant__ Request request,
                                int64_t size) {
  __shared__ double parts[kGeneralThreads];
  for (int64_t i = blockIdx.x; i < size; i += gridDim.x) {
    parts[threadIdx.x] =
        GeneralFilterGradientPart<Sum>(request, i, threadIdx.x);
    __syncthreads();
    if (threadIdx.x == 0) {
      double sum = 0;
      for (int thread = 0; thread < kGeneralThreads; ++thread) {
        sum += parts[thread];
      }
      Elements<Sum>::Store(request.result, request.call.type, i, sum);
    }
    __syncthreads();
  }
}

unsigned Grid(int64_t blocks) {
  return static_cast<unsigned>(std::min<int64_t>(blocks, 1 << 20));
}

unsigned GridOf(int64_t elements, int per_block = kGeneralThreads) {
  return Grid((elements + per_block - 1) / per_block);
}

// The architectures that this file is compiled for, as 10 times their number.
constexpr int kArchitectures[] = {__CUDA_ARCH_LIST__};

const char* LaunchError() {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return nullptr;
  if (error != cudaErrorNoKernelImageForDevice) {
    return cudaGetErrorString(error);
  }
  static const std::string message =
      "it is older than compute capability " +
      std::to_string(kArchitectures[0] / 100) + "." +
      std::to_string(kArchitectures[0] % 100 / 10) +
      ", the first that these kernels were compiled for. Another CUDA toolkit "
      "may still offer its own; the CPU kernels are not affected";
  return message.c_str();
}

std::string VersionName(int version) {
  return std::to_string(version / 1000) + "." +
         std::to_string(version % 1000 / 10);
}

struct Launcher {
  const Plan& plan;
  const Launch& launch;
  cudaStream_t stream;

  template <typename Operation, typename Tile>
  void Run() const {
    const dim3 grid(static_cast<unsigned>(launch.blocks_x),
                    static_cast<unsigned>(launch.blocks_y),
                    static_cast<unsigned>(launch.blocks_z));
    TileKernel<Operation, Tile><<<grid, kTileThreads, 0, stream>>>(plan);
  }
};

template <typename Sum>
void RunGeneral(const Request& request, int64_t size, cudaStream_t stream) {
  if (request.call.pass == KERAS_ADDER_FILTER_GRADIENT) {
    GeneralFilterGradientKernel<Sum>
        <<<Grid(size), kGeneralThreads, 0, stream>>>(request, size);
  } else {
    GeneralKernel<Sum>
        <<<GridOf(size), kGeneralThreads, 0, stream>>>(request, size);
  }
}

}  // namespace

const char* Unusable() {
  static thread_local std::string message;
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
  const std::string built = "keras_adder's GPU kernels were built with CUDA " +
                            VersionName(CUDART_VERSION);
  if (driver == 0) {
    message = built + ", and this machine has no NVIDIA driver";
    return message.c_str();
  }
  if (driver / 1000 < CUDART_VERSION / 1000) {
    message = built + ", and this machine's NVIDIA driver is for CUDA " +
              VersionName(driver) + ": update the driver to one for CUDA " +
              std::to_string(CUDART_VERSION / 1000) +
              ", or build keras_adder with a CUDA toolkit of version " +
              std::to_string(driver / 1000) +
              ". The CPU kernels are not affected";
    return message.c_str();
  }
  return nullptr;
}

const char* LaunchGeneral(const Request& request, int64_t result_size,
                          void* stream) {
  const cudaStream_t on = static_cast<cudaStream_t>(stream);
  request.call.type == KERAS_ADDER_FLOAT64
      ? RunGeneral<double>(request, result_size, on)
      : RunGeneral<float>(request, result_size, on);
  return LaunchError();
}

const char* LaunchTiles(const Plan& plan, const Launch& launch, void* stream) {
  const cudaStream_t on = static_cast<cudaStream_t>(stream);
  Dispatch(plan, launch, Launcher{plan, launch, on});
  if (plan.splits > kSumLanes) {
    SumPartialsKernel<<<GridOf(launch.result_size, kSumElements),
                        kGeneralThreads, 0, on>>>(plan);
  } else if (plan.splits > 1) {
    SumFewPartialsKernel<<<GridOf(launch.result_size), kGeneralThreads, 0,
                           on>>>(plan);
  }
  if (plan.request.call.pass == KERAS_ADDER_INPUT_GRADIENT) {
    RepairKernel<<<GridOf(launch.result_size), kGeneralThreads, 0, on>>>(
        plan.request, launch.result_size);
  }
  return LaunchError();
}

}  // namespace cuda
}  // namespace keras_adder
