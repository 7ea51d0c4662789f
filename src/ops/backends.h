// SPDX-License-Identifier: Apache-2.0
// Creates backends by name.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "ops/ops.h"

namespace biqa {

struct DeviceChoice {
  std::string device = "cpu";  ///< cpu | cuda
  DType compute = DType::f32;  ///< f32 | bf16
  int threads = 0;  ///< of the CPU backend; 0: all processors that this process may use, or OMP_NUM_THREADS
  int local_rank = 0;  ///< number of this process among those of its node: which GPU it takes
};

/// Throws Error if the backend is not part of this build or finds no device.
std::unique_ptr<Ops> make_ops(const DeviceChoice& choice);

/// For tests and checks: make_ops() first calls `make` and returns its result, unless that is nullptr. Call this before
/// starting threads.
void set_further_backend(std::function<std::unique_ptr<Ops>(const DeviceChoice&)> make);

/// Ops::kv_layout of a backend that need not exist here: plans and checks are made before it does.
KvLayout kv_layout(const DeviceChoice& choice, const HeadShape& shape);

/// Rows of logits [rows, vocabulary] f32 that the CPU backend holds at most at a time.
std::int64_t logit_rows(std::int64_t vocabulary);

}  // namespace biqa
