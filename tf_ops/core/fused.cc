#include <cstring>
#include <vector>

#include "core/engines.h"
#include "core/fused_reference.h"

namespace keras_adder {
namespace {

template <typename V>
void WithType(DataType type, V&& visit) {
  switch (type) {
    case DataType::kUint8: return visit(uint8_t{});
    case DataType::kInt16: return visit(int16_t{});
    case DataType::kInt32: return visit(int32_t{});
    default: return visit(float{});
  }
}

class Naive : public Engine {
 public:
  explicit Naive(const Problem& problem) : problem_(problem) {}
  int64_t workspace_bytes(bool) const override { return 0; }
  void Run(ThreadPool&, const Tensors& tensors, void*) const override {
    const Geometry& g = problem_.geometry;
    WithType(problem_.type, [&](auto x) {
      WithType(problem_.fusion.filter_type, [&](auto f) {
        using X = decltype(x);
        using F = decltype(f);
        if constexpr (std::is_same_v<X, F> || std::is_same_v<X, float>) {
          using Sum = std::conditional_t<std::is_same_v<F, float>, float, int32_t>;
          std::vector<Sum> sums(g.output_size());
          reference::FusedSums(g, problem_.fusion.input,
                               static_cast<const X*>(tensors.input),
                               static_cast<const F*>(tensors.filters),
                               sums.data());
          Finish(tensors, sums.data());
        }
      });
    });
  }

 private:
  template <typename Sum>
  void Finish(const Tensors& tensors, const Sum* sums) const {
    const Geometry& g = problem_.geometry;
    WithType(problem_.fusion.residual_type, [&](auto r) {
      WithType(problem_.output_type, [&](auto o) {
        using R = decltype(r);
        using O = decltype(o);
        for (int64_t i = 0; i < g.output_size(); ++i) {
          const int64_t c = g.output_strides.channel == 1
                                ? i % g.out_channels
                                : i / g.output_strides.channel % g.out_channels;
          const R* residual = tensors.residual == nullptr
                                  ? nullptr
                                  : static_cast<const R*>(tensors.residual) + i;
          static_cast<O*>(tensors.output)[i] = reference::FusedOutput<R, O>(
              sums[i], c, residual, problem_.fusion, *tensors.epilogue);
        }
      });
    });
  }
  Problem problem_;
};

}  // namespace

std::unique_ptr<const Engine> MakeFused(const Problem& problem) {
  if (problem.pass != Pass::kFused) return nullptr;
  return std::make_unique<const Naive>(problem);
}

}  // namespace keras_adder
