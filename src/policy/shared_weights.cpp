// SPDX-License-Identifier: Apache-2.0
#include "policy/shared_weights.h"

#include <fmt/format.h>
#include <glog/logging.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <type_traits>
#include <vector>

#include "comm/agreement.h"
#include "comm/tensor_link.h"
#include "core/bytes_text.h"
#include "core/error.h"
#include "core/random.h"
#include "model/frozen_parts.h"

namespace biqa {
namespace {

/// Bytes of one broadcast between nodes.
constexpr std::size_t kPieceBytes = std::size_t{16} << 20;

/// Every rank's value, in rank order.
template <typename T>
std::vector<T> exchange(Communicator& ranks, const T& own) {
  static_assert(std::is_trivially_copyable_v<T>);
  const auto gathered = ranks.gather_bytes(std::as_bytes(std::span(&own, 1)), 0);
  std::vector<std::byte> bytes;
  for (const auto& part : gathered) bytes.insert(bytes.end(), part.begin(), part.end());
  ranks.broadcast_bytes(bytes, 0);
  std::vector<T> all(static_cast<std::size_t>(ranks.size()));
  CHECK_EQ(bytes.size(), all.size() * sizeof(T));
  std::memcpy(all.data(), bytes.data(), bytes.size());
  return all;
}

struct Place {
  std::uint64_t node = 0;
  std::uint64_t backward = 0;
};
struct Planned {
  std::uint64_t forward = 0, backward = 0;  ///< digests of the arena's parts
  std::uint64_t bytes = 0;
  std::uint64_t shares = 0;
};

/// The rank that holds the weights of each node, and the parts that the node needs.
class Nodes {
 public:
  explicit Nodes(const std::vector<Place>& places)
      : leaders_(places.size()), backward_(places.size()), sizes_(places.size()) {
    for (std::size_t rank = 0; rank < places.size(); ++rank) {
      const auto same = [&](const Place& other) { return other.node == places[rank].node; };
      const auto first = std::find_if(places.begin(), places.end(), same);
      leaders_[rank] = static_cast<int>(first - places.begin());
      backward_[rank] = std::any_of(places.begin(), places.end(),
                                    [&](const Place& other) { return same(other) && other.backward != 0; });
      sizes_[rank] = std::count_if(places.begin(), places.end(), same);
    }
  }
  int leader_of(int rank) const { return leaders_[static_cast<std::size_t>(rank)]; }
  bool is_leader(int rank) const { return leader_of(rank) == rank; }
  /// Whether a rank of this rank's node is a learner.
  bool backward(int rank) const { return backward_[static_cast<std::size_t>(rank)]; }
  std::int64_t ranks_beside(int rank) const { return sizes_[static_cast<std::size_t>(rank)]; }

 private:
  std::vector<int> leaders_;
  std::vector<bool> backward_;
  std::vector<std::int64_t> sizes_;
};

/// The leaders that exchange the bytes: the first one sends, the others receive. The first has both parts if any of
/// them has. With fewer than two leaders nothing is sent.
struct Receivers {
  Receivers(const Nodes& nodes, const std::vector<Planned>& plans) {
    std::vector<int> leaders;
    for (int rank = 0; rank < static_cast<int>(plans.size()); ++rank) {
      if (nodes.is_leader(rank) && plans[static_cast<std::size_t>(rank)].shares != 0) leaders.push_back(rank);
    }
    if (leaders.empty()) return;
    const auto learns = [&](int rank) { return nodes.backward(rank); };
    const auto learner = std::find_if(leaders.begin(), leaders.end(), learns);
    const int source = learner == leaders.end() ? leaders.front() : *learner;
    const Planned& whole = plans[static_cast<std::size_t>(source)];
    both = {source};
    for (const int rank : leaders) {
      const Planned& plan = plans[static_cast<std::size_t>(rank)];
      const bool alike =
          plan.forward == whole.forward && (plan.backward == 0 || plan.backward == whole.backward);
      if (rank != source && alike) (plan.backward != 0 ? both : forward_only).push_back(rank);
    }
  }
  std::vector<int> all() const {
    std::vector<int> ranks = both;
    ranks.insert(ranks.end(), forward_only.begin(), forward_only.end());
    return ranks;
  }
  bool receives(int rank) const {
    const std::vector<int> ranks = all();
    return !ranks.empty() && rank != ranks.front() &&
           std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
  }
  std::vector<int> both, forward_only;
};

void broadcast(std::span<std::byte> bytes, Communicator& leaders) {
  for (std::size_t first = 0; first < bytes.size(); first += kPieceBytes) {
    const std::size_t count = std::min(kPieceBytes, bytes.size() - first);
    leaders.broadcast(View(static_cast<void*>(bytes.data() + first), DType::u8, 1,
                           static_cast<std::int64_t>(count), static_cast<std::int64_t>(count)),
                      0);
  }
}

/// Every rank calls this. `members` are the ranks that hold the part. The first of them has filled it.
void spread(WeightArena& arena, WeightPart part, Communicator& ranks, const std::vector<int>& members) {
  if (members.size() < 2) return;
  const auto leaders = ranks.split(members, "first ranks of the nodes");
  if (leaders != nullptr) broadcast(arena.contents(part), *leaders);
}

std::uint64_t digest_of(std::span<const View> tensors) {
  std::uint64_t state = 0;
  for (const View& tensor : tensors) {
    for (const std::int64_t value :
         {static_cast<std::int64_t>(tensor.type()), tensor.rows(), tensor.columns()})
      state = mix64(state ^ mix64(static_cast<std::uint64_t>(value)));
  }
  return state;
}

/// Every rank has a device. The first rank reads the weights and sends them to the devices of the others.
std::unique_ptr<QwenVl> load_on_devices(Communicator& ranks, const std::filesystem::path& directory,
                                        const std::shared_ptr<Ops>& ops, bool backward,
                                        const FrozenParts* frozen) {
  constexpr int kReader = 0;
  DeviceWeights weights;
  weights.read = ranks.rank() == kReader;
  std::unique_ptr<QwenVl> model;
  run_alike(ranks, [&] {
    model = QwenVl::load(directory, ops, {backward, true, nullptr, frozen, &weights});
  });
  check_agreement(ranks, "weights of other shapes or types", digest_of(weights.tensors));
  const auto link = make_tensor_link(ranks, ops->memory(), Shards::even(ranks.size(), 0));
  for (const View& tensor : weights.tensors) link->broadcast(tensor, kReader);
  run_alike(ranks, [&] {
    if (!weights.read) model->check_rows();
  });
  return model;
}

}  // namespace

std::unique_ptr<QwenVl> load_shared(Communicator& ranks, const std::string& node,
                                    const std::filesystem::path& directory, const std::shared_ptr<Ops>& ops,
                                    bool backward, const FrozenParts* frozen) {
  std::unique_ptr<QwenVl> model;
  const auto load = [&](bool with_backward, WeightArena* arena) {
    return QwenVl::load(directory, ops, {with_backward, true, arena, frozen});
  };
  const auto parts = exchange(ranks, digest_of(frozen));
  run_alike(ranks, [&] {
    if (parts[static_cast<std::size_t>(ranks.rank())] == parts.front()) return;
    fail(
        "cannot load the model: the adapter of rank {} differs from that of rank 0 on modules that are not "
        "trained; give all nodes the same files",
        ranks.rank());
  });
  if (ranks.size() > 1 && ops->device_packing() != nullptr)
    return load_on_devices(ranks, directory, ops, backward, frozen);
  if (ranks.size() == 1 || ops->shared_packing() == nullptr) {
    run_alike(ranks, [&] { model = load(backward, nullptr); });
    return model;
  }
  const int own = ranks.rank();
  const Nodes nodes(exchange(ranks, Place{hash_text(node), backward ? 1U : 0U}));
  const int leader = nodes.leader_of(own);
  const bool leads = leader == own;
  const bool node_backward = nodes.backward(own);
  const auto warn = [&](const char* why, std::size_t bytes, std::int64_t copies) {
    const std::string held = copies == 1 ? "an additional copy of the weights"
                                         : fmt::format("{} copies of the weights instead of one", copies);
    LOG(WARNING) << why << fmt::format("; this node holds {} ({} each)", held, bytes_text(bytes));
  };

  WeightArena arena;
  bool shares = true;
  run_alike(ranks, [&] {
    load(node_backward, &arena);
    if (!leads) return;
    try {
      arena.create();
    } catch (const CannotShare& error) {
      shares = false;
      warn(error.what(), arena.bytes(), nodes.ranks_beside(own));
    }
  });
  const auto plans = exchange(ranks, Planned{arena.digest(WeightPart::forward),
                                             arena.digest(WeightPart::backward), arena.bytes(), shares});
  const Receivers receivers(nodes, plans);
  const bool node_shares = plans[static_cast<std::size_t>(leader)].shares != 0;

  run_alike(ranks, [&] {
    if (!node_shares)
      model = load(backward, nullptr);
    else if (leads && !receivers.receives(own))
      model = load(node_backward, &arena);
  });
  spread(arena, WeightPart::forward, ranks, receivers.all());
  spread(arena, WeightPart::backward, ranks, receivers.both);
  run_alike(ranks, [&] {
    if (!leads || !node_shares) return;
    arena.seal();
    if (model == nullptr) model = load(node_backward, &arena);
  });

  const auto handles = exchange(ranks, leads && node_shares ? arena.handle() : ArenaHandle{});
  run_alike(ranks, [&] {
    if (model != nullptr) return;
    try {
      arena.attach(handles[static_cast<std::size_t>(leader)]);
    } catch (const CannotShare& error) {
      warn(error.what(), arena.bytes(), 1);
      model = load(backward, nullptr);
      return;
    }
    model = load(backward, &arena);
  });
  // Every rank of the node has mapped the arena by now, so the leader may close its descriptor.
  return model;
}

}  // namespace biqa
