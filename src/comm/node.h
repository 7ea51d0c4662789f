// SPDX-License-Identifier: Apache-2.0
// Which ranks share a machine.
#pragma once

#include <string>

namespace biqa {

/// A name that two ranks share if they can share memory: host name, boot id, PID namespace and Slurm's node name.
std::string this_node();

/// Number of ranks on this machine, as Open MPI reports it; otherwise `ranks`, the number of the job.
int ranks_on_node(int ranks);

}  // namespace biqa
