// SPDX-License-Identifier: Apache-2.0
// The network on the CPU, made of the operations of cpu_ops.h. Both parts borrow `ops`.
#pragma once

#include <memory>

#include "ops/decoder.h"
#include "ops/vision.h"

namespace biqa {
class CpuOps;
}

namespace biqa::cpu {

std::unique_ptr<Decoder> make_decoder(CpuOps& ops, const DecoderShape& shape, DecoderWeights weights);
std::unique_ptr<VisionEncoder> make_vision(CpuOps& ops, const VisionShape& shape, VisionWeights weights);

}  // namespace biqa::cpu
