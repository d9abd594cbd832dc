// What keras_adder.sysconfig.instruction_sets() asks: a C function, for ctypes.

#include <string>

#include "core/select_kernels.h"

namespace keras_adder {
namespace {

std::string Names(const std::vector<const KernelSet*>& sets) {
  std::string names;
  for (const KernelSet* set : sets) names += " " + std::string(set->name);
  return names;
}

std::string Describe() {
  Error error;
  const KernelSet* const chosen = SelectKernels(&error);
  return "compiled" + Names(CompiledKernels()) + "\nsupported" +
         Names(SupportedKernels()) +
         (chosen == nullptr ? "\nerror " + error
                            : "\nchosen " + std::string(chosen->name));
}

}  // namespace
}  // namespace keras_adder

// Three lines: those compiled, those that this processor runs, and the one that
// is used, or why none is. Each is a word and then names.
extern "C" __attribute__((visibility("default"))) const char*
keras_adder_instruction_sets(void) {
  static const std::string description = keras_adder::Describe();
  return description.c_str();
}
