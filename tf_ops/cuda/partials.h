// Adds up the parts of a result whose depth was split among blocks.

#ifndef KERAS_ADDER_CUDA_PARTIALS_H_
#define KERAS_ADDER_CUDA_PARTIALS_H_

#include "cuda/plan.h"

namespace keras_adder {
namespace cuda {

// One element of a result that was split is the sum of kSumLanes sums, of every
// kSumLanes-th part each, in their order. Who adds which is a matter of speed:
// of few parts there are many elements, and one thread adds up all of an
// element's; of many parts there are few elements, and kSumLanes threads share
// one. The bits are the same.
constexpr int kSumLanes = 8;

KERAS_ADDER_HD float SumPartials(const Plan& plan, int64_t index, int lane) {
  float sum = 0;
  for (int32_t split = lane; split < plan.splits; split += kSumLanes) {
    sum += plan.partials[split * plan.result_size + index];
  }
  return sum;
}

KERAS_ADDER_HD void StoreSum(const Plan& plan, int64_t index,
                             const float* parts, int step) {
  float sum = 0;
  KERAS_ADDER_UNROLL
  for (int lane = 0; lane < kSumLanes; ++lane) sum += parts[lane * step];
  const KerasAdderCall& call = plan.request.call;
  StoreFloat(plan.request.result,
             call.pass == KERAS_ADDER_FORWARD ? call.output_type : call.type,
             index, sum);
}

// An element whose parts are kSumLanes at the most: each sum of a lane is one
// part, or 0, and no load waits for another.
KERAS_ADDER_HD void SumFewPartials(const Plan& plan, int64_t index) {
  float parts[kSumLanes];
  KERAS_ADDER_UNROLL
  for (int lane = 0; lane < kSumLanes; ++lane) {
    parts[lane] = 0;
    if (lane < plan.splits) {
      parts[lane] += plan.partials[lane * plan.result_size + index];
    }
  }
  StoreSum(plan, index, parts, 1);
}

}  // namespace cuda
}  // namespace keras_adder

#endif  // KERAS_ADDER_CUDA_PARTIALS_H_
