// SPDX-License-Identifier: Apache-2.0
#include "comm/broadcast_shape.h"

#include <algorithm>
#include <bit>

namespace biqa {

BroadcastShape broadcast_shape(int ranks, std::size_t bytes) {
  // An empty buffer is sent as one empty block, so that sizes are still compared.
  const std::size_t blocks =
      std::max<std::size_t>(1, (bytes + kBroadcastBlockBytes - 1) / kBroadcastBlockBytes);
  if (blocks == 1) return {blocks, 0};
  const auto hops = static_cast<std::size_t>(std::max(ranks, 1)) - 1;
  const auto depth = static_cast<std::size_t>(std::bit_width(hops + 1)) - 1;
  return {blocks, 2 * (depth + blocks - 1) < hops + blocks - 1 ? 2 : 1};
}

}  // namespace biqa
