// SPDX-License-Identifier: Apache-2.0
// The part of the memory report (tensor.h) that is device memory.
#pragma once

#include <map>
#include <string>

#include "tensor/tensor.h"

namespace biqa {

/// Like memory_report() and memory_total(), but only for device memory.
std::map<std::string, MemoryUse> device_memory_report();
MemoryUse device_memory_total();
/// For tests: every maximum begins again from what is in use now.
void restart_memory_peaks();

}  // namespace biqa
