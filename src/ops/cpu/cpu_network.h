// SPDX-License-Identifier: Apache-2.0
// The network on the CPU: its decoder and vision tower call the operations of CpuOps (cpu_ops.h).
#pragma once

#include <memory>

#include "ops/decoder.h"
#include "ops/vision.h"

namespace biqa {
class CpuOps;
}

namespace biqa::cpu {

/// `ops` is borrowed and must outlive the result.
std::unique_ptr<Decoder> make_decoder(CpuOps& ops, const DecoderShape& shape, DecoderWeights weights);
/// `ops` is borrowed and must outlive the result.
std::unique_ptr<VisionEncoder> make_vision(CpuOps& ops, const VisionShape& shape, VisionWeights weights);

}  // namespace biqa::cpu
