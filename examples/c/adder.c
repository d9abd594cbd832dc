/* An adder convolution and both of its gradients in C, beside numbers that were
 * worked out by hand.
 *
 * One image of 2x2 pixels and one channel, one filter of 2x2:
 *
 *     X = 1 2     F = 0.5  2.5     G = 2, the gradient of the one output
 *         3 5         1.0  5.25
 *
 *     Y  = -(|1 - 0.5| + |2 - 2.5| + |3 - 1| + |5 - 5.25|) = -3.25
 *     dF = G (X - F)                  =  1    -1     4   -0.5
 *     dX = G clip(F - X, -1, 1)       = -1     1    -2    0.5
 *
 * All of them are exact in binary, so they are compared for equality. The
 * epilogue below makes max(2 Y + 7, 0) = 0.5 of the output.
 */

#include <keras_adder/keras_adder.h>
#include <stdio.h>
#include <stdlib.h>

static const float kInput[4] = {1, 2, 3, 5};
static const float kFilters[4] = {0.5f, 2.5f, 1, 5.25f};
static const float kOutputGradient[1] = {2};

static int failures = 0;

static void check(KerasAdderStatus status) {
  if (status == KERAS_ADDER_OK) return;
  fprintf(stderr, "keras_adder: %s\n", keras_adder_error());
  exit(1);
}

static void expect(const char* name, const float* actual, const float* expected,
                   int count) {
  int equal = 1;
  printf("%-16s", name);
  for (int i = 0; i < count; ++i) {
    printf(" %6g", actual[i]);
    equal = equal && actual[i] == expected[i];
  }
  printf("%s\n", equal ? "   as by hand" : "   WRONG");
  failures += !equal;
}

static KerasAdderPlan* plan_pass(int pass) {
  KerasAdderConv2D convolution = KERAS_ADDER_CONV2D_INIT;
  KerasAdderPlan* plan;
  convolution.pass = pass;
  /* Batch, height, width and channels; and of the filters height, width, input
   * channels and output channels. */
  const int64_t input_shape[4] = {1, 2, 2, 1};
  const int64_t filter_shape[4] = {2, 2, 1, 1};
  for (int i = 0; i < 4; ++i) {
    convolution.input_shape[i] = input_shape[i];
    convolution.filter_shape[i] = filter_shape[i];
  }
  check(keras_adder_plan_create(&convolution, &plan));
  return plan;
}

static void run_forward(void) {
  KerasAdderPlan* plan = plan_pass(KERAS_ADDER_FORWARD);
  KerasAdderTensors tensors = KERAS_ADDER_TENSORS_INIT;
  KerasAdderEpilogue epilogue = KERAS_ADDER_EPILOGUE_INIT;
  const float multiplier = 2, offset = 7;
  float output;
  int64_t shape[4];

  keras_adder_output_shape(plan, shape);
  printf("output shape     %d %d %d %d\n", (int)shape[0], (int)shape[1],
         (int)shape[2], (int)shape[3]);
  tensors.input = kInput;
  tensors.filters = kFilters;
  tensors.output = &output;
  check(keras_adder_run(plan, &tensors, NULL));
  expect("output", &output, (const float[]){-3.25f}, 1);

  epilogue.multiplier = &multiplier;
  epilogue.offset = &offset;
  epilogue.lower = 0; /* a ReLU */
  tensors.epilogue = &epilogue;
  /* Filters that stay the same are packed once, where that is of use. */
  void* packed = NULL;
  const size_t bytes = keras_adder_packed_filters_bytes(plan);
  if (bytes > 0) {
    packed = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (packed == NULL) exit(1);
    check(keras_adder_pack_filters(plan, kFilters, packed, NULL));
    tensors.filters = NULL;
    tensors.packed_filters = packed;
    tensors.packed_filters_bytes = bytes;
  }
  check(keras_adder_run(plan, &tensors, NULL));
  expect("with epilogue", &output, (const float[]){0.5f}, 1);

  free(packed);
  keras_adder_plan_destroy(plan);
}

static void run_backward(void) {
  KerasAdderPlan* plan = plan_pass(KERAS_ADDER_BACKWARD);
  KerasAdderTensors tensors = KERAS_ADDER_TENSORS_INIT;
  float input_gradient[4], filter_gradient[4];

  tensors.input = kInput;
  tensors.filters = kFilters;
  tensors.output_gradient = kOutputGradient;
  tensors.input_gradient = input_gradient;
  tensors.filter_gradient = filter_gradient;
  check(keras_adder_run(plan, &tensors, NULL));
  expect("input gradient", input_gradient, (const float[]){-1, 1, -2, 0.5f}, 4);
  expect("filter gradient", filter_gradient, (const float[]){1, -1, 4, -0.5f},
         4);
  keras_adder_plan_destroy(plan);
}

int main(void) {
  const char* isa = keras_adder_instruction_set();
  if (isa == NULL) check(KERAS_ADDER_FAILED_PRECONDITION);
  printf("keras_adder %s, %s\n", keras_adder_version(), isa);
  run_forward();
  run_backward();
  return failures == 0 ? 0 : 1;
}
