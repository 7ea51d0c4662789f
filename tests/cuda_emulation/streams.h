// SPDX-License-Identifier: Apache-2.0
// When the work in emulated streams is done: at once, or late, that is when somebody waits for it.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <functional>

namespace biqa::emulation {

/// Does `work` in the stream's order, with device memory open. Launches, copies and stand-ins of libraries go this way.
void enqueue(cudaStream_t stream, std::function<void()> work);
/// Does everything that all streams hold.
void finish_all_work();

}  // namespace biqa::emulation
