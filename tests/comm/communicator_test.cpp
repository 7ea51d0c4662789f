// SPDX-License-Identifier: Apache-2.0
// The contract on one rank and on ranks as threads, and what happens when ranks disagree or do not answer.
#include "comm/communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <exception>

#include "comm/broadcast_shape.h"
#include "comm/contract.h"
#include "core/error.h"

namespace biqa {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr Seconds kShort{0.3};

/// Runs `body` on every rank in a thread of its own; returns each rank's error text, empty where there was none.
std::vector<std::string> run_ranks(int ranks, Seconds deadline,
                                   const std::function<void(Communicator&)>& body) {
  auto world = make_thread_world(ranks, deadline);
  std::vector<std::string> errors(world.size());
  std::vector<std::thread> threads;
  for (std::size_t rank = 0; rank < world.size(); ++rank)
    threads.emplace_back([&, rank] {
      try {
        body(*world[rank]);
      } catch (const std::exception& error) {
        errors[rank] = error.what();
      }
    });
  for (auto& thread : threads) thread.join();
  return errors;
}

class Contract : public ::testing::TestWithParam<testing::ContractCheck> {};

TEST_P(Contract, HoldsOnOneRank) {
  const auto alone = make_local();
  EXPECT_EQ(alone->size(), 1);
  GetParam().run(*alone);
}

TEST_P(Contract, HoldsOnThreads) {
  for (int ranks = 1; ranks <= 8; ++ranks) {
    SCOPED_TRACE(ranks);
    for (const std::string& error : run_ranks(ranks, Seconds{120}, GetParam().run)) EXPECT_EQ(error, "");
  }
}

INSTANTIATE_TEST_SUITE_P(All, Contract, ::testing::ValuesIn(testing::contract()),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(Deadline, NamesOperationPeersOwnRankAndSeconds) {
  const auto errors = run_ranks(4, kShort, [](Communicator& comm) {
    if (comm.rank() == 1 || comm.rank() == 3) return;
    comm.barrier("the start of step 3");
  });
  EXPECT_THAT(errors[0],
              AllOf(HasSubstr("barrier \"the start of step 3\" of the job on rank 0: ranks 1, 3 did not "
                              "answer within 0.3 s; "),
                    HasSubstr("deadline")));
  EXPECT_THAT(errors[2], HasSubstr("on rank 2: rank 0 did not answer within 0.4 s"));
}

TEST(Deadline, OfAReceiveNamesTheSender) {
  const auto errors = run_ranks(3, kShort, [](Communicator& comm) {
    if (comm.rank() == 2) comm.receive(1, {3, 4}, "a scored group");
    if (comm.rank() == 0) comm.receive(kAnyRank, 3, "work");
  });
  EXPECT_THAT(
      errors[2],
      HasSubstr("message \"a scored group\" of the job on rank 2: rank 1 did not answer within 0.3 s"));
  EXPECT_THAT(errors[0], HasSubstr("on rank 0: ranks 1, 2 did not answer"));
}

TEST(Deadline, InASubCommunicatorNamesRanksOfTheJob) {
  const auto errors = run_ranks(4, kShort, [](Communicator& comm) {
    const std::vector<int> members{1, 3};
    const auto part = comm.split(members, "learners");
    if (comm.rank() == 1) part->all_reduce_max(1.0);
  });
  EXPECT_THAT(errors[1], HasSubstr("all_reduce of learners on rank 1: rank 3 did not answer"));
}

TEST(Deadline, IsNotReachedByAReplyThatIsOnlySlow) {
  const auto errors = run_ranks(2, Seconds{5}, [](Communicator& comm) {
    comm.set_deadline(Seconds{20});
    if (comm.rank() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(300));
    comm.barrier("a slow one");
    EXPECT_EQ(comm.deadline(), Seconds{20});
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(Deadline, OfAWaitThatHadNotBegunLeavesTheCommunicatorUsable) {
  const auto errors = run_ranks(2, kShort, [](Communicator& comm) {
    if (comm.rank() == 0) {
      EXPECT_THROW(comm.receive(1, 0, "nothing"), Error);
    } else {
      std::this_thread::sleep_for(kShort * 1.5);
    }
    comm.set_deadline(Seconds{10});
    comm.barrier("afterwards");
    EXPECT_TRUE(comm.all_and(true));
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(Deadline, OfASendThatNobodyTakes) {
  const auto errors = run_ranks(2, kShort, [](Communicator& comm) {
    if (comm.rank() == 1) return;
    comm.send(1, 0, testing::some_bytes(1000000, 0));
    comm.flush();
  });
  EXPECT_THAT(errors[0], HasSubstr("rank 1 did not answer"));
}

TEST(BroadcastShape, TakesTheWayWithFewerHops) {
  const auto children = [](int ranks, std::size_t blocks) {
    const BroadcastShape shape = broadcast_shape(ranks, blocks * kBroadcastBlockBytes);
    EXPECT_EQ(shape.blocks, std::max<std::size_t>(blocks, 1));
    return shape.children;
  };
  EXPECT_EQ(children(4096, 0), 0);
  EXPECT_EQ(children(4096, 1), 0);
  EXPECT_EQ(broadcast_shape(2, kBroadcastBlockBytes + 1).blocks, 2U);
  // With b blocks a chain of 9 ranks takes 8 + b - 1 hops, a tree 2·(3 + b - 1).
  EXPECT_EQ(children(9, 2), 2);
  EXPECT_EQ(children(9, 3), 1);
  EXPECT_EQ(children(9, 20), 1);
  EXPECT_EQ(children(64, 20), 2);
  EXPECT_EQ(children(1, 20), 1);
}

TEST(Broadcast, OfManyBlocksReachesEveryRankOfATree) {
  const auto bytes = testing::some_bytes(3 * kBroadcastBlockBytes + 7, 4);
  for (const int ranks : {12, 17}) {
    ASSERT_EQ(broadcast_shape(ranks, bytes.size()).children, 2);
    const auto errors = run_ranks(ranks, Seconds{60}, [&](Communicator& comm) {
      for (const int root : {0, 5}) {
        std::vector<std::byte> buffer(comm.rank() == root ? bytes : std::vector<std::byte>());
        comm.broadcast_bytes(buffer, root);
        EXPECT_EQ(buffer, bytes) << "rank " << comm.rank() << " of " << ranks << ", root " << root;
        comm.barrier("the next root");
      }
      // The whole goes once to each rank but the root.
      const auto sent = comm.traffic(Operation::broadcast).bytes;
      EXPECT_LE(sent, 2 * (2 * bytes.size() + 8 * 16));
    });
    for (const std::string& error : errors) EXPECT_EQ(error, "");
  }
}

TEST(Failure, InTheMiddleOfATransferEndsAllCommunication) {
  const auto errors = run_ranks(2, kShort, [](Communicator& comm) {
    if (comm.rank() == 1) return;
    std::vector<float> values(1000000);
    EXPECT_THROW(comm.broadcast(View(values.data(), 1, 1000000), 0), Error);
    comm.send(0, 0, {});
  });
  EXPECT_THAT(errors[0],
              HasSubstr("communication on rank 0: an earlier operation failed in the middle of a transfer"));
}

TEST(Disagreement, InSizeNamesBothRanks) {
  const auto errors = run_ranks(2, kShort, [](Communicator& comm) {
    std::vector<float> values(comm.rank() == 0 ? 12 : 10);
    comm.broadcast(View(values.data(), 1, static_cast<std::int64_t>(values.size())), 0);
  });
  EXPECT_THAT(errors[1], AllOf(HasSubstr("on rank 1: it calls broadcast number 1 (root 0, 10 f32)"),
                               HasSubstr("while rank 0 calls broadcast number 1 (root 0, 12 f32)"),
                               HasSubstr("same types and sizes")));
}

TEST(Disagreement, InLargeSizesIsFoundBeforeMemoryIsTouched) {
  const auto errors = run_ranks(3, kShort, [](Communicator& comm) {
    const std::size_t shard = comm.rank() == 2 ? 50001 : 50000;
    const std::vector<float> all(3 * shard);
    std::vector<float> own(shard);
    comm.reduce_scatter_sum(all, own);
  });
  // A rank that has found it takes back what it was sending, so not all of them see both sizes.
  EXPECT_THAT(errors, ::testing::Not(::testing::Contains("")));
  EXPECT_THAT(errors, ::testing::Contains(AllOf(HasSubstr("reduce_scatter number 1 (root 0, 150003 f32)"),
                                                HasSubstr("reduce_scatter number 1 (root 0, 150000 f32)"))));
}

TEST(Disagreement, InTypeIsAnError) {
  const auto errors = run_ranks(2, kShort, [](Communicator& comm) {
    std::vector<float> floats(8);
    std::vector<std::int32_t> integers(8);
    comm.broadcast(comm.rank() == 0 ? View(floats.data(), 1, 8) : View(integers.data(), 1, 8), 0);
  });
  EXPECT_THAT(errors[1], AllOf(HasSubstr("8 i32"), HasSubstr("8 f32")));
}

TEST(Disagreement, InOperationIsAnError) {
  const auto errors = run_ranks(2, kShort, [](Communicator& comm) {
    if (comm.rank() == 0) comm.barrier("here");
    if (comm.rank() == 1) comm.all_reduce_max(1.0);
  });
  EXPECT_THAT(errors[0],
              AllOf(HasSubstr("it calls barrier number 1"), HasSubstr("rank 1 calls all_reduce number 1")));
}

TEST(Disagreement, InAListOfMembersIsAnError) {
  const auto errors = run_ranks(2, kShort, [](Communicator& comm) {
    const std::vector<int> members{comm.rank()};
    comm.split(members, "myself");
  });
  EXPECT_THAT(errors[0], HasSubstr("it calls split number 1"));
}

TEST(Misuse, IsCaughtOnTheSpot) {
  const auto alone = make_local();
  EXPECT_DEATH(alone->send(1, 0, {}), "rank 1 of 1");
  EXPECT_DEATH(alone->send(0, kMaxTag + 1, {}), "tag");
  std::vector<float> three(3), two(2);
  EXPECT_DEATH(alone->all_gather(two, three), "Check failed");
}

}  // namespace
}  // namespace biqa
