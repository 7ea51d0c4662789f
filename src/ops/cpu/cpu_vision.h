// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "ops/vision.h"

namespace biqa {
class CpuOps;
}

namespace biqa::cpu {

/// Borrows `ops`.
std::unique_ptr<VisionEncoder> make_vision(CpuOps& ops, const VisionShape& shape, VisionWeights weights);

}  // namespace biqa::cpu
