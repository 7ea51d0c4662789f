// SPDX-License-Identifier: Apache-2.0
// How the ranks of a job share the processors of their nodes.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/node.h"

namespace biqa {

/// What one rank may use.
struct RankProcessors {
  std::string node;
  std::vector<int> allowed;  ///< numbers of processors
  double granted =
      std::numeric_limits<double>::infinity();  ///< by control groups, to the node's ranks together
};

/// Processors for each rank, at least 1: of one that several ranks may use, each gets its part; so a launcher that
/// binds ranks to processors of their own is followed, and otherwise they share all.
std::vector<int> shares_of_processors(std::span<const RankProcessors> ranks);

/// This rank's share; all ranks of `world` call it together. The first rank warns where its launcher binds it to fewer
/// processors than the launcher itself may use.
int share_processors(Communicator& world, const std::string& node = this_node());

}  // namespace biqa
