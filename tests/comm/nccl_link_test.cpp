// SPDX-License-Identifier: Apache-2.0
// Links between ranks: through the host, and through NCCL with a world of threads in its place. What happens if a rank never comes,
// is lost or fails.
#include <gmock/gmock.h>

#include <atomic>

#include "comm/link_contract.h"
#include "comm/nccl/link.h"
#include "comm/nccl/sum_parts.h"
#include "comm/watch.h"
#include "core/error.h"
#include "cuda_emulation/host_nccl.h"

namespace biqa {
namespace {

using emulation::HostNccl;
using emulation::NcclFaults;
using nccl::NcclLink;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

constexpr Seconds kLong{60};
/// A deadline that passes in a test. A healthy call must not take so long on a busy machine.
constexpr Seconds kShort{1};

/// A rank's device.
struct Device {
  cuda::CudaMemory memory{std::make_shared<cuda::Stream>()};
};

enum class Way { host_memory, host, nccl, slow_nccl, late_nccl };

class Links : public ::testing::TestWithParam<std::tuple<Way, int>> {
 protected:
  using Check = std::function<void(Communicator&, DeviceMemory&, TensorLink&)>;
  static void check(const Shards& shards, const Check& on_rank) {
    const auto [way, ranks] = GetParam();
    NcclFaults slow;
    slow.polls_under_way = way == Way::slow_nccl ? 40 : 0;
    HostNccl library(slow);
    emulation::set_streams(way == Way::late_nccl ? emulation::Streams::late : emulation::Streams::at_once);
    const auto errors = testing::on_ranks(ranks, kLong, [&, way = way](Communicator& comm) {
      Device device;
      if (way == Way::host_memory) {
        const auto link = make_host_link(comm, host_memory(), shards);
        on_rank(comm, host_memory(), *link);
      } else if (way == Way::host) {
        const auto link = make_host_link(comm, device.memory, shards);
        on_rank(comm, device.memory, *link);
      } else {
        NcclLink link(library, comm, device.memory, shards);
        on_rank(comm, device.memory, link);
      }
    });
    for (const std::string& error : errors) EXPECT_EQ(error, "");
    cudaDeviceSynchronize();  // frees what late streams still hold
    emulation::set_streams(emulation::Streams::at_once);
    EXPECT_EQ(library.ends(), 0);
    EXPECT_EQ(library.aborted(), 0);
  }
};

TEST_P(Links, SumsAndGathersEveryDivision) {
  for (const testing::LinkCase& one : testing::link_cases(std::get<1>(GetParam()))) {
    SCOPED_TRACE(one.name);
    const Shards shards(one.shards);
    check(shards, [&](Communicator& comm, DeviceMemory& memory, TensorLink& link) {
      testing::check_link(comm, memory, link, shards);
    });
  }
}

TEST_P(Links, BroadcastFromEveryRank) {
  check(Shards::even(std::get<1>(GetParam()), 0), testing::check_broadcast);
}

std::string name_of_way(const ::testing::TestParamInfo<std::tuple<Way, int>>& info) {
  constexpr std::array kNames{"host_memory", "host", "nccl", "slow_nccl", "late_nccl"};
  return std::string(kNames.at(static_cast<std::size_t>(std::get<0>(info.param)))) + "_" +
         std::to_string(std::get<1>(info.param));
}
INSTANTIATE_TEST_SUITE_P(Worlds, Links,
                         ::testing::Combine(::testing::Values(Way::host_memory, Way::host, Way::nccl,
                                                              Way::slow_nccl, Way::late_nccl),
                                            ::testing::Values(1, 2, 3, 8)),
                         name_of_way);

TEST(NcclLink, SumsInRounds) {
  // More than a round, and other numbers of rounds on the two ranks.
  const Shards shards({(std::int64_t{1} << 20) + 77, 3});
  HostNccl library;
  const auto errors = testing::on_ranks(2, kLong, [&](Communicator& comm) {
    Device device;
    NcclLink link(library, comm, device.memory, shards);
    testing::check_link(comm, device.memory, link, shards);
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

/// Gives `work` a sum on each rank. Returns the errors.
using Work = std::function<void(Communicator&, const std::function<void()>& sum)>;
std::vector<std::string> sums(HostNccl& library, int ranks, Seconds deadline, const Work& work) {
  return testing::on_ranks(ranks, deadline, [&](Communicator& comm) {
    Device device;
    const Shards shards = Shards::even(comm.size(), 10);
    NcclLink link(library, comm, device.memory, shards);
    Tensor whole = device.memory.allocate(DType::f32, 1, shards.total(), "test");
    Tensor shard = device.memory.allocate(DType::f32, 1, 10, "test");
    device.memory.zero(whole.view());
    work(comm, [&] { link.reduce_scatter_sum(whole.view(), shard.view()); });
  });
}
void one_sum(Communicator& /*comm*/, const std::function<void()>& sum) {
  sum();
}

TEST(NcclLink, NamesARankThatNeverComes) {
  HostNccl library;
  const auto errors = sums(library, 3, kShort, [](Communicator& comm, const auto& sum) {
    sum();
    if (comm.rank() != 2) sum();
  });
  EXPECT_THAT(errors[0],
              AllOf(HasSubstr("barrier \"the sum over GPUs\" of the job on rank 0: rank 2 did not answer"),
                    HasSubstr("within 1.0 s")));
  EXPECT_EQ(errors[2], "");
  EXPECT_EQ(library.ends(), 0);
}

TEST(NcclLink, NamesThePeersOfAMoveThatHangs) {
  NcclFaults faults;
  faults.silent_start = 1;
  faults.starts_before = 1;
  HostNccl library(faults);
  const auto errors = sums(library, 3, kShort, [&](Communicator& comm, const auto& sum) {
    sum();
    try {
      sum();
    } catch (const Error&) {
      // The world is given up at once, not when the link ends.
      comm.barrier("all have failed");
      EXPECT_EQ(library.ends(), 0);
      throw;
    }
  });
  EXPECT_THAT(errors[0],
              MatchesRegex("the sum over GPUs through NCCL on rank 0: not done after [0-9.]+ s with "
                           "ranks 1, 2; .*raise the deadline.*"));
  EXPECT_THAT(errors[1], HasSubstr("on rank 1: not done after"));
  EXPECT_EQ(library.aborted(), 3);
}

TEST(NcclLink, UsesTheRanksOfTheJobInErrors) {
  NcclFaults faults;
  faults.silent_start = 1;
  HostNccl library(faults);
  const auto errors = testing::on_ranks(3, kShort, [&](Communicator& job) {
    const std::vector<int> members{2, 1};
    const auto pair = job.split(members, "learners");
    if (pair == nullptr) return;
    Device device;
    NcclLink link(library, *pair, device.memory, Shards::even(2, 4));
    Tensor whole = device.memory.allocate(DType::f32, 1, 8, "test");
    Tensor shard = device.memory.allocate(DType::f32, 1, 4, "test");
    device.memory.zero(shard.view());
    link.all_gather(shard.view(), whole.view());
  });
  EXPECT_THAT(errors[2], HasSubstr("the gathering of shards on GPUs through NCCL on rank 2: not done after"));
  EXPECT_THAT(errors[2], HasSubstr("with rank 1;"));
}

TEST(NcclLink, FailsAfterAFailure) {
  NcclFaults faults;
  faults.failing_start = 1;
  HostNccl library(faults);
  const auto errors = sums(library, 2, kShort, [](Communicator& /*comm*/, const auto& sum) {
    EXPECT_THROW(sum(), Error);
    sum();
  });
  EXPECT_THAT(errors[0], HasSubstr("the sum over GPUs through NCCL on rank 0: an earlier operation failed"));
  EXPECT_THAT(errors[1], HasSubstr("the sum over GPUs through NCCL on rank 1: an earlier operation failed"));
}

TEST(NcclLink, ReportsAFailureOfTheLibrary) {
  NcclFaults faults;
  faults.failing_start = 1;
  faults.starts_before = 1;
  HostNccl library(faults);
  std::atomic<bool> lost{false};
  const auto errors = sums(library, 2, kLong, [&](Communicator& comm, const auto& sum) {
    if (comm.rank() == 0) {
      comm.set_poll([&] {
        if (lost) throw PeerLost("rank 1 is lost");
      });
    }
    sum();
    try {
      sum();
    } catch (const Error&) {
      lost = true;
      throw;
    }
  });
  EXPECT_THAT(errors[1],
              MatchesRegex("the sum over GPUs through NCCL on rank 1 with rank 0: emulated failure of a "
                           "move after [0-9.]+ s; .*NCCL_DEBUG=INFO"));
  // The watch tells the other rank long before the deadline, and its exception stays what it is.
  EXPECT_EQ(errors[0], "rank 1 is lost");
  EXPECT_EQ(library.aborted(), 2);
}

TEST(NcclLink, KeepsTheExceptionOfTheWatch) {
  NcclFaults faults;
  faults.silent_start = 1;
  faults.starts_before = 1;
  HostNccl library(faults);
  std::atomic<bool> lost{false};
  sums(library, 2, kLong, [&](Communicator& comm, const auto& sum) {
    sum();
    comm.barrier("the world is there");
    comm.set_poll([&, polls = 0]() mutable {
      if (comm.rank() == 1 && ++polls > 40) {
        lost = true;
        throw Error("this rank dies");
      }
      if (comm.rank() == 0 && lost) throw PeerLost("rank 1 is lost");
    });
    if (comm.rank() == 0) {
      EXPECT_THROW(sum(), PeerLost);
    } else {
      EXPECT_THROW(sum(), Error);
    }
  });
  EXPECT_EQ(library.aborted(), 2);
}

TEST(NcclLink, LeavingDoesNotWaitForALostRank) {
  HostNccl library;
  const auto start = std::chrono::steady_clock::now();
  const auto errors = sums(library, 2, kLong, [](Communicator& comm, const auto& sum) {
    sum();
    if (comm.rank() == 1) throw Error("this rank dies");
  });
  EXPECT_LT(Seconds(std::chrono::steady_clock::now() - start).count(), 20);
  EXPECT_EQ(errors[0], "");
  EXPECT_EQ(library.ends(), 0);
  EXPECT_EQ(library.aborted(), 2);
}

TEST(NcclLink, CreationThatNeverEnds) {
  NcclFaults faults;
  faults.polls_under_way = std::numeric_limits<int>::max();
  HostNccl library(faults);
  const auto errors = sums(library, 2, kShort, one_sum);
  for (const std::string& error : errors)
    EXPECT_THAT(error, HasSubstr("the creation of a world through NCCL on rank"));
  EXPECT_THAT(errors[0], MatchesRegex(".*on rank 0: not done after [0-9.]+ s with rank 1; .*"));
  EXPECT_EQ(library.aborted(), 2);
}

TEST(NcclLink, CreationThatFails) {
  NcclFaults faults;
  faults.failing_creation = 1;
  HostNccl library(faults);
  const auto errors = sums(library, 2, kShort, one_sum);
  EXPECT_THAT(errors[1],
              HasSubstr("the creation of a world through NCCL on rank 1 with rank 0: emulated failure of "
                        "the creation after"));
  EXPECT_NE(errors[0], "");
  EXPECT_EQ(library.aborted(), 2);
}

TEST(NcclLink, CreationThatIsRefusedIsReportedOnce) {
  NcclFaults refused;
  refused.refused = true;
  NcclFaults no_name;
  no_name.no_name = true;
  for (const NcclFaults& faults : {refused, no_name}) {
    HostNccl library(faults);
    const auto errors = sums(library, 2, kShort, one_sum);
    EXPECT_THAT(errors[0], HasSubstr("emulated "));
    EXPECT_THAT(errors[1], HasSubstr("the end of the job"));
  }
}

TEST(SumParts, AddsInTheOrderOfTheRanks) {
  constexpr int kRanks = 5;
  constexpr std::int64_t kSize = 700;
  const std::vector<float> expected = testing::expected_sum<float>(kSize, kRanks);
  for (const auto order :
       {emulation::Order::forward, emulation::Order::backward, emulation::Order::shuffled}) {
    emulation::set_order(order);
    for (int own = 0; own < kRanks; ++own) {
      Device device;
      std::vector<float> parts;
      for (int rank = 0; rank < kRanks; ++rank) {
        const auto part = testing::some_values<float>(kSize, rank);
        if (rank != own) parts.insert(parts.end(), part.begin(), part.end());
      }
      const auto own_values = testing::some_values<float>(kSize, own);
      const Tensor received = copied_to(device.memory, ConstView(parts.data(), kRanks - 1, kSize), "test");
      const Tensor own_part = copied_to(device.memory, ConstView(own_values.data(), 1, kSize), "test");
      testing::Guarded sum(device.memory, kSize);
      nccl::sum_parts(own_part.view(), received.view(), own, sum.view(), device.memory.stream());
      EXPECT_TRUE(testing::same_bits(sum.values(), expected)) << own;
    }
  }
  emulation::set_order(emulation::Order::forward);
}

}  // namespace
}  // namespace biqa
