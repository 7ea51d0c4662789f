// SPDX-License-Identifier: Apache-2.0
// Loads a model so that each node holds its weights only once. Nodes with the same layout of weights read them from
// disk once (docs/decisions/0006-weights-once-per-node.md). With GPUs, one rank reads them for all.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "comm/communicator.h"
#include "model/qwen_vl.h"

namespace biqa {

/// As QwenVl::load, but collective over `ranks`. All ranks pass the same folder and type; `backward` may differ. The
/// first rank of each node packs the weights, also for the backward pass if any rank of the node needs it. The other
/// ranks of the node map them read-only. One node reads the folder and sends the packed bytes to the nodes with the
/// same layout. Nodes with another layout read the folder themselves. If the system cannot share memory between
/// processes, every rank loads its own copy, with a warning.
///
/// If the ranks have devices with memory of their own (Ops::device_packing), rank 0 reads the weights and sends them to
/// the other devices through a TensorLink. The other ranks read only the headers of the files. With a single rank, or a
/// backend that can do neither, this is a normal load.
///
/// `node`: equal on all ranks of a node. `frozen`: parts of an adapter, merged into the weights; they must be the same
/// on all ranks. Throws Error on the lowest rank where something fails; the other ranks wait until that rank ends the
/// job (run_alike).
std::unique_ptr<QwenVl> load_shared(Communicator& ranks, const std::string& node,
                                    const std::filesystem::path& directory, const std::shared_ptr<Ops>& ops,
                                    bool backward, const FrozenParts* frozen = nullptr);

}  // namespace biqa
