// SPDX-License-Identifier: Apache-2.0
// The CUDA backend as the rest of the program sees it. Only this header of the folder and page_layout.h may be included by
// other code. It exists in every build, with CUDA (device.cpp) or without (absent.cpp).
#pragma once

#include <memory>

#include "ops/ops.h"

namespace biqa {

/// True in a build by `launch/build.sh cuda`, and in one by `launch/build.sh emulated`.
bool built_with_cuda();

/// Selects a working CUDA device. Throws Error (exit code 1) if this build has no CUDA backend or this machine no
/// working device; the message says which, and what to do.
void require_cuda_device();

/// The CUDA backend on device `local_rank` modulo the number of devices that this process sees. Throws Error as
/// require_cuda_device() does.
std::unique_ptr<Ops> make_cuda_ops(DType compute, int local_rank);

}  // namespace biqa
