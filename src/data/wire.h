// SPDX-License-Identifier: Apache-2.0
// Groups as bytes, for messages between ranks. All ranks must run the same build and have the same byte order.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "data/trajectory.h"

namespace biqa {

std::vector<std::byte> serialise(const Group& group);

/// Inverse of serialise. Throws Error if the bytes are too few, too many or of another format, or contain an impossible
/// length or flag. Allocates at most a small multiple of the bytes received.
Group parse_group(std::span<const std::byte> bytes);

}  // namespace biqa
