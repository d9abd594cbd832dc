#include "core/engines.h"

#include <algorithm>

#include "core/depthwise/suits_depthwise.h"
#include "core/tile.h"

namespace keras_adder {
namespace {

// The list: the first that takes a problem is the one that runs it.
constexpr std::unique_ptr<const Engine> (*kEngines[])(const Problem&) = {
    MakeNothing,
    MakeDepthwiseForward,
    MakeDepthwiseGradient,
    MakeForward,
    MakeFused,
    MakeInputGradient,
    MakeFilterGradient,
    MakeBackward,
    MakeSeparateGradients,
};

// Whether there are engines for a problem's types.
bool HasTypes(const Problem& problem) {
  if (problem.pass != Pass::kFused) {
    return AreTypes(problem.type, problem.output_type);
  }
  return CheckFusion(problem.type, problem.output_type, problem.fusion).empty();
}

class ZeroGradients : public Engine {
 public:
  explicit ZeroGradients(const Problem& problem) : threads_(problem.threads) {
    const bool both = problem.pass == Pass::kBackward;
    const int64_t element = SizeOf(problem.type);
    if (both || problem.pass == Pass::kInputGradient) {
      input_bytes_ = problem.geometry.input_size() * element;
    }
    if (both || problem.pass == Pass::kFilterGradient) {
      filter_bytes_ = problem.geometry.filter_size() * element;
    }
  }

  int64_t workspace_bytes(bool) const override { return 0; }
  void Run(ThreadPool& pool, const Tensors& tensors, void*) const override {
    RunTasks(pool, threads_, ZeroTask(tensors.input_gradient, input_bytes_),
             ZeroTask(tensors.filter_gradient, filter_bytes_));
  }

 private:
  int threads_;
  int64_t input_bytes_ = 0, filter_bytes_ = 0;
};

class SeparateGradients : public Engine {
 public:
  SeparateGradients(std::unique_ptr<const Engine> input,
                    std::unique_ptr<const Engine> filter)
      : input_(std::move(input)), filter_(std::move(filter)) {}

  int64_t workspace_bytes(bool filters_are_packed) const override {
    return std::max(input_->workspace_bytes(filters_are_packed),
                    filter_->workspace_bytes(filters_are_packed));
  }
  void Run(ThreadPool& pool, const Tensors& tensors,
           void* workspace) const override {
    input_->Run(pool, tensors, workspace);
    filter_->Run(pool, tensors, workspace);
  }

 private:
  std::unique_ptr<const Engine> input_, filter_;
};

}  // namespace

std::unique_ptr<const Engine> MakeZeroGradients(const Problem& problem) {
  return std::make_unique<const ZeroGradients>(problem);
}

std::unique_ptr<const Engine> MakeNothing(const Problem& problem) {
  const Geometry& geometry = problem.geometry;
  const bool nothing =
      geometry.output_size() == 0 ||
      (problem.pass == Pass::kInputGradient && geometry.input_size() == 0);
  return nothing ? MakeZeroGradients(problem) : nullptr;
}

std::unique_ptr<const Engine> MakeSeparateGradients(const Problem& problem) {
  if (problem.pass != Pass::kBackward) return nullptr;
  Problem one = problem;
  one.pass = Pass::kInputGradient;
  auto input = MakeInputGradient(one);
  one.pass = Pass::kFilterGradient;
  auto filter = MakeFilterGradient(one);
  if (!input || !filter) return nullptr;
  return std::make_unique<const SeparateGradients>(std::move(input),
                                                   std::move(filter));
}

std::unique_ptr<const Engine> MakeEngine(const Problem& problem) {
  if (!HasTypes(problem)) return nullptr;
  for (const auto make : kEngines) {
    if (auto engine = make(problem)) return engine;
  }
  return nullptr;
}

int UsefulThreads(int available, const Geometry& geometry) {
  // To wake a thread up takes some ten microseconds, and this is thirty of a
  // Zen 5's work, at 140 G differences/s a core (`benchmarks/conv2d.py`).
  constexpr double kThreadWork = 1 << 22;
  // Lanes without a filter take their time, too. Depthwise there are none, but
  // a difference takes twice as long.
  const double lanes = SuitsDepthwise(geometry)
                           ? 2.0 * geometry.out_channels
                           : static_cast<double>(geometry.groups) *
                                 RoundUp(geometry.group_out(), kLanes);
  const double differences = lanes * geometry.batch * geometry.height.output *
                             geometry.width.output * geometry.kernel_taps() *
                             geometry.group_in();
  return static_cast<int>(
      std::clamp<double>(differences / kThreadWork, 1, std::max(available, 1)));
}

}  // namespace keras_adder
