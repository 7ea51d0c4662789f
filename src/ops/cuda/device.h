// SPDX-License-Identifier: Apache-2.0
// Whether `device: cuda` can be used here. The only header of this folder that other layers may include; it
// is there in every build, with CUDA (device.cpp) or without (absent.cpp).
#pragma once

namespace biqa {

/// True in a build by `launch/build.sh cuda`.
bool built_with_cuda();

/// Returns when this build has the CUDA backend and this machine a device that works, which it makes the
/// current one; else throws Error (exit code 1) saying which of the two is missing and what to do.
void require_cuda_device();

/// What a program calls for `device: cuda`. Throws Error (exit code 1): as require_cuda_device, and where
/// that passes because only some operations run on CUDA yet.
[[noreturn]] void refuse_cuda_network();

}  // namespace biqa
