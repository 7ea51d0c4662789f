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

/// The processors that one rank may use.
struct RankProcessors {
  std::string node;
  std::vector<int> allowed;  ///< numbers of processors
  double granted = std::numeric_limits<
      double>::infinity();  ///< number that control groups grant to all ranks of the node together
};

/// Number of processors for each rank, at least 1. A processor that several ranks may use is divided among them. So
/// ranks that the launcher binds to different processors keep these, and unbound ranks share all.
std::vector<int> shares_of_processors(std::span<const RankProcessors> ranks);

/// Returns this rank's number of processors. Collective over `world`. The first rank warns if its launcher binds it to
/// fewer processors than the launcher itself may use.
int share_processors(Communicator& world, const std::string& node = this_node());

}  // namespace biqa
