// SPDX-License-Identifier: Apache-2.0
// Checks whether `device: cuda` can be used. Only this header of the folder may be included by other layers. It exists
// in every build, with CUDA (device.cpp) or without (absent.cpp).
#pragma once

namespace biqa {

/// True in a build by `launch/build.sh cuda`.
bool built_with_cuda();

/// Selects a working CUDA device. Throws Error (exit code 1) if this build has no CUDA backend or this machine no
/// working device; the message says which, and what to do.
void require_cuda_device();

/// Called by programs for `device: cuda`. Always throws Error (exit code 1): that of require_cuda_device, or that only
/// some operations run on CUDA so far.
[[noreturn]] void refuse_cuda_network();

}  // namespace biqa
