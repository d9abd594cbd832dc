/* The passes of an adder convolution on NVIDIA GPUs, as a plain C interface.
 *
 *   forward           Y(m,n,t) = -sum_ijk |X(m+i,n+j,k) - F(i,j,k,t)|
 *   input gradient    dX       =  sum_t g HT(F - X)
 *   filter gradient   dF       =  sum_mn g (X - F), or g sign(X - F)
 *
 * It knows nothing of TensorFlow: a call in a struct, pointers to device memory
 * and a stream. Results are bitwise equal from run to run and from GPU to GPU.
 *
 * The same interface, over host memory and without a GPU, is what emulated.cc
 * builds: the kernels' own code, one thread after the other.
 */

#ifndef KERAS_ADDER_CUDA_KERAS_ADDER_CUDA_H_
#define KERAS_ADDER_CUDA_KERAS_ADDER_CUDA_H_

#include <stdint.h>

#include "include/keras_adder/types.h"

#define KERAS_ADDER_EXPORT __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

enum {
  KERAS_ADDER_AUTO = 0,
  KERAS_ADDER_GENERAL = 1,
  KERAS_ADDER_NARROW = 2,
  KERAS_ADDER_WIDE = 3,
  /* Wide and medium are one for both gradients. */
  KERAS_ADDER_MEDIUM = 4
};

/* One spatial axis. Position `o` of the output and tap `k` of the filters meet
 * the input at o * stride + k * dilation - pad_before; outside are zeros. */
typedef struct {
  int64_t input;
  int64_t kernel;
  int64_t output;
  int64_t stride;
  int64_t dilation;
  int64_t pad_before;
} KerasAdderAxis;

typedef struct {
  /* sizeof(KerasAdderCall) of the caller: fields are only ever added at the
   * end, and those that an older caller does not have are taken for 0. */
  uint32_t struct_size;
  int32_t pass; /* Of types.h, but for the one of both gradients. */
  /* Of input, filters and their gradients. */
  int32_t type;
  /* Of the output and its gradient: `type`, or float32 for the 16-bit ones. */
  int32_t output_type;
  /* Not 0: the filter gradient is that of the paper's ablation. */
  int32_t sign;
  /* Not 0: images are dense in the order NCHW, and else NHWC. */
  int32_t channels_first;
  /* KERAS_ADDER_AUTO, or the kernel to take instead if it can do the call. */
  int32_t kernel;
  /* 0, or into how many parts a tiled kernel divides each sum, as far as there
   * are terms and memory for them. Sums of other divisions round otherwise. */
  int32_t splits;
  int64_t batch;
  int64_t in_channels;
  int64_t out_channels;
  int64_t groups;
  KerasAdderAxis height;
  KerasAdderAxis width;
} KerasAdderCall;

/* All functions that return text return NULL if all is well, and else text that
 * is valid until the thread's next call. */

/* Why this process cannot use a GPU: no driver, or one that is too old. */
KERAS_ADDER_EXPORT const char* keras_adder_cuda_unusable(void);

/* Bytes of scratch memory that a call needs; often 0. */
KERAS_ADDER_EXPORT int64_t
keras_adder_cuda_workspace(const KerasAdderCall* call);

/* Enqueues a call on a cudaStream_t of the current device and returns at once.
 *
 * Filters lie as (kernel height, kernel width, in_channels / groups,
 * out_channels). `gradient`, of the output's shape, is not read by the forward
 * pass. `result` has the shape of the output, input or filters, and may be none
 * of the others. `workspace` starts at a multiple of 16 bytes. */
KERAS_ADDER_EXPORT const char* keras_adder_cuda_run(
    const KerasAdderCall* call, const void* input, const void* filters,
    const void* gradient, void* result, void* workspace, void* stream);

/* The kernel that a call would run, for tests and tables: "general", or
 * "tile ROWSxCOLUMNS/SPLITS". Never NULL. */
KERAS_ADDER_EXPORT const char* keras_adder_cuda_kernel(
    const KerasAdderCall* call);

#ifdef __cplusplus
}
#endif

#endif /* KERAS_ADDER_CUDA_KERAS_ADDER_CUDA_H_ */
