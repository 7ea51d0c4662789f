// SPDX-License-Identifier: Apache-2.0
// The part of the CUDA backend that the rest of the program uses. Code outside of this folder may include only this
// header and, in the layer ops, page_layout.h and buffers.h, which have no CUDA types. Every build has these functions: device.cpp implements them with CUDA, absent.cpp without.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "ops/ops.h"

namespace biqa {

/// True if the program was built by `launch/build.sh cuda` or `launch/build.sh emulated`.
bool built_with_cuda();

/// Selects a working CUDA device. Throws Error (exit code 1) if this build has no CUDA backend, or if this machine has
/// no working device. The message says what to do.
void require_cuda_device();

/// The GPU of a process.
struct DeviceFacts {
  std::string name;  ///< as its maker writes it
  std::int64_t total_bytes = 0, free_bytes = 0;
};
/// The GPU that make_cuda_ops() would take. Throws Error as require_cuda_device() does.
DeviceFacts cuda_device_facts(int local_rank);

/// The CUDA backend on device `local_rank` modulo the number of devices that this process sees. Throws Error as
/// require_cuda_device() does.
std::unique_ptr<Ops> make_cuda_ops(DType compute, int local_rank,
                                   VisionAttentionBy vision_attention = VisionAttentionBy::own);

}  // namespace biqa
