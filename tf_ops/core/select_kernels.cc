#include "core/select_kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <string>
#include <utility>

namespace keras_adder {

#if defined(__x86_64__)
namespace {

// Whether there are conversions of half precision, which clang before 19 does
// not let __builtin_cpu_supports ask for. The system must save the registers
// of AVX, too: those who ask have asked for AVX2.
bool HasF16c() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0;
}

// Of the processors with AVX-512, AMD's family 19h.
bool IsZen4() {
  unsigned eax, ebx, ecx, edx;
  if (!__builtin_cpu_is("amd") || !__get_cpuid(1, &eax, &ebx, &ecx, &edx)) {
    return false;
  }
  const unsigned family = (eax >> 8 & 0xf) + (eax >> 20 & 0xff);
  return family == 0x19;
}

}  // namespace
#endif

std::vector<const KernelSet*> CompiledKernels() {
#if defined(__x86_64__)
  return {&kBaselineKernels, &kAvx2Kernels, &kAvx512Kernels,
          &kAvx512OperandKernels};
#elif defined(__aarch64__)
  return {&kBaselineKernels, &kNeonKernels};
#else
  return {&kBaselineKernels};
#endif
}

// The best one last.
std::vector<const KernelSet*> SupportedKernels() {
  std::vector<const KernelSet*> sets = {&kBaselineKernels};
#if defined(__x86_64__)
  // All that the files' own flags allow the compiler to use (CMakeLists.txt).
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      HasF16c()) {
    sets.push_back(&kAvx2Kernels);
    if (__builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl")) {
      sets.push_back(&kAvx512OperandKernels);
      sets.push_back(&kAvx512Kernels);
      if (IsZen4()) std::swap(sets.end()[-1], sets.end()[-2]);
    }
  }
#elif defined(__aarch64__)
  sets.push_back(&kNeonKernels);  // every processor of the architecture has it
#endif
  return sets;
}

namespace {

struct Choice {
  const KernelSet* set = nullptr;
  Error error;
};

Choice Choose() {
  Choice choice;
  const std::vector<const KernelSet*> sets = SupportedKernels();
  const char* wanted = std::getenv("KERAS_ADDER_ISA");
  if (wanted == nullptr || *wanted == '\0') {
    choice.set = sets.back();
    return choice;
  }
  std::string known;
  for (const KernelSet* set : sets) {
    if (wanted == std::string(set->name)) choice.set = set;
    known += (known.empty() ? "" : ", ") + std::string(set->name);
  }
  if (choice.set == nullptr) {
    choice.error =
        "The environment variable KERAS_ADDER_ISA must be one of "
        "those this processor runs: " +
        known + ". Received: KERAS_ADDER_ISA=" + wanted;
  }
  return choice;
}

}  // namespace

const KernelSet* SelectKernels(Error* error) {
  // Never destroyed: functions that run at exit may still ask.
  static const Choice& choice = *new Choice(Choose());
  *error = choice.error;
  return choice.set;
}

#if defined(__x86_64__)
namespace {

// Zen 4 (`benchmarks/peak.cc`) makes 3.7 G/s of maxima with dot products, and
// 2.4 of sliding distances with sums, which have half as many lanes more, of
// which broadcasts take no part. Intel's Emerald Rapids made 2.2 and 2.6 of
// them (docs/kernels.md).
FusedKernels BestOfAvx512() {
  FusedKernels kernels = kFusedAvx512;
  const bool vnni = __builtin_cpu_supports("avx512vnni");
  if (vnni) {
    kernels.words = kVnniWords;
    kernels.word_rows = kVnniWordRows;
    kernels.window_bytes = kVnniWindowBytes;
    kernels.window_words = kVnniWindowWords;
  }
  if (!__builtin_cpu_is("amd")) {
    kernels.sliding = kSaturatingSliding;
    kernels.bytes = kSaturatingBytes;
  } else if (vnni) {
    kernels.sliding = {};
    kernels.bytes = kVnniBytes;
    kernels.byte_rows = kVnniByteRows;
  }
  return kernels;
}

}  // namespace
#endif

const FusedKernels& FusedKernelsOf(const KernelSet& set) {
#if defined(__x86_64__)
  if (set.fused == &kFusedAvx512) {
    static const FusedKernels& best = *new FusedKernels(BestOfAvx512());
    return best;
  }
#endif
  return *set.fused;
}

}  // namespace keras_adder
