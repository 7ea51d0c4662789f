// SPDX-License-Identifier: Apache-2.0
// The way of a broadcast through its ranks, for those who send it and for those who compute how long it takes.
#pragma once

#include <cstddef>

namespace biqa {

/// A broadcast is cut into blocks of this size, each sent on while the next comes in.
constexpr std::size_t kBroadcastBlockBytes = std::size_t{4} << 20;

struct BroadcastShape {
  std::size_t blocks = 1;
  /// Rank r (from the root) hands on to r·children + 1 … r·children + children: 1 is a chain, 2 a binary tree. 0 is the
  /// binomial tree, for a single block.
  int children = 0;
};

/// Counted in blocks that a rank sends one after the other, the last rank has everything after ⌈log2 ranks⌉ of the
/// binomial tree, ranks - 1 + blocks - 1 of a chain, 2·(⌈log2 (ranks + 1)⌉ - 1 + blocks - 1) of a binary tree. A chain
/// sends everything once from each rank, but waits for all ranks before it: it serves many blocks and few ranks.
BroadcastShape broadcast_shape(int ranks, std::size_t bytes);

}  // namespace biqa
