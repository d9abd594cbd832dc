#include "fused_test.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/default_pool.h"
#include "core/engine.h"
#include "core/fused/make_fused.h"
#include "core/fused/reference.h"
#include "core/select_kernels.h"
#include "core/workspace.h"

namespace keras_adder {
namespace {

std::mt19937 generator(2020);

// Calls visit with a value of a type.
template <typename Visit>
void WithType(DataType type, const Visit& visit) {
  switch (type) {
    case DataType::kUint8:
      return visit(uint8_t{});
    case DataType::kInt16:
      return visit(int16_t{});
    case DataType::kInt32:
      return visit(int32_t{});
    default:
      return visit(float{});
  }
}

// Elements of a type, exactly as many bytes as they take.
class Buffer {
 public:
  Buffer(DataType type, int64_t count)
      : type_(type), count_(count), bytes_(count * SizeOf(type)) {}

  // The lowest or the highest integer, everywhere.
  void Fill(bool highest) {
    WithType(type_, [&](auto zero) {
      using T = decltype(zero);
      std::fill_n(static_cast<T*>(data()), count_,
                  highest ? std::numeric_limits<T>::max()
                          : std::numeric_limits<T>::lowest());
    });
  }

  // Integers of the whole range, extremes among them; floats of which some are
  // halfway between two integers, and a few are no numbers.
  void Randomize(float scale, bool special) {
    WithType(type_, [&](auto zero) {
      using T = decltype(zero);
      auto* values = static_cast<T*>(data());
      for (int64_t i = 0; i < count_; ++i) {
        const uint32_t bits = generator();
        if constexpr (std::is_same_v<T, float>) {
          values[i] = (static_cast<int32_t>(bits % 2001) - 1000) * 0.5f * scale;
          if (special && bits >> 24 == 0) values[i] = NAN;
          if (special && bits >> 24 == 1) values[i] = -INFINITY;
        } else {
          values[i] = static_cast<T>(bits);
          if (bits >> 29 == 0) values[i] = std::numeric_limits<T>::max();
          if (bits >> 29 == 1) values[i] = std::numeric_limits<T>::lowest();
        }
      }
    });
  }

  void* data() { return bytes_.data(); }
  const void* data() const { return bytes_.data(); }
  DataType type() const { return type_; }
  bool operator==(const Buffer& other) const { return bytes_ == other.bytes_; }

 private:
  DataType type_;
  int64_t count_;
  std::vector<char> bytes_;
};

void* AlignedAlloc(int64_t bytes) {
  return std::aligned_alloc(kWorkspaceAlignment,
                            (bytes + kWorkspaceAlignment - 1) /
                                kWorkspaceAlignment * kWorkspaceAlignment);
}

struct Freer {
  void operator()(void* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<void, Freer>;

// What an engine makes of tensors, with filters packed by itself or before.
Buffer RunEngine(const Engine& engine, const Problem& problem, Tensors tensors,
                 bool packed) {
  DefaultPool pool(problem.threads);
  Buffer output(problem.output_type, problem.geometry.output_size());
  tensors.output = output.data();
  Memory filters;
  if (packed) {
    filters.reset(AlignedAlloc(engine.packed_filters_bytes()));
    engine.PackFilters(pool, tensors.filters, filters.get());
    tensors.packed_filters = filters.get();
    tensors.filters = nullptr;
  }
  const Memory workspace(AlignedAlloc(engine.workspace_bytes(packed)));
  engine.Run(pool, tensors, workspace.get());
  return output;
}

// The channel of an element of the output.
int64_t ChannelOf(const Geometry& geometry, int64_t element) {
  return element / geometry.output_strides.channel % geometry.out_channels;
}

template <typename Sum>
Buffer Outputs(const Problem& problem, const Tensors& tensors,
               const Sum* sums) {
  Buffer output(problem.output_type, problem.geometry.output_size());
  WithType(problem.fusion.residual_type, [&](auto r) {
    WithType(problem.output_type, [&](auto o) {
      using R = decltype(r);
      using O = decltype(o);
      for (int64_t i = 0; i < problem.geometry.output_size(); ++i) {
        const R* residual = tensors.residual == nullptr
                                ? nullptr
                                : static_cast<const R*>(tensors.residual) + i;
        static_cast<O*>(output.data())[i] = reference::FusedOutput<R, O>(
            sums[i], ChannelOf(problem.geometry, i), residual, problem.fusion,
            *tensors.epilogue);
      }
    });
  });
  return output;
}

// Sums of floats are those of the forward pass, which has tests of its own.
Buffer ExpectedOfFloats(const Problem& problem, const Tensors& tensors) {
  Problem forward = problem;
  forward.pass = Pass::kForward;
  forward.output_type = DataType::kFloat32;
  Tensors plain = tensors;
  plain.epilogue = nullptr;
  const Buffer sums = RunEngine(*MakeEngine(forward), forward, plain, false);
  return Outputs(problem, tensors, static_cast<const float*>(sums.data()));
}

Buffer Expected(const Problem& problem, const Tensors& tensors) {
  std::vector<int32_t> sums(problem.geometry.output_size());
  WithType(problem.type, [&](auto x) {
    WithType(problem.fusion.filter_type, [&](auto f) {
      using X = decltype(x);
      using F = decltype(f);
      if constexpr (!std::is_same_v<F, float> && !std::is_same_v<F, int32_t> &&
                    (std::is_same_v<X, F> || std::is_same_v<X, float>)) {
        reference::FusedSums(problem.geometry, problem.fusion.input,
                             static_cast<const X*>(tensors.input),
                             static_cast<const F*>(tensors.filters),
                             sums.data());
      }
    });
  });
  return Outputs(problem, tensors, sums.data());
}

// All that a set may be given (select_kernels.cc), whatever this processor's
// maker is.
std::vector<FusedKernels> VariantsOf(const KernelSet& set) {
  std::vector<FusedKernels> variants = {*set.fused};
#if defined(__x86_64__)
  if (set.fused != &kFusedAvx512) return variants;
  FusedKernels saturating = kFusedAvx512;
  saturating.sliding = kSaturatingSliding;
  saturating.bytes = kSaturatingBytes;
  variants.push_back(saturating);
  if (!__builtin_cpu_supports("avx512vnni")) return variants;
  FusedKernels vnni = kFusedAvx512;
  vnni.sliding = {};
  vnni.bytes = kVnniBytes;
  vnni.words = kVnniWords;
  variants.push_back(vnni);
  vnni.byte_rows = kVnniByteRows;
  vnni.word_rows = kVnniWordRows;
  vnni.window_bytes = kVnniWindowBytes;
  vnni.window_words = kVnniWindowWords;
  variants.push_back(vnni);
#endif
  return variants;
}

// Types by turns, so that all of them meet.
Problem ProblemOf(const Geometry& geometry, int turn) {
  constexpr DataType kF = DataType::kFloat32, kB = DataType::kUint8,
                     kW = DataType::kInt16, kI = DataType::kInt32;
  constexpr std::pair<DataType, DataType> kTypes[] = {
      {kB, kB}, {kW, kW}, {kF, kB}, {kB, kB}, {kF, kW}, {kF, kF}};
  constexpr DataType kOutputs[] = {kB, kF, kW, kI, kB};
  constexpr DataType kResiduals[] = {kB, kF, kW};
  const auto [input, filter] = kTypes[turn % 6];
  Problem problem;
  problem.pass = Pass::kFused;
  problem.geometry = geometry;
  problem.type = input;
  problem.output_type = kOutputs[turn / 6 % 5];
  if (problem.output_type == kI && filter == kF) problem.output_type = kF;
  Fusion& fusion = problem.fusion;
  fusion.filter_type = filter;
  fusion.has_residual = turn / 30 % 4 != 3 && problem.output_type != kI;
  fusion.residual_type = kResiduals[turn / 30 % 3];
  const auto quantization = [](DataType type, float scale) -> Quantization {
    if (type == kB) return {scale, 37};
    if (type == kW) return {scale, -1234};
    return {};
  };
  fusion.input = quantization(filter, 0.25f);
  if (fusion.has_residual) {
    fusion.residual = quantization(fusion.residual_type, 0.3f);
  }
  fusion.output = quantization(problem.output_type, 0.7f);
  problem.threads = 1 << turn % 3;
  return problem;
}

}  // namespace

void CheckFused(const Geometry& geometry, int turn, const std::string& where,
                int* checks, int* failures) {
  Problem problem = ProblemOf(geometry, turn);
  const bool integers = IsInteger(problem.fusion.filter_type);
  Buffer input(problem.type, geometry.input_size());
  Buffer filters(problem.fusion.filter_type, geometry.filter_size());
  Buffer residual(problem.fusion.residual_type, geometry.output_size());
  Buffer multiplier(DataType::kFloat32, geometry.out_channels);
  Buffer offset(DataType::kFloat32, geometry.out_channels);
  input.Randomize(0.25f, integers);
  filters.Randomize(0.25f, false);
  residual.Randomize(1, true);
  // Sums that are as large as they can be.
  if (turn % 8 == 7 && integers && problem.type != DataType::kFloat32) {
    input.Fill(turn % 16 == 7);
    filters.Fill(turn % 16 != 7);
  }
  multiplier.Randomize(1e-4f, false);
  offset.Randomize(0.5f, false);
  Epilogue epilogue;
  const bool raw = problem.output_type == DataType::kInt32;
  if (!raw && turn % 5 != 0) {
    epilogue.multiplier = static_cast<const float*>(multiplier.data());
  }
  if (!raw && turn % 7 != 0) {
    epilogue.offset = static_cast<const float*>(offset.data());
  }
  if (!raw && turn % 3 != 0) epilogue.lower = 0;
  if (!raw && turn % 4 == 0) epilogue.upper = 60;
  Tensors tensors;
  tensors.input = input.data();
  tensors.filters = filters.data();
  tensors.epilogue = &epilogue;
  if (problem.fusion.has_residual) tensors.residual = residual.data();

  const auto check = [&](const Engine& engine, const char* name,
                         const Buffer& expected) {
    for (const bool packed : {false, true}) {
      if (packed && engine.packed_filters_bytes() == 0) continue;
      ++*checks;
      if (RunEngine(engine, problem, tensors, packed) == expected) continue;
      ++*failures;
      std::printf("FAILED fused, turn %d: %s %s\n", turn, where.c_str(), name);
    }
  };
  Buffer expected(problem.output_type, geometry.output_size());
  if (integers) expected = Expected(problem, tensors);
  for (const KernelSet* set : SupportedKernels()) {
    problem.kernels = set;
    if (!integers) expected = ExpectedOfFloats(problem, tensors);
    check(*MakeEngine(problem), set->name, expected);
    // An output of one pixel does not tell whether channels are last.
    if (!integers || geometry.input_strides.channel != 1 ||
        geometry.output_strides.channel != 1 || geometry.output_size() == 0) {
      continue;
    }
    const auto variants = VariantsOf(*set);
    for (size_t i = 0; i < variants.size(); ++i) {
      check(*internal::MakeInteger(problem, variants[i]),
            (std::string(set->name) + " " + std::to_string(i)).c_str(),
            expected);
    }
  }
}

}  // namespace keras_adder
