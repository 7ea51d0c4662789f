// SPDX-License-Identifier: Apache-2.0
// Creates backends by name.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "ops/ops.h"

namespace biqa {

struct DeviceChoice {
  std::string device = "cpu";  ///< cpu | cuda
  DType compute = DType::f32;  ///< f32 | bf16
  int threads = 0;     ///< of the CPU backend; 0: OMP_NUM_THREADS or, if that is unset, all processors
  int local_rank = 0;  ///< number of this process among those of its node; selects the GPU
  VisionAttentionBy vision_attention = VisionAttentionBy::own;
};

/// Throws Error (usage) if `choice` lets cuDNN compute the vision tower's attention, and cuDNN does not support the
/// device, the compute type or heads of this dimension. Needs no device.
void check_vision_attention(const DeviceChoice& choice, std::int64_t head_dim);

/// Throws Error if the backend is not part of this build or finds no device.
std::unique_ptr<Ops> make_ops(const DeviceChoice& choice);

/// For tests and checks: make_ops() first calls `make` and returns its result, unless that is nullptr. Call this before
/// starting threads.
void set_further_backend(std::function<std::unique_ptr<Ops>(const DeviceChoice&)> make);

/// The layout that Ops::kv_layout of this backend returns. The backend need not exist yet, because plans and checks
/// come before it.
KvLayout kv_layout(const DeviceChoice& choice, const HeadShape& shape);

/// Maximum number of rows of logits [rows, vocabulary] f32 that the CPU backend holds at a time.
std::int64_t logit_rows(std::int64_t vocabulary);

/// Bytes that a thread of the CPU backend keeps to choose tokens.
std::int64_t sampling_thread_bytes(std::int64_t vocabulary);
/// Bytes that a thread of the CPU backend keeps for the backward pass of attention. `tokens`: of a prompt and a completion.
std::int64_t backward_thread_bytes(const HeadShape& shape, std::int64_t tokens);

}  // namespace biqa
