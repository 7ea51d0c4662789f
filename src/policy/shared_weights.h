// SPDX-License-Identifier: Apache-2.0
// Loads a model whose weights each node holds once. Nodes with the same layout of weights read them from disk once
// (docs/decisions/0006-weights-once-per-node.md).
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "comm/communicator.h"
#include "model/qwen_vl.h"

namespace biqa {

/// QwenVl::load, collective over `ranks`, with the same folder and type on all; `backward` may differ. The first rank
/// of each node packs the weights, also for the backward pass if any rank of the node needs it. The other ranks of the
/// node map them read-only. Nodes with the same packed layout receive the bytes from one of them; the others read the
/// folder. With a single rank, or a backend whose weights cannot be shared, this is a normal load. If the system cannot
/// share memory between processes, every rank loads its own copy, with a warning. `node`: equal on all ranks of a node.
/// `frozen`: parts of an adapter, merged into the weights; they must be the same on all ranks. Throws Error on the
/// lowest rank where something fails; the other ranks wait until that rank ends the job (run_alike).
std::unique_ptr<QwenVl> load_shared(Communicator& ranks, const std::string& node,
                                    const std::filesystem::path& directory, const std::shared_ptr<Ops>& ops,
                                    bool backward, const FrozenParts* frozen = nullptr);

}  // namespace biqa
