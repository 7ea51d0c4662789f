// SPDX-License-Identifier: Apache-2.0
// The path of a broadcast through the ranks. The communicator sends along it, and biqa_scale computes its time.
#pragma once

#include <cstddef>

namespace biqa {

/// A broadcast is cut into blocks of this size. A rank forwards one block while it receives the next.
constexpr std::size_t kBroadcastBlockBytes = std::size_t{4} << 20;

struct BroadcastShape {
  std::size_t blocks = 1;
  /// Number of ranks to which a rank forwards: 1 is a chain, 2 a binary tree. With ranks counted from the root, rank r
  /// forwards to r·children + 1 … r·children + children. 0 is the binomial tree, used for a single block.
  int children = 0;
};

/// Chooses the fastest shape. The unit of the following times is the time to send one block. The last rank has
/// everything after ⌈log2 ranks⌉ (binomial tree, one block), ranks - 1 + blocks - 1 (chain) or 2·(⌊log2 ranks⌋ + blocks
/// - 1) (binary tree). A chain sends each block only once per rank, so it suits many blocks and few ranks.
BroadcastShape broadcast_shape(int ranks, std::size_t bytes);

}  // namespace biqa
