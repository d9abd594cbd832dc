/* Adder convolutions on the CPU, as a C library.
 *
 * A convolution is described by a struct, planned once, and run as often as
 * wanted on tensors at any address that is aligned as their elements are:
 *
 *   KerasAdderConv2D convolution = KERAS_ADDER_CONV2D_INIT;
 *   convolution.input_shape[0] = ...;
 *   KerasAdderPlan* plan;
 *   if (keras_adder_plan_create(&convolution, &plan)) return fail();
 *   KerasAdderTensors tensors = KERAS_ADDER_TENSORS_INIT;
 *   tensors.input = ...; tensors.filters = ...; tensors.output = ...;
 *   if (keras_adder_run(plan, &tensors, NULL)) return fail();
 *   keras_adder_plan_destroy(plan);
 *
 * Results are bitwise equal for any number of threads. A plan does not change
 * when it runs, so several threads may run the same one at once.
 *
 * Every struct begins with `struct_size`, which the *_INIT macros set: a
 * library that is newer than the program takes the fields that the program does
 * not know for their defaults, and one that is older refuses the struct. Fields
 * are only ever added at the end.
 */

#ifndef KERAS_ADDER_KERAS_ADDER_H_
#define KERAS_ADDER_KERAS_ADDER_H_

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "keras_adder/types.h"

#if defined(KERAS_ADDER_STATIC)
#define KERAS_ADDER_API
#else
#define KERAS_ADDER_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Of this header. The minor number grows with what is added, the major one with
 * what no longer works as before. */
#define KERAS_ADDER_VERSION_MAJOR 0
#define KERAS_ADDER_VERSION_MINOR 1
#define KERAS_ADDER_VERSION_PATCH 0

/* Of the library, as "0.1.0". */
KERAS_ADDER_API const char* keras_adder_version(void);

typedef enum {
  KERAS_ADDER_OK = 0,
  /* An argument is not what it must be; the message says which, what it was and
   * what was expected. */
  KERAS_ADDER_INVALID_ARGUMENT = 1,
  /* The library does not do this (yet). */
  KERAS_ADDER_UNSUPPORTED = 2,
  KERAS_ADDER_OUT_OF_MEMORY = 3,
  /* The environment variable KERAS_ADDER_ISA names an instruction set that this
   * processor does not run. */
  KERAS_ADDER_FAILED_PRECONDITION = 4,
  /* What should not have happened. */
  KERAS_ADDER_INTERNAL = 5
} KerasAdderStatus;

/* Why the calling thread's last call of those that return a status, or NULL,
 * failed; "" if it did not. Valid until the thread's next call. */
KERAS_ADDER_API const char* keras_adder_error(void);

/* The instruction set that runs: "baseline", "avx2", "avx512", ... NULL if
 * there is none. */
KERAS_ADDER_API const char* keras_adder_instruction_set(void);

enum { KERAS_ADDER_NHWC = 0, KERAS_ADDER_NCHW = 1 };
enum { KERAS_ADDER_VALID = 0, KERAS_ADDER_SAME = 1, KERAS_ADDER_EXPLICIT = 2 };
enum { KERAS_ADDER_FULL_PRECISION = 0, KERAS_ADDER_SIGN = 1 };

typedef struct {
  uint32_t struct_size;
  int32_t pass; /* KERAS_ADDER_FORWARD, ... */
  /* Of the input, the filters and their gradients. */
  int32_t type;
  /* Of the output and its gradient: `type`, or float32 for the 16-bit ones. */
  int32_t output_type;
  int32_t data_format;
  int32_t padding;
  /* The filter gradient: the paper's, or its ablation's. */
  int32_t filter_gradient;
  /* The most threads that a run may use, up to 4096; 0: as many as there are
   * processors. A run takes fewer where its pool has fewer, or where more are
   * not worth waking up. */
  int32_t threads;
  int64_t input_shape[4]; /* in the order of data_format */
  /* Kernel height, kernel width, input channels of a group, output channels. */
  int64_t filter_shape[4];
  int64_t strides[2];   /* of height and width */
  int64_t dilations[2]; /* of height and width */
  /* Top, bottom, left, right; of KERAS_ADDER_EXPLICIT alone. */
  int64_t explicit_paddings[4];
} KerasAdderConv2D;

#define KERAS_ADDER_CONV2D_INIT \
  {sizeof(KerasAdderConv2D),    \
   KERAS_ADDER_FORWARD,         \
   KERAS_ADDER_FLOAT32,         \
   KERAS_ADDER_FLOAT32,         \
   KERAS_ADDER_NHWC,            \
   KERAS_ADDER_VALID,           \
   KERAS_ADDER_FULL_PRECISION,  \
   0,                           \
   {0, 0, 0, 0},                \
   {0, 0, 0, 0},                \
   {1, 1},                      \
   {1, 1},                      \
   {0, 0, 0, 0}}

/* What becomes of an output before it is written, in this order and with a
 * rounding at each step:
 *
 *   y = sum * multiplier[channel]
 *   y = y + offset[channel]
 *   y = y + (residual - residual_zero_point) * residual_scale
 *   y = min(max(y, lower), upper)
 *   y = round_half_to_even(y / output_scale) + output_zero_point, saturated
 *
 * A batch normalization that follows an adder layer is the first two, a ReLU
 * the fourth. This version of the library does the first, second and fourth
 * step, for every type of output, in the type that sums are computed in (double
 * for float64, otherwise float); a 16-bit output is rounded once, at the end. A
 * NaN stays one. */
typedef struct {
  uint32_t struct_size;
  int32_t residual_type;
  const float* multiplier; /* of each output channel; NULL: 1 */
  const float* offset;     /* of each output channel; NULL: 0 */
  const void* residual;    /* of the output's shape; NULL: none */
  float residual_scale;
  int32_t residual_zero_point;
  float lower;
  float upper;
  float output_scale; /* 0: the output is not quantized */
  int32_t output_zero_point;
} KerasAdderEpilogue;

#define KERAS_ADDER_EPILOGUE_INIT \
  {sizeof(KerasAdderEpilogue),    \
   KERAS_ADDER_FLOAT32,           \
   NULL,                          \
   NULL,                          \
   NULL,                          \
   1.0f,                          \
   0,                             \
   -INFINITY,                     \
   INFINITY,                      \
   0.0f,                          \
   0}

/* What a run reads and writes. All tensors are dense; a pass ignores those that
 * it does not need. What is written may overlap nothing else. */
typedef struct {
  uint32_t struct_size;
  const void* input;
  const void* filters;
  const void* output_gradient;
  void* output;
  void* input_gradient;
  void* filter_gradient;
  /* What keras_adder_pack_filters made of these filters, which need not be
   * given then; or NULL. */
  const void* packed_filters;
  size_t packed_filters_bytes; /* as keras_adder_packed_filters_bytes says */
  /* Scratch memory, from an address divisible by 64 on, which no other run uses
   * at the same time; or NULL: the run allocates its own. */
  void* workspace;
  size_t workspace_bytes;
  const KerasAdderEpilogue* epilogue; /* of a forward pass, or NULL */
} KerasAdderTensors;

#define KERAS_ADDER_TENSORS_INIT \
  {sizeof(KerasAdderTensors),    \
   NULL,                         \
   NULL,                         \
   NULL,                         \
   NULL,                         \
   NULL,                         \
   NULL,                         \
   NULL,                         \
   0,                            \
   NULL,                         \
   0,                            \
   NULL}

/* Threads, if not the library's own. */
typedef struct {
  uint32_t struct_size;
  int32_t threads; /* at least 1, the caller's own included */
  void* context;
  /* Has helper(argument) called once, by another thread and soon. No run waits
   * for a helper that has not begun, so it may be called late, even after the
   * run is over and the plan is destroyed, but not when the library has been
   * unloaded; one that is never called loses a few bytes of memory. `worker` is
   * from 1 to threads - 1: the same one should mean the same thread every time,
   * which then meets the same part of a tensor. */
  void (*schedule)(void* context, int32_t worker, void (*helper)(void*),
                   void* argument);
} KerasAdderPool;

#define KERAS_ADDER_POOL_INIT {sizeof(KerasAdderPool), 1, NULL, NULL}

typedef struct KerasAdderPlan KerasAdderPlan;

/* Checks and plans a convolution. `*plan` is NULL if that fails. */
KERAS_ADDER_API KerasAdderStatus keras_adder_plan_create(
    const KerasAdderConv2D* convolution, KerasAdderPlan** plan);

/* NULL is allowed. */
KERAS_ADDER_API void keras_adder_plan_destroy(KerasAdderPlan* plan);

/* The shape of the output, in the order of data_format. Of this function and
 * the next two, `plan` must not be NULL. */
KERAS_ADDER_API void keras_adder_output_shape(const KerasAdderPlan* plan,
                                              int64_t shape[4]);

/* Scratch memory of a run, with or without packed filters. */
KERAS_ADDER_API size_t keras_adder_workspace_bytes(const KerasAdderPlan* plan,
                                                   int filters_are_packed);

/* Filters that do not change from run to run can be packed once. The bytes of
 * that, or 0 if the plan has no use for it.
 *
 * What is packed fits this plan (its convolution, types and instruction set)
 * and no other: do not save it. Whoever keeps it for filters that might change
 * compares their contents; an address proves nothing. */
KERAS_ADDER_API size_t
keras_adder_packed_filters_bytes(const KerasAdderPlan* plan);

/* `packed` starts at a multiple of 64 bytes. `pool` as in keras_adder_run. */
KERAS_ADDER_API KerasAdderStatus
keras_adder_pack_filters(const KerasAdderPlan* plan, const void* filters,
                         void* packed, const KerasAdderPool* pool);

/* Runs a plan and returns when it is done. `pool` NULL: threads that the
 * library keeps, one for each processor. */
KERAS_ADDER_API KerasAdderStatus
keras_adder_run(const KerasAdderPlan* plan, const KerasAdderTensors* tensors,
                const KerasAdderPool* pool);

#ifdef __cplusplus
}
#endif

#endif /* KERAS_ADDER_KERAS_ADDER_H_ */
