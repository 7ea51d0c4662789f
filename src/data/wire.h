// SPDX-License-Identifier: Apache-2.0
// Groups as bytes, for messages between ranks of one build on machines of one byte order.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "data/trajectory.h"

namespace biqa {

std::vector<std::byte> serialise(const Group& group);

/// Inverse of serialise. Throws Error if the bytes are cut short, too long, of another format, or hold a
/// length or a flag that cannot be; never claims more memory than a small multiple of what was received.
Group parse_group(std::span<const std::byte> bytes);

}  // namespace biqa
