// A fused pass over NCHW tensors, by an engine for NHWC between transpositions.

#ifndef KERAS_ADDER_CORE_FUSED_TRANSPOSED_H_
#define KERAS_ADDER_CORE_FUSED_TRANSPOSED_H_

#include <cstdint>
#include <memory>

#include "core/engine.h"

namespace keras_adder {
namespace internal {

class Transposed : public Engine {
 public:
  // The same problem for NHWC, which `engine` is for.
  static Problem ChannelsLast(const Problem& problem);

  Transposed(const Problem& problem, std::unique_ptr<const Engine> engine);

  int64_t workspace_bytes(bool filters_are_packed) const override;
  int64_t packed_filters_bytes() const override {
    return engine_->packed_filters_bytes();
  }
  void PackFilters(ThreadPool& pool, const void* filters,
                   void* packed) const override {
    engine_->PackFilters(pool, filters, packed);
  }
  void Run(ThreadPool& pool, const Tensors& tensors,
           void* workspace) const override;

 private:
  int64_t InputBytes() const;
  int64_t ResidualBytes() const;
  int64_t OutputBytes() const;

  const Problem problem_;
  const std::unique_ptr<const Engine> engine_;
};

}  // namespace internal
}  // namespace keras_adder

#endif  // KERAS_ADDER_CORE_FUSED_TRANSPOSED_H_
