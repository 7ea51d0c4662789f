// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/instruction_set.h"

#include <oneapi/dnnl/dnnl.hpp>

#include "ops/cpu/tile_set.h"

namespace biqa::cpu {
namespace {

InstructionSet find() {
#if defined(__x86_64__)
  // The library's values are bit sets. The value of a later processor includes the bits of earlier ones.
  const auto allowed = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  const auto allows = [allowed](dnnl::cpu_isa isa) {
    return (allowed & static_cast<unsigned>(isa)) == static_cast<unsigned>(isa);
  };
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && allows(dnnl::cpu_isa::avx512_core)) {
    if (allows(dnnl::cpu_isa::avx512_core_amx) && amx_tiles() != nullptr) return InstructionSet::amx;
    return allows(dnnl::cpu_isa::avx512_core_bf16) ? InstructionSet::avx512_bf16 : InstructionSet::avx512;
  }
  if (allows(dnnl::cpu_isa::avx2) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return InstructionSet::avx2;
#endif
  return InstructionSet::baseline;
}

}  // namespace

InstructionSet instruction_set() {
  static const InstructionSet found = find();
  return found;
}

}  // namespace biqa::cpu
