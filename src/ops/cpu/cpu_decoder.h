// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "ops/decoder.h"

namespace biqa {
class CpuOps;
}

namespace biqa::cpu {

/// Borrows `ops`.
std::unique_ptr<Decoder> make_decoder(CpuOps& ops, const DecoderShape& shape, DecoderWeights weights);

}  // namespace biqa::cpu
