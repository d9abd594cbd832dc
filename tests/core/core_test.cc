// The compute core against its reference, without TensorFlow: every instruction
// set this processor runs, every remainder of every dimension, one thread and
// several; the fused pass (fused_test.cc); and how threads work together
// (threads_test.cc). Built with sanitizers by test_core.py.
//
//     core_test [LAST]    sizes 1 .. LAST in every dimension (default 20)

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/default_pool.h"
#include "core/engine.h"
#include "core/geometry.h"
#include "core/reference.h"
#include "core/select_kernels.h"
#include "core/workspace.h"
#include "fused_test.h"
#include "threads_test.h"

namespace keras_adder {
namespace {

// Exactly as many bytes as were asked for, so that a sanitizer sees a step
// beyond them, at the alignment that was promised.
class Workspace {
 public:
  explicit Workspace(int64_t bytes)
      : memory_(bytes == 0
                    ? nullptr
                    : std::aligned_alloc(kWorkspaceAlignment,
                                         (bytes + kWorkspaceAlignment - 1) /
                                             kWorkspaceAlignment *
                                             kWorkspaceAlignment)) {}
  ~Workspace() { std::free(memory_); }
  void* get() const { return memory_; }

 private:
  void* memory_;
};

std::mt19937 generator(1912);

template <typename C>
std::vector<C> Random(int64_t size) {
  std::normal_distribution<double> normal;
  std::vector<C> values(size);
  for (C& value : values) value = static_cast<C>(normal(generator));
  return values;
}

int failures = 0;
int checks = 0;

template <typename C>
void Expect(const char* what, const std::string& where,
            const std::vector<C>& actual, const std::vector<double>& expected) {
  // All data is of magnitude 1, and so are the terms of a sum that cancels.
  double error = 0, scale = 1;
  for (size_t i = 0; i < expected.size(); ++i) {
    error = std::fmax(error, std::abs(actual[i] - expected[i]));
    scale = std::fmax(scale, std::abs(expected[i]));
    if (std::isnan(actual[i])) error = INFINITY;
  }
  const double tolerance = sizeof(C) == sizeof(double) ? 1e-13 : 1e-5;
  ++checks;
  if (error <= tolerance * scale) return;
  ++failures;
  std::printf("FAILED %s: error %g of %g, %s\n", what, error, scale,
              where.c_str());
}

// Runs the engine of a problem, with scratch memory of just the size it wants.
void Run(const Problem& problem, const Tensors& tensors) {
  DefaultPool pool(problem.threads);
  const auto engine = MakeEngine(problem);
  Workspace workspace(engine->workspace_bytes(false));
  engine->Run(pool, tensors, workspace.get());
}

// The same with filters that were packed before: to the last bit.
template <typename C>
void CheckPacked(const Problem& problem, const Tensors& tensors,
                 const std::vector<C>& output, const std::string& where) {
  DefaultPool pool(problem.threads);
  const auto engine = MakeEngine(problem);
  Workspace packed(engine->packed_filters_bytes());
  if (packed.get() == nullptr) return;  // of an empty output
  engine->PackFilters(pool, tensors.filters, packed.get());
  std::vector<C> actual(output.size(), NAN);
  Tensors with_packed = tensors;
  with_packed.filters = nullptr;
  with_packed.packed_filters = packed.get();
  with_packed.output = actual.data();
  Workspace workspace(engine->workspace_bytes(true));
  engine->Run(pool, with_packed, workspace.get());
  ++checks;
  if (std::memcmp(actual.data(), output.data(), output.size() * sizeof(C)) ==
      0) {
    return;
  }
  ++failures;
  std::printf("FAILED packed filters: %s\n", where.c_str());
}

// An epilogue is what it would be if done afterwards: to the last bit.
template <typename C>
void CheckEpilogue(const Problem& problem, const Tensors& tensors,
                   const std::vector<C>& output, const std::string& where) {
  const Geometry& geometry = problem.geometry;
  const std::vector<float> multiplier = Random<float>(geometry.out_channels);
  const std::vector<float> offset = Random<float>(geometry.out_channels);
  Epilogue epilogue{multiplier.data(), offset.data(), -3, 2.5f};
  if (checks % 3 == 0) epilogue.multiplier = nullptr;
  if (checks % 5 == 0) epilogue.offset = nullptr;
  std::vector<C> actual(output.size(), NAN);
  Tensors with_epilogue = tensors;
  with_epilogue.output = actual.data();
  with_epilogue.epilogue = &epilogue;
  Run(problem, with_epilogue);
  ++checks;
  const ImageStrides& strides = geometry.output_strides;
  for (size_t i = 0; i < output.size(); ++i) {
    const int64_t channel = i / strides.channel % geometry.out_channels;
    C expected = output[i];
    if (epilogue.multiplier) expected *= epilogue.multiplier[channel];
    if (epilogue.offset) expected += epilogue.offset[channel];
    expected = std::fmin(std::fmax(expected, -3), C(2.5));
    if (actual[i] == expected) continue;
    ++failures;
    std::printf("FAILED epilogue: %g instead of %g, %s\n", double(actual[i]),
                double(expected), where.c_str());
    return;
  }
}

template <typename C>
void Check(const KernelSet& set, const Geometry& geometry, int threads,
           const std::string& where) {
  const std::vector<C> x = Random<C>(geometry.input_size());
  const std::vector<C> f = Random<C>(geometry.filter_size());
  const std::vector<C> g = Random<C>(geometry.output_size());
  Problem problem;
  problem.geometry = geometry;
  problem.type = problem.output_type = DataTypeOf<C>();
  problem.kernels = &set;
  problem.threads = threads;
  Tensors tensors;
  tensors.input = x.data();
  tensors.filters = f.data();

  std::vector<double> expected(geometry.output_size());
  std::vector<C> actual(geometry.output_size(), NAN);
  tensors.output = actual.data();
  Run(problem, tensors);
  reference::Forward(geometry, x.data(), f.data(), expected.data());
  Expect("forward", where, actual, expected);
  CheckPacked(problem, tensors, actual, where);
  CheckEpilogue(problem, tensors, actual, where);

  std::vector<C> filter(geometry.filter_size());
  tensors.output_gradient = g.data();
  expected.resize(geometry.input_size());
  actual.assign(geometry.input_size(), NAN);
  tensors.input_gradient = actual.data();
  tensors.filter_gradient = filter.data();
  problem.pass = Pass::kInputGradient;
  Run(problem, tensors);
  reference::InputGradient(geometry, x.data(), f.data(), g.data(),
                           expected.data());
  Expect("input gradient", where, actual, expected);

  for (const FilterGradientMode mode :
       {FilterGradientMode::kFullPrecision, FilterGradientMode::kSign}) {
    std::vector<double> expected_filter(geometry.filter_size());
    reference::FilterGradient(geometry, mode, x.data(), f.data(), g.data(),
                              expected_filter.data());
    problem.mode = mode;
    problem.pass = Pass::kFilterGradient;
    filter.assign(geometry.filter_size(), NAN);
    Run(problem, tensors);
    Expect("filter gradient", where, filter, expected_filter);

    problem.pass = Pass::kBackward;
    filter.assign(geometry.filter_size(), NAN);
    actual.assign(geometry.input_size(), NAN);
    Run(problem, tensors);
    Expect("input gradient of both", where, actual, expected);
    Expect("filter gradient of both", where, filter, expected_filter);
  }
}

struct Case {
  int64_t batch = 1, height = 4, width = 5, channels = 3, filters = 5;
  int64_t kernel_height = 3, kernel_width = 3, groups = 1;
  int64_t stride = 1, dilation = 1;
  int64_t row_stride = 1, row_dilation = 1;  // times the above, of rows
  std::string padding = "SAME", format = "NHWC";
  int64_t top = 0, left = 0, right = 0;  // of padding EXPLICIT
  bool fused_alone = false;              // only the fused pass, of all types
};

void CheckCase(const Case& c) {
  Attributes attributes;
  const bool nhwc = c.format == "NHWC";
  const auto steps = [&](int64_t rows, int64_t columns) {
    return nhwc ? std::vector<int64_t>{1, rows, columns, 1}
                : std::vector<int64_t>{1, 1, rows, columns};
  };
  std::vector<int64_t> paddings;
  if (c.padding == "EXPLICIT") {
    paddings.assign(8, 0);
    const int rows = nhwc ? 2 : 4;
    paddings[rows] = c.top;
    paddings[rows + 2] = c.left;
    paddings[rows + 3] = c.right;
  }
  Geometry geometry;
  Error error = ParseAttributes(
      c.format, c.padding, paddings, steps(c.stride * c.row_stride, c.stride),
      steps(c.dilation * c.row_dilation, c.dilation), &attributes);
  if (error.empty()) {
    const int64_t channels = c.channels * c.groups;
    error = MakeGeometry(
        attributes,
        nhwc ? std::array<int64_t, 4>{c.batch, c.height, c.width, channels}
             : std::array<int64_t, 4>{c.batch, channels, c.height, c.width},
        {c.kernel_height, c.kernel_width, c.channels, c.filters * c.groups},
        &geometry);
  }
  std::string where;
  for (const int64_t size :
       {c.batch, c.height, c.width, c.channels, c.filters, c.kernel_height,
        c.kernel_width, c.groups, c.stride, c.dilation, c.row_stride,
        c.row_dilation, c.top, c.left, c.right}) {
    where += std::to_string(size) + " ";
  }
  where += c.padding + " " + c.format;
  if (!error.empty()) {
    ++failures;
    std::printf("FAILED %s: %s\n", where.c_str(), error.c_str());
    return;
  }
  static int turn = 0;
  const int fused_turns = c.fused_alone ? 6 : 1;
  for (int i = 0; i < fused_turns; ++i) {
    CheckFused(geometry, turn++, where, &checks, &failures);
  }
  if (c.fused_alone) return;
  for (const KernelSet* set : SupportedKernels()) {
    const std::string here = where + " " + set->name;
    Check<float>(*set, geometry, 1 + checks % 3, here + " float");
    Check<double>(*set, geometry, 1 + checks % 3, here + " double");
  }
}

Case Block(int64_t channels, int64_t filters, int64_t width) {
  Case c;
  c.channels = channels;
  c.filters = filters;
  c.width = width;
  c.height = 3;
  return c;
}

// Groups of few filters, whose lanes are output channels: all that fit into a
// block, and more; strides and dilations; taps by fewer and by more than go
// into registers at once.
void SweepDepthwise() {
  for (const char* format : {"NHWC", "NCHW"}) {
    for (const int64_t groups : {2, 15, 16, 17, 35}) {
      for (const int64_t filters : {1, 2, 3, 5, 15}) {
        Case c = Block(1, filters, 11);
        c.format = format;
        c.groups = groups;
        c.batch = 2;
        CheckCase(c);
        c.stride = 2;
        CheckCase(c);
      }
    }
    for (const int64_t groups : {16, 20}) {
      Case c = Block(1, 1, 13);
      c.format = format;
      c.groups = groups;
      c.height = 9;
      for (const int64_t kernel : {1, 2, 4, 5, 7}) {
        c.kernel_height = c.kernel_width = kernel;
        for (const char* padding : {"SAME", "VALID"}) {
          c.padding = padding;
          for (const int64_t stride : {1, 2, 3}) {
            c.stride = stride;
            c.row_stride = kernel == 4 ? 2 : 1;
            CheckCase(c);
          }
        }
      }
      // Rows of output gradients that are no whole number apart.
      c.row_stride = 1;
      c.stride = 2;
      c.dilation = 3;
      c.kernel_height = c.kernel_width = 3;
      c.height = 19;
      CheckCase(c);
      c.kernel_height = 2;
      c.kernel_width = 7;
      c.stride = 1;
      c.padding = "EXPLICIT";
      c.dilation = 2;
      c.row_dilation = 3;
      c.top = 5;
      c.left = 1;
      c.right = 12;
      CheckCase(c);
      c.stride = 2;
      c.height = 50;
      c.row_dilation = 20;
      CheckCase(c);
    }
    for (const int64_t channels : {2, 3}) {
      for (const int64_t filters : {2, 3, 4, 5}) {
        Case c = Block(channels, filters, 9);
        c.format = format;
        c.groups = 7;
        c.stride = filters == 3 ? 2 : 1;
        CheckCase(c);
      }
    }
  }
  // Many chunks of filter gradients, and many pixels to each.
  Case c = Block(1, 1, 90);
  c.groups = 36;
  c.height = 40;
  CheckCase(c);
}

// The fused pass where filters see one channel: channels that vectors divide
// and that they do not, all multiples of them, padding of all kinds, more taps
// than 16 bits have the sum of.
void SweepFusedDepthwise() {
  const auto depthwise = [](int64_t groups, int64_t filters, int64_t width) {
    Case c = Block(1, filters, width);
    c.groups = groups;
    c.fused_alone = true;
    return c;
  };
  for (const int64_t groups : {1, 15, 16, 17, 31, 33, 63, 64, 65, 97, 130}) {
    Case c = depthwise(groups, 1, 7);
    CheckCase(c);
    c.stride = 2;
    CheckCase(c);
  }
  for (const int64_t filters : {2, 3, 7, 15}) {
    for (const int64_t groups : {1, 3, 17}) {
      Case c = depthwise(groups, filters, 5);
      CheckCase(c);
      c.format = "NCHW";
      c.stride = 2;
      CheckCase(c);
    }
  }
  for (const int64_t kernel : {1, 3, 5}) {
    for (const int64_t stride : {1, 2, 3}) {
      for (const int64_t dilation : {1, 3}) {
        Case c = depthwise(18, 1, 9);
        c.height = 8;
        c.batch = 2;
        c.kernel_height = c.kernel_width = kernel;
        c.stride = stride;
        c.dilation = dilation;
        CheckCase(c);
        c.padding = "EXPLICIT";
        c.left = (kernel - 1) * dilation;
        c.top = c.right = c.left / 2;
        CheckCase(c);
      }
    }
  }
  // More outputs than go at once, columns of taps alone, and rows of them.
  for (const int64_t width : {1, 2, 3, 4, 150}) {
    Case c = depthwise(80, 1, width);
    CheckCase(c);
    c.kernel_height = 1;
    c.kernel_width = 7;
    CheckCase(c);
    c.row_dilation = 2;
    c.kernel_height = c.kernel_width = 3;
    CheckCase(c);
  }
  // Sums that do not fit into 16 bits: enough turns for extremes of all types.
  for (const int64_t groups : {16, 70}) {
    Case c = depthwise(groups, 1, 3);
    CheckCase(c);
    c.kernel_height = c.kernel_width = 17;
    CheckCase(c);
    c.dilation = 1 << 20;
    CheckCase(c);
  }
  Case empty = depthwise(20, 1, 0);
  empty.padding = "EXPLICIT";
  empty.left = empty.right = 2;
  CheckCase(empty);
}

void Sweep(int64_t last) {
  const std::vector<int64_t Case::*> dimensions = {
      &Case::batch,        &Case::height,  &Case::width,
      &Case::channels,     &Case::filters, &Case::kernel_height,
      &Case::kernel_width, &Case::stride,  &Case::dilation};
  for (const char* format : {"NHWC", "NCHW"}) {
    for (int64_t Case::* const dimension : dimensions) {
      for (int64_t size = 1; size <= last; ++size) {
        Case c;
        c.format = format;
        c.*dimension = size;
        CheckCase(c);
      }
    }
    for (int64_t groups = 1; groups <= 4; ++groups) {
      Case c;
      c.format = format;
      c.groups = groups;
      c.stride = 2;
      CheckCase(c);
    }
  }
  // Dimensions that block each other, and more than one block of each.
  for (const int64_t channels : {1, 16, 17, 33}) {
    for (const int64_t filters : {1, 16, 31, 48, 65, 130}) {
      for (const int64_t width : {1, 6, 13, 29}) {
        Case c = Block(channels, filters, width);
        CheckCase(c);
        c.kernel_height = c.kernel_width = 1;
        c.batch = 2;
        CheckCase(c);
      }
    }
  }
  // Columns in the padding: none, those that kernels leave out, and more.
  for (const int64_t kernel : {1, 3}) {
    const int64_t most = std::min<int64_t>(kernel, 2);
    for (const int64_t width : {3, 4, 9}) {
      for (int64_t pads = 0; pads < (most + 1) * (most + 1); ++pads) {
        Case c = Block(17, 40, width);
        c.kernel_width = kernel;
        c.padding = "EXPLICIT";
        c.left = pads / (most + 1);
        c.right = pads % (most + 1);
        CheckCase(c);
        c.stride = 2;
        CheckCase(c);
      }
    }
  }
  // Few channels: im2row of rows or of windows, whose places overlap or not,
  // in images that share a band or take several.
  for (const int64_t channels : {1, 3, 8}) {
    for (const int64_t filters : {3, 40}) {
      for (const int64_t stride : {1, 2, 4}) {
        Case c = Block(channels, filters, 7);
        c.batch = 3;
        c.stride = stride;
        CheckCase(c);
        c.kernel_height = c.kernel_width = 5;
        c.padding = "EXPLICIT";
        c.top = 1;
        c.left = 3;
        CheckCase(c);
        c.row_dilation = 2;
        c.top = 6;
        CheckCase(c);
      }
    }
  }
  for (const int64_t channels : {1, 5}) {
    Case c = Block(channels, 40, 9);
    c.height = 30;
    CheckCase(c);
    c.batch = 2;
    c.height = 60;
    c.width = 17;
    c.stride = 2;
    CheckCase(c);
    CheckCase(Block(channels, 40, 210));  // wider than a band
  }
  // Sums that would not fit into 16 bits, and steps of whole channels of taps
  // that are apart. Sixteen turns have every type meet extremes.
  for (const int64_t channels : {16, 257, 1030}) {
    Case c = Block(channels, 2, 3);
    c.fused_alone = true;
    CheckCase(c);
    CheckCase(c);
    CheckCase(c);
    c.dilation = 2;
    CheckCase(c);
    c.kernel_height = c.kernel_width = 1;
    CheckCase(c);
    CheckCase(c);
  }
  // Rows that are cut, since a tile of integers would be too large, and
  // dilations of which most of a tile would not be met.
  for (const int64_t channels : {64, 121}) {
    Case c = Block(channels, 1, 1500);
    c.fused_alone = true;
    CheckCase(c);
    c.kernel_width = 5;
    CheckCase(c);
    c.stride = 2;
    c.padding = "VALID";
    CheckCase(c);
    c = Block(channels, 3, 7);
    c.fused_alone = true;
    c.dilation = 200;
    CheckCase(c);
    c.dilation = 1 << 30;
    CheckCase(c);
  }
  // Nothing but padding.
  Case empty;
  empty.height = 0;
  empty.padding = "EXPLICIT";
  empty.top = 3;
  CheckCase(empty);
  // Sums of more terms than a chain of additions may have.
  for (const int64_t channels : {70, 150}) {
    for (const int64_t width : {1, 13, 29}) {
      CheckCase(Block(channels, 17, width));
      CheckCase(Block(channels, 70, width));
    }
  }
  // Images that are larger than a cache: one block of channels, and two, take
  // different passes backward.
  for (const int64_t channels : {16, 17}) {
    Case c;
    c.height = c.width = 80;
    c.channels = channels;
    c.filters = 2;
    CheckCase(c);
  }
  for (const int64_t size : {70, 300}) {
    Case c;
    c.height = c.width = size;
    c.channels = c.filters = 2;
    CheckCase(c);
    c.padding = "VALID";
    c.stride = 4;
    CheckCase(c);
    c.dilation = 3;
    CheckCase(c);
  }
}

}  // namespace
}  // namespace keras_adder

int main(int count, char** arguments) {
  keras_adder::TestThreads(&keras_adder::checks, &keras_adder::failures);
  keras_adder::SweepDepthwise();
  keras_adder::SweepFusedDepthwise();
  keras_adder::Sweep(count > 1 ? std::atoll(arguments[1]) : 20);
  for (const keras_adder::KernelSet* set : keras_adder::SupportedKernels()) {
    std::printf("%s ", set->name);
  }
  std::printf("\n%d passed, %d failed\n",
              keras_adder::checks - keras_adder::failures,
              keras_adder::failures);
  return keras_adder::failures == 0 ? 0 : 1;
}
