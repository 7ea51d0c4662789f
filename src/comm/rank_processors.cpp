// SPDX-License-Identifier: Apache-2.0
#include "comm/rank_processors.h"

#include <glog/logging.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <map>
#include <utility>

#include "comm/launcher.h"
#include "core/processors.h"

namespace biqa {
namespace {

/// Layout: granted, number of processors, the processors, the node's name. All ranks run the same program, so byte
/// order and sizes agree.
std::vector<std::byte> packed(const RankProcessors& rank) {
  const auto count = static_cast<std::int32_t>(rank.allowed.size());
  std::vector<std::byte> bytes;
  const auto append = [&](const void* data, std::size_t size) {
    const auto* first = static_cast<const std::byte*>(data);
    bytes.insert(bytes.end(), first, first + size);
  };
  append(&rank.granted, sizeof rank.granted);
  append(&count, sizeof count);
  append(rank.allowed.data(), rank.allowed.size() * sizeof(int));
  append(rank.node.data(), rank.node.size());
  return bytes;
}

RankProcessors unpacked(std::span<const std::byte> bytes) {
  RankProcessors rank;
  std::int32_t count = 0;
  const auto take = [&](void* data, std::size_t size) {
    CHECK_LE(size, bytes.size());
    if (size > 0) std::memcpy(data, bytes.data(), size);
    bytes = bytes.subspan(size);
  };
  take(&rank.granted, sizeof rank.granted);
  take(&count, sizeof count);
  rank.allowed.resize(static_cast<std::size_t>(count));
  take(rank.allowed.data(), rank.allowed.size() * sizeof(int));
  rank.node.resize(bytes.size());
  take(rank.node.data(), rank.node.size());
  return rank;
}

void warn_if_bound(std::size_t allowed, int share) {
  if (number_from(kSizeVariables) == 0) return;
  const std::size_t of_launcher = allowed_processors(::getppid()).size();
  if (allowed == 0 || allowed >= of_launcher) return;
  LOG(WARNING) << "the launcher binds this rank to " << allowed << " of the " << of_launcher
               << " processors of its node, so it computes on " << share
               << "; use mpirun --bind-to none or srun --cpu-bind=none to let the ranks "
                  "share all processors";
}

}  // namespace

std::vector<int> shares_of_processors(std::span<const RankProcessors> ranks) {
  std::map<std::pair<std::string, int>, int> users;  // number of ranks, by node and processor
  std::map<std::string, int> on_node;
  for (const RankProcessors& rank : ranks) {
    ++on_node[rank.node];
    for (const int processor : rank.allowed) ++users[{rank.node, processor}];
  }
  std::vector<int> shares;
  shares.reserve(ranks.size());
  for (const RankProcessors& rank : ranks) {
    double share = 0;
    for (const int processor : rank.allowed) share += 1.0 / users[{rank.node, processor}];
    share = std::min(share, rank.granted / on_node[rank.node]);
    constexpr double kRounding = 1e-6;
    shares.push_back(std::max(1, static_cast<int>(share + kRounding)));
  }
  return shares;
}

int share_processors(Communicator& world, const std::string& node) {
  const RankProcessors own{node, allowed_or_all_processors(), granted_processors()};
  const auto all = world.gather_bytes(packed(own), 0);
  std::vector<std::byte> bytes(static_cast<std::size_t>(world.size()) * sizeof(int));
  if (world.rank() == 0) {
    std::vector<RankProcessors> ranks;
    ranks.reserve(all.size());
    for (const auto& rank : all) ranks.push_back(unpacked(rank));
    const std::vector<int> shares = shares_of_processors(ranks);
    std::memcpy(bytes.data(), shares.data(), bytes.size());
  }
  world.broadcast_bytes(bytes, 0);
  int share = 1;
  std::memcpy(&share, bytes.data() + static_cast<std::size_t>(world.rank()) * sizeof share, sizeof share);
  if (world.rank() == 0) warn_if_bound(own.allowed.size(), share);
  return share;
}

}  // namespace biqa
