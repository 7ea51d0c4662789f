// SPDX-License-Identifier: Apache-2.0
#include "comm/agreement.h"

#include <algorithm>
#include <cstddef>
#include <exception>
#include <map>
#include <span>
#include <vector>

#include "core/error.h"

namespace biqa {

void run_alike(Communicator& world, const std::function<void()>& work) {
  std::exception_ptr failure;
  try {
    work();
  } catch (const std::exception&) {
    failure = std::current_exception();
  }
  const double first = world.all_reduce_min(failure ? world.rank() : world.size());
  if (first >= world.size()) return;
  if (first == world.rank()) std::rethrow_exception(failure);
  world.barrier("the end of the job");
}

void check_agreement(Communicator& world, const std::string& what, std::uint64_t digest) {
  const auto all = world.gather_bytes(std::as_bytes(std::span(&digest, 1)), 0);
  run_alike(world, [&] {
    for (std::size_t rank = 0; rank < all.size(); ++rank) {
      if (all[rank] != all.front()) {
        fail_usage(
            "rank {} has {} than rank 0: use the same files on all nodes and the same flags for all ranks",
            rank, what);
      }
    }
  });
}

namespace {

std::string text_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

void check_same_devices(Communicator& world, const std::string& type) {
  const std::string own = type.empty() ? "the CPU" : type;
  const auto all = world.gather_bytes(std::as_bytes(std::span(own)), 0);
  run_alike(world, [&] {
    for (std::size_t rank = 0; rank < all.size(); ++rank) {
      if (all[rank] == all.front()) continue;
      fail_usage(
          "ranks 0 and {} compute on different devices: rank 0 on {}, rank {} on {}. Their log-probabilities "
          "would differ; use nodes with the same GPUs and the same CUDA libraries",
          rank, text_of(all.front()), rank, text_of(all[rank]));
    }
  });
}

void check_own_devices(Communicator& world, const std::string& node, const std::string& device) {
  const bool has_uuid = device.starts_with("GPU-");
  const std::string own = device.empty() || has_uuid ? device : device + " of node " + node;
  const auto all = world.gather_bytes(std::as_bytes(std::span(own)), 0);
  run_alike(world, [&] {
    std::map<std::string, std::size_t> users;
    for (std::size_t rank = 0; rank < all.size(); ++rank) {
      const std::string name = text_of(all[rank]);
      if (name.empty()) continue;
      const auto [user, first] = users.emplace(name, rank);
      if (first) continue;
      fail_usage(
          "ranks {} and {} use the same GPU ({}): start as many ranks per node as it has GPUs (mpirun "
          "--map-by ppr:N:node, "
          "srun --ntasks-per-node=N --gpus-per-node=N)",
          user->second, rank, name);
    }
  });
}

}  // namespace biqa
