// SPDX-License-Identifier: Apache-2.0
// Which ranks share a machine.
#pragma once

#include <string>

namespace biqa {

/// A name of the machine as far as memory can be shared: host, boot, process-id space, and Slurm's name of the node.
std::string this_node();

/// Number of ranks on this machine: what the launcher says, otherwise all `ranks` of the job.
int ranks_on_node(int ranks);

}  // namespace biqa
