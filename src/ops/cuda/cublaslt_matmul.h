// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "ops/cuda/matmul_backend.h"
#include "tensor/cuda/runtime.h"

namespace biqa::cuda {

/// Products of device memory with cuBLASLt, enqueued on `stream`, which must outlive the backend.
std::unique_ptr<MatmulBackend> make_cublaslt_matmul(const Stream& stream);

}  // namespace biqa::cuda
