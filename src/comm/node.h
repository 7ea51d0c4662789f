// SPDX-License-Identifier: Apache-2.0
// Which ranks share a machine.
#pragma once

#include <string>

namespace biqa {

/// A name that is equal on two ranks if they can share memory. It consists of host name, boot id, PID namespace and
/// Slurm's node name.
std::string this_node();

/// Number of ranks on this machine, as Open MPI reports it. Without Open MPI: `ranks`, the number of ranks in the job.
int ranks_on_node(int ranks);

}  // namespace biqa
