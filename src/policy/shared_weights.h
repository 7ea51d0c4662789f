// SPDX-License-Identifier: Apache-2.0
// A model whose weights are held once per node and read from disk once per job
// (docs/decisions/0006-weights-once-per-node.md).
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "comm/communicator.h"
#include "model/qwen_vl.h"

namespace biqa {

/// QwenVl::load, called by all ranks of `ranks` together with the same folder and type; `backward` may differ. The
/// first rank of each node packs the weights (for the backward too if any rank of the node needs that), the others of
/// the node map them read-only. Nodes where the packed layout is the same get the bytes from one of them; the others
/// read the folder. With a single rank, or a backend whose weights cannot be shared, this is a normal load. Where the
/// system shares no memory between processes, ranks take copies of their own, with a warning. `node`: equal on ranks
/// of one node. `frozen`: parts of an adapter, merged into the weights; ranks that have others are an Error. Throws
/// Error on the lowest rank where something fails; the other ranks wait until that rank ends the job (run_alike).
std::unique_ptr<QwenVl> load_shared(Communicator& ranks, const std::string& node,
                                    const std::filesystem::path& directory, const std::shared_ptr<Ops>& ops,
                                    bool backward, const FrozenParts* frozen = nullptr);

}  // namespace biqa
