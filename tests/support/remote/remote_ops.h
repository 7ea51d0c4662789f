// SPDX-License-Identifier: Apache-2.0
// A device that there is not: the CPU backend behind a wrapper that behaves as a GPU may. It proves without one that nothing
// above the seam (ops/ops.h) touches a tensor's memory or reads a result before it has waited.
// - A tensor's address lies in pages that no one may touch (PROT_NONE); the work is done through a second mapping of them.
// - Work runs on a thread of its own, later than the call.
// - Host memory that a copy will write is filled with NaN at once and gets its values in wait() alone.
// - What a call may only borrow while it runs (host spans, batches) is copied by the call; the work sees the copy.
// - SampledTokens::wait() waits for no more than its own tokens.
#pragma once

#include <memory>

#include "ops/ops.h"

namespace biqa::testing {

std::unique_ptr<Ops> make_remote_ops(DType compute, int threads);

}  // namespace biqa::testing
