// The C interface: checks what it is given, and calls the core.

#include "keras_adder/keras_adder.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/default_pool.h"
#include "core/engine.h"
#include "core/geometry.h"
#include "core/parallel.h"
#include "core/select_kernels.h"
#include "core/workspace.h"

struct KerasAdderPlan {
  keras_adder::Geometry geometry;
  keras_adder::DataFormat data_format;
  keras_adder::Pass pass;
  std::unique_ptr<const keras_adder::Engine> engine;
};

namespace keras_adder {
namespace {

static_assert(static_cast<int>(DataType::kFloat16) == KERAS_ADDER_FLOAT16);
static_assert(static_cast<int>(DataType::kBFloat16) == KERAS_ADDER_BFLOAT16);
static_assert(static_cast<int>(DataType::kFloat32) == KERAS_ADDER_FLOAT32);
static_assert(static_cast<int>(DataType::kFloat64) == KERAS_ADDER_FLOAT64);
static_assert(static_cast<int>(Pass::kForward) == KERAS_ADDER_FORWARD);
static_assert(static_cast<int>(Pass::kInputGradient) ==
              KERAS_ADDER_INPUT_GRADIENT);
static_assert(static_cast<int>(Pass::kFilterGradient) ==
              KERAS_ADDER_FILTER_GRADIENT);
static_assert(static_cast<int>(Pass::kBackward) == KERAS_ADDER_BACKWARD);

// No std::string: a program may still call when those of its threads are gone,
// from a function that runs at exit.
thread_local char last_error[1024] = "";

KerasAdderStatus Fail(KerasAdderStatus status, const char* message) noexcept {
  std::strncpy(last_error, message, sizeof(last_error) - 1);
  return status;
}

KerasAdderStatus Invalid(const std::string& message) noexcept {
  return Fail(KERAS_ADDER_INVALID_ARGUMENT, message.c_str());
}

// Calls a function, of which no exception gets into a program in C.
template <typename Function>
KerasAdderStatus Guarded(const Function& function) noexcept {
  last_error[0] = '\0';
  try {
    return function();
  } catch (const std::bad_alloc&) {
    return Fail(KERAS_ADDER_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return Fail(KERAS_ADDER_INTERNAL, error.what());
  } catch (...) {
    return Fail(KERAS_ADDER_INTERNAL, "an exception of an unknown type");
  }
}

// Where structs ended in version 0.1. Never to be changed: fields that are
// added lie behind it.
#define KERAS_ADDER_END(S, FIELD) (offsetof(S, FIELD) + sizeof(S::FIELD))
constexpr size_t kConv2DSize =
    KERAS_ADDER_END(KerasAdderConv2D, explicit_paddings);
constexpr size_t kEpilogueSize =
    KERAS_ADDER_END(KerasAdderEpilogue, output_zero_point);
constexpr size_t kTensorsSize = KERAS_ADDER_END(KerasAdderTensors, epilogue);
constexpr size_t kPoolSize = KERAS_ADDER_END(KerasAdderPool, schedule);
static_assert(sizeof(void*) != 8 ||
              (kConv2DSize == 160 && kEpilogueSize == 56 &&
               kTensorsSize == 96 && kPoolSize == 24));

// Copies a struct of a program that may know fewer fields than this library,
// over the defaults of those that it does not know. `smallest` is the size that
// the struct had in the first version.
template <typename Struct>
KerasAdderStatus Read(const char* name, const Struct* foreign, size_t smallest,
                      Struct* own) {
  if (foreign == nullptr) return Invalid(std::string(name) + " is NULL");
  const size_t size = foreign->struct_size;
  if (size < smallest || size > sizeof(Struct)) {
    return Invalid(std::string(name) +
                   ": struct_size must be set by its _INIT macro, of a header "
                   "that is not newer than the library. Received: " +
                   std::to_string(size) + ", expected " +
                   std::to_string(smallest) + " to " +
                   std::to_string(sizeof(Struct)));
  }
  std::memcpy(own, foreign, size);
  return KERAS_ADDER_OK;
}

// Whether a number lies between 0 and the last one that is allowed.
KerasAdderStatus CheckChoice(const char* name, int32_t value, int32_t last) {
  if (value >= 0 && value <= last) return KERAS_ADDER_OK;
  return Invalid(std::string(name) + " must be between 0 and " +
                 std::to_string(last) + ". Received: " + std::to_string(value));
}

KerasAdderStatus CheckChoices(const KerasAdderConv2D& convolution) {
  const struct {
    const char* name;
    int32_t value, last;
  } choices[] = {
      {"pass", convolution.pass, KERAS_ADDER_BACKWARD},
      {"type", convolution.type, KERAS_ADDER_FLOAT64},
      {"output_type", convolution.output_type, KERAS_ADDER_FLOAT64},
      {"data_format", convolution.data_format, KERAS_ADDER_NCHW},
      {"padding", convolution.padding, KERAS_ADDER_EXPLICIT},
      {"filter_gradient", convolution.filter_gradient, KERAS_ADDER_SIGN},
  };
  for (const auto& [name, value, last] : choices) {
    if (const auto status = CheckChoice(name, value, last)) return status;
  }
  if (const auto status = CheckChoice("threads", convolution.threads, 4096)) {
    return status;
  }
  for (const int64_t size : convolution.input_shape) {
    if (size < 0) {
      return Invalid("input_shape must not be negative. Received: " +
                     std::to_string(size));
    }
  }
  for (const int64_t size : convolution.filter_shape) {
    if (size < 0) {
      return Invalid("filter_shape must not be negative. Received: " +
                     std::to_string(size));
    }
  }
  return KERAS_ADDER_OK;
}

// Checks what the core's parser checks of TensorFlow's attributes, by giving it
// just these: so that there is one place that does.
Error MakeAttributes(const KerasAdderConv2D& convolution,
                     Attributes* attributes) {
  static constexpr const char* kPaddings[] = {"VALID", "SAME", "EXPLICIT"};
  const bool nhwc = convolution.data_format == KERAS_ADDER_NHWC;
  const auto in_order = [&](const int64_t (&pair)[2]) {
    if (nhwc) return std::vector<int64_t>{1, pair[0], pair[1], 1};
    return std::vector<int64_t>{1, 1, pair[0], pair[1]};
  };
  std::vector<int64_t> paddings;
  if (convolution.padding == KERAS_ADDER_EXPLICIT) {
    paddings.assign(8, 0);
    std::copy_n(convolution.explicit_paddings, 4,
                paddings.begin() + (nhwc ? 2 : 4));
  }
  return ParseAttributes(nhwc ? "NHWC" : "NCHW", kPaddings[convolution.padding],
                         paddings, in_order(convolution.strides),
                         in_order(convolution.dilations), attributes);
}

std::array<int64_t, 4> ShapeOf(const int64_t (&shape)[4]) {
  return {shape[0], shape[1], shape[2], shape[3]};
}

// One thread for each processor that this process may use.
DefaultPool OwnPool() {
  // Asked once: the system takes longer for it than a small convolution does.
  static const int processors = [] {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }();
  return DefaultPool(processors);
}

// A C program's pool.
class ForeignPool : public ThreadPool {
 public:
  explicit ForeignPool(const KerasAdderPool& pool) : pool_(pool) {}

  int size() const override { return pool_.threads; }

  void Schedule(int worker, std::function<void()> helper) override {
    auto argument = std::make_unique<std::function<void()>>(std::move(helper));
    const auto call = [](void* held) {
      const std::unique_ptr<std::function<void()>> function(
          static_cast<std::function<void()>*>(held));
      (*function)();
    };
    pool_.schedule(pool_.context, worker, call, argument.release());
  }

 private:
  const KerasAdderPool pool_;
};

// Calls a function with the pool that a program gave, or with our own.
template <typename Function>
KerasAdderStatus WithPool(const KerasAdderPool* foreign,
                          const Function& function) {
  if (foreign == nullptr) {
    DefaultPool pool = OwnPool();
    return function(pool);
  }
  KerasAdderPool own = KERAS_ADDER_POOL_INIT;
  if (const auto status = Read("pool", foreign, kPoolSize, &own)) {
    return status;
  }
  if (own.threads < 1 || own.schedule == nullptr) {
    return Invalid("pool must have at least 1 thread, and `schedule`");
  }
  ForeignPool pool(own);
  return function(pool);
}

KerasAdderStatus ReadEpilogue(const KerasAdderEpilogue* foreign, Pass pass,
                              Epilogue* epilogue) {
  KerasAdderEpilogue own = KERAS_ADDER_EPILOGUE_INIT;
  if (const auto status = Read("epilogue", foreign, kEpilogueSize, &own)) {
    return status;
  }
  if (pass != Pass::kForward) {
    return Invalid("epilogue: only a forward pass has one");
  }
  if (own.residual != nullptr) {
    return Fail(KERAS_ADDER_UNSUPPORTED, "epilogue: a residual is not added");
  }
  if (own.output_scale != 0) {
    return Fail(KERAS_ADDER_UNSUPPORTED,
                "epilogue: an output is not quantized");
  }
  if (!(own.lower <= own.upper)) {
    return Invalid("epilogue: lower must not exceed upper. Received: lower=" +
                   std::to_string(own.lower) +
                   ", upper=" + std::to_string(own.upper));
  }
  *epilogue = {own.multiplier, own.offset, own.lower, own.upper};
  return KERAS_ADDER_OK;
}

// Whether a run has all tensors that its pass is about.
KerasAdderStatus CheckTensors(const KerasAdderPlan& plan,
                              const KerasAdderTensors& tensors) {
  const bool forward = plan.pass == Pass::kForward;
  const bool both = plan.pass == Pass::kBackward;
  const Geometry& geometry = plan.geometry;
  const struct {
    const char* name;
    const void* data;
    bool needed;
  } all[] = {
      {"input", tensors.input, geometry.input_size() > 0},
      {"filters", tensors.filters,
       geometry.filter_size() > 0 &&
           (!forward || tensors.packed_filters == nullptr ||
            plan.engine->packed_filters_bytes() == 0)},
      {"output_gradient", tensors.output_gradient,
       !forward && geometry.output_size() > 0},
      {"output", tensors.output, forward && geometry.output_size() > 0},
      {"input_gradient", tensors.input_gradient,
       (both || plan.pass == Pass::kInputGradient) &&
           geometry.input_size() > 0},
      {"filter_gradient", tensors.filter_gradient,
       (both || plan.pass == Pass::kFilterGradient) &&
           geometry.filter_size() > 0},
  };
  for (const auto& [name, data, needed] : all) {
    if (needed && data == nullptr) {
      return Invalid(std::string(name) + " must not be NULL in this pass");
    }
  }
  return KERAS_ADDER_OK;
}

bool IsAligned(const void* memory) {
  return reinterpret_cast<uintptr_t>(memory) % kWorkspaceAlignment == 0;
}

std::string AddressOf(const void* memory) {
  char text[32];
  std::snprintf(text, sizeof(text), "%p", memory);
  return text;
}

// Scratch memory of the run's own.
using Memory = std::unique_ptr<void, decltype(&std::free)>;

Memory Allocate(size_t bytes) {
  const size_t whole = (bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment *
                       kWorkspaceAlignment;
  Memory memory(
      whole == 0 ? nullptr : std::aligned_alloc(kWorkspaceAlignment, whole),
      &std::free);
  if (whole > 0 && memory == nullptr) throw std::bad_alloc();
  return memory;
}

KerasAdderStatus Run(const KerasAdderPlan& plan, const KerasAdderTensors& given,
                     ThreadPool& pool) {
  if (const auto status = CheckTensors(plan, given)) return status;
  Tensors tensors;
  tensors.input = given.input;
  tensors.filters = given.filters;
  tensors.output_gradient = given.output_gradient;
  tensors.output = given.output;
  tensors.input_gradient = given.input_gradient;
  tensors.filter_gradient = given.filter_gradient;
  if (const size_t packed = plan.engine->packed_filters_bytes();
      packed > 0 && given.packed_filters != nullptr) {
    if (given.packed_filters_bytes != packed ||
        !IsAligned(given.packed_filters)) {
      return Invalid("packed_filters must be what this plan has packed, " +
                     std::to_string(packed) +
                     " bytes from a multiple of 64 on. Received: " +
                     std::to_string(given.packed_filters_bytes) + " bytes at " +
                     AddressOf(given.packed_filters));
    }
    tensors.packed_filters = given.packed_filters;
  }
  Epilogue epilogue;
  if (given.epilogue != nullptr) {
    const auto status = ReadEpilogue(given.epilogue, plan.pass, &epilogue);
    if (status) return status;
    tensors.epilogue = &epilogue;
  }
  const size_t needed =
      plan.engine->workspace_bytes(tensors.packed_filters != nullptr);
  if (given.workspace == nullptr) {
    const Memory own = Allocate(needed);
    plan.engine->Run(pool, tensors, own.get());
    return KERAS_ADDER_OK;
  }
  if (given.workspace_bytes < needed || !IsAligned(given.workspace)) {
    return Invalid("workspace must have " + std::to_string(needed) +
                   " bytes from a multiple of 64 on. Received: " +
                   std::to_string(given.workspace_bytes) + " bytes at " +
                   AddressOf(given.workspace));
  }
  plan.engine->Run(pool, tensors, given.workspace);
  return KERAS_ADDER_OK;
}

KerasAdderStatus CreatePlan(const KerasAdderConv2D* foreign,
                            std::unique_ptr<KerasAdderPlan>* made) {
  KerasAdderConv2D convolution = KERAS_ADDER_CONV2D_INIT;
  if (const auto status =
          Read("convolution", foreign, kConv2DSize, &convolution)) {
    return status;
  }
  if (const auto status = CheckChoices(convolution)) return status;
  Attributes attributes;
  Problem problem;
  Error error = MakeAttributes(convolution, &attributes);
  if (error.empty()) {
    error = MakeGeometry(attributes, ShapeOf(convolution.input_shape),
                         ShapeOf(convolution.filter_shape), &problem.geometry);
  }
  if (!error.empty()) return Invalid(error);
  problem.kernels = SelectKernels(&error);
  if (problem.kernels == nullptr) {
    return Fail(KERAS_ADDER_FAILED_PRECONDITION, error.c_str());
  }
  problem.pass = static_cast<Pass>(convolution.pass);
  problem.mode = convolution.filter_gradient == KERAS_ADDER_SIGN
                     ? FilterGradientMode::kSign
                     : FilterGradientMode::kFullPrecision;
  problem.type = static_cast<DataType>(convolution.type);
  problem.output_type = static_cast<DataType>(convolution.output_type);
  const int most =
      convolution.threads > 0 ? convolution.threads : OwnPool().size();
  problem.threads = UsefulThreads(most, problem.geometry);
  auto engine = MakeEngine(problem);
  if (engine == nullptr) {
    return Invalid(
        "output_type must equal type, or be float32 with float16 and bfloat16. "
        "Received: type=" +
        std::to_string(convolution.type) +
        ", output_type=" + std::to_string(convolution.output_type));
  }
  made->reset(new KerasAdderPlan{problem.geometry, attributes.data_format,
                                 problem.pass, std::move(engine)});
  return KERAS_ADDER_OK;
}

}  // namespace
}  // namespace keras_adder

#define KERAS_ADDER_TEXT_OF(x) #x
#define KERAS_ADDER_TEXT(x) KERAS_ADDER_TEXT_OF(x)

const char* keras_adder_version(void) {
  return KERAS_ADDER_TEXT(KERAS_ADDER_VERSION_MAJOR) "." KERAS_ADDER_TEXT(
      KERAS_ADDER_VERSION_MINOR) "." KERAS_ADDER_TEXT(KERAS_ADDER_VERSION_PATCH);
}

const char* keras_adder_error(void) { return keras_adder::last_error; }

const char* keras_adder_instruction_set(void) {
  using namespace keras_adder;
  const char* name = nullptr;
  Guarded([&]() {
    Error error;
    const KernelSet* kernels = SelectKernels(&error);
    if (kernels == nullptr) {
      return Fail(KERAS_ADDER_FAILED_PRECONDITION, error.c_str());
    }
    name = kernels->name;
    return KERAS_ADDER_OK;
  });
  return name;
}

KerasAdderStatus keras_adder_plan_create(const KerasAdderConv2D* convolution,
                                         KerasAdderPlan** plan) {
  using namespace keras_adder;
  return Guarded([&]() {
    if (plan == nullptr) return Invalid("plan is NULL");
    *plan = nullptr;
    std::unique_ptr<KerasAdderPlan> made;
    const KerasAdderStatus status = CreatePlan(convolution, &made);
    *plan = made.release();
    return status;
  });
}

void keras_adder_plan_destroy(KerasAdderPlan* plan) { delete plan; }

void keras_adder_output_shape(const KerasAdderPlan* plan, int64_t shape[4]) {
  const auto sizes = OutputShape(plan->geometry, plan->data_format);
  std::copy(sizes.begin(), sizes.end(), shape);
}

size_t keras_adder_workspace_bytes(const KerasAdderPlan* plan,
                                   int filters_are_packed) {
  return plan->engine->workspace_bytes(
      filters_are_packed != 0 && plan->engine->packed_filters_bytes() > 0);
}

size_t keras_adder_packed_filters_bytes(const KerasAdderPlan* plan) {
  return plan->engine->packed_filters_bytes();
}

KerasAdderStatus keras_adder_pack_filters(const KerasAdderPlan* plan,
                                          const void* filters, void* packed,
                                          const KerasAdderPool* pool) {
  using namespace keras_adder;
  return Guarded([&]() {
    if (plan == nullptr) return Invalid("plan is NULL");
    if (plan->engine->packed_filters_bytes() == 0) return KERAS_ADDER_OK;
    if (filters == nullptr || packed == nullptr || !IsAligned(packed)) {
      return Invalid(
          "filters and packed must not be NULL, and packed must start at a "
          "multiple of 64 bytes");
    }
    return WithPool(pool, [&](ThreadPool& threads) {
      plan->engine->PackFilters(threads, filters, packed);
      return KERAS_ADDER_OK;
    });
  });
}

KerasAdderStatus keras_adder_run(const KerasAdderPlan* plan,
                                 const KerasAdderTensors* tensors,
                                 const KerasAdderPool* pool) {
  using namespace keras_adder;
  return Guarded([&]() {
    if (plan == nullptr) return Invalid("plan is NULL");
    KerasAdderTensors own = KERAS_ADDER_TENSORS_INIT;
    if (const auto status = Read("tensors", tensors, kTensorsSize, &own)) {
      return status;
    }
    return WithPool(
        pool, [&](ThreadPool& threads) { return Run(*plan, own, threads); });
  });
}
