// SPDX-License-Identifier: Apache-2.0
// The instruction set that the CPU backend uses on this processor.
#pragma once

#include <cstdint>

namespace biqa::cpu {

enum class InstructionSet : std::uint8_t { baseline, avx2, avx512, avx512_bf16, amx };

/// The best instruction set that the processor, the system and the variable ONEDNN_MAX_CPU_ISA (or DNNL_MAX_CPU_ISA)
/// allow. The variable limits both oneDNN and biqa's own kernels.
InstructionSet instruction_set();

}  // namespace biqa::cpu
