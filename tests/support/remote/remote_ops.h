// SPDX-License-Identifier: Apache-2.0
// A simulated device: a wrapper around the CPU backend that behaves like a GPU. It proves, without a GPU, that no code
// above the seam (ops/ops.h) touches a tensor's memory or reads a result before waiting.
// - A tensor's address is in pages that may not be accessed (PROT_NONE). Work uses a second mapping of these pages.
// - Work runs on a separate thread, after the call has returned.
// - Host memory that a copy will write is filled with NaN at once and receives its values only in wait().
// - Arguments that a call only borrows (host spans, batches) are destroyed or overwritten before the work begins.
#pragma once

#include <memory>

#include "ops/ops.h"

namespace biqa::testing {

std::unique_ptr<Ops> make_remote_ops(DType compute, int threads);

}  // namespace biqa::testing
