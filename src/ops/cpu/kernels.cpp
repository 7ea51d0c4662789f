// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/kernels.h"

#include "ops/cpu/instruction_set.h"

namespace biqa::cpu {

const Kernels& kernels() {
#if defined(__x86_64__)
  if (instruction_set() >= InstructionSet::avx512) return avx512::table();
  if (instruction_set() == InstructionSet::avx2) return avx2::table();
#endif
  return baseline::table();
}

}  // namespace biqa::cpu
