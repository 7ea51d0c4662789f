// SPDX-License-Identifier: Apache-2.0
// Ranks of a node hold one copy of the weights, nodes read them once, and nobody waits for a rank that failed.
#include "policy/shared_weights.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <thread>

#include "comm/communicator.h"
#include "comm/node.h"
#include "core/bytes_text.h"
#include "policy/policy.h"
#include "support/altered_products.h"
#include "support/compare.h"
#include "support/denied_call.h"
#include "support/tiny_model.h"

namespace biqa {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::random_values;
using testing::same_bits;
using testing::TinyModel;

constexpr int kRanks = 4;

/// Where a rank fails the others end with the deadline: there is no launcher to take threads down.
constexpr Seconds kShort{1};

/// Runs `work` as every rank; the message of the Error that each of them threw, or nothing.
std::vector<std::string> as_ranks(const std::function<void(Communicator& world)>& work,
                                  Seconds deadline = Seconds(60)) {
  // oneDNN is not instrumented: the thread sanitizer does not see how its first use guards what it sets up.
  const float one = 1;
  make_ops({"cpu", DType::f32, 1})->pack(ConstView(&one, 1, 1), {}, false);
  auto world = make_thread_world(kRanks, deadline);
  std::vector<std::string> errors(kRanks);
  std::vector<std::thread> threads;
  threads.reserve(kRanks);
  for (int rank = 0; rank < kRanks; ++rank) {
    threads.emplace_back([&, rank] {
      const auto at = static_cast<std::size_t>(rank);
      errors[at] = error_of([&] { work(*world[at]); });
      if (!errors[at].empty()) world[at].reset();  // as the end of its process
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

/// What the vision tower makes of a picture, and the head of that: a row of every kind of weight but the decoder's.
Tensor result_of(const QwenVl& model) {
  const std::vector<float> pixels = random_values(4 * 6 * TinyModel::kPatchValues, 2, 3);
  const ImagePatches image{{1, 4, 6}, pixels};
  const Tensor features = model.encode_images(std::span(&image, 1));
  return testing::logits_of(model, features.view());
}
/// The backward of the head.
Tensor backward_of(const QwenVl& model) {
  RowBatch two;
  two.ids = {1, 2};
  two.positions = {{0, 0, 0}, {1, 1, 1}};
  two.sequences = {{0, 2, 0, 2, {0}}};
  two.picks = {0, 1};
  const auto plan = model.decoder().plan(two);
  Tensor hidden(model.ops().compute_type(), 2, model.config().text.hidden, "test");
  hidden.zero();
  Tensor d_picked(DType::f32, 2, model.config().text.hidden, "test");
  std::vector<float> logp(2), entropy(2);
  const std::vector<std::int64_t> targets{3, 4};
  model.decoder().log_prob(*plan, hidden.view(), targets, 1, logp, entropy, d_picked.view());
  return d_picked;
}

class Nodes : public ::testing::TestWithParam<DType> {
 protected:
  TinyModel files_;
};
INSTANTIATE_TEST_SUITE_P(Types, Nodes, ::testing::Values(DType::f32, DType::bf16),
                         [](const auto& type) { return name_of(type.param); });

TEST_P(Nodes, EveryLayoutGivesEveryRankTheSameModel) {
  const auto own = QwenVl::load(files_.path(), make_ops({"cpu", GetParam(), 1}), {true, true});
  const Tensor expected = result_of(*own);
  const Tensor expected_backward = backward_of(*own);
  const std::size_t before = memory_report()["weights"].now;
  WeightArena planned, planned_forward;
  QwenVl::load(files_.path(), make_ops({"cpu", GetParam(), 1}), {true, true, &planned});
  QwenVl::load(files_.path(), make_ops({"cpu", GetParam(), 1}), {false, true, &planned_forward});
  struct Case {
    const char* name;
    std::array<const char*, kRanks> nodes;
    std::array<bool, kRanks> learns;
    std::size_t most;  ///< bytes that all ranks together may hold
  };
  const std::size_t both = planned.bytes();
  const std::size_t forward = planned_forward.bytes();
  for (const Case& c :
       {Case{"one node", {"a", "a", "a", "a"}, {false, true, false, true}, both},
        Case{"one node, all act", {"a", "a", "a", "a"}, {}, forward},
        Case{"two nodes", {"a", "a", "b", "b"}, {true, false, false, true}, 2 * both},
        Case{"the second learns", {"a", "a", "b", "b"}, {false, false, false, true}, both + forward},
        Case{"interleaved", {"a", "b", "a", "b"}, {true, true, true, true}, 2 * both},
        Case{"four nodes", {"a", "b", "c", "d"}, {false, true, false, true}, 2 * both + 2 * forward}}) {
    SCOPED_TRACE(c.name);
    std::size_t held = 0;
    const auto errors = as_ranks([&](Communicator& world) {
      const auto rank = static_cast<std::size_t>(world.rank());
      const auto model =
          load_shared(world, c.nodes[rank], files_.path(), make_ops({"cpu", GetParam(), 1}), c.learns[rank]);
      world.barrier("models of all ranks");
      if (rank == 0) held = memory_report()["weights"].now - before;
      EXPECT_TRUE(same_bits(result_of(*model).const_view(), expected.const_view())) << "rank " << rank;
      if (c.learns[rank]) {
        EXPECT_TRUE(same_bits(backward_of(*model).const_view(), expected_backward.const_view()))
            << "rank " << rank;
      }
      world.barrier("the end");
    });
    EXPECT_THAT(errors, ::testing::Each(std::string()));
    EXPECT_EQ(held, c.most);
    EXPECT_EQ(memory_report()["weights"].now, before);
  }
}

TEST_P(Nodes, TheFirstNodesBytesReachTheOthers) {
  // The same shapes with other values: whose values a rank has tells where they came from.
  const TinyModel other(true, 2);
  const auto own = QwenVl::load(files_.path(), make_ops({"cpu", GetParam(), 1}), {true, true});
  const Tensor expected = result_of(*own);
  const auto errors = as_ranks([&](Communicator& world) {
    const int rank = world.rank();
    const auto model = load_shared(world, rank < 2 ? "a" : "b", rank < 2 ? files_.path() : other.path(),
                                   make_ops({"cpu", GetParam(), 1}), rank % 2 == 0);
    EXPECT_TRUE(same_bits(result_of(*model).const_view(), expected.const_view())) << "rank " << rank;
  });
  EXPECT_THAT(errors, ::testing::Each(std::string()));
}

TEST_P(Nodes, PartsOfAnAdapterAreMergedOnceAndTheSameEverywhere) {
  const ModelConfig config = ModelConfig::load(files_.path());
  const auto parts = testing::random_frozen_parts(config, 4),
             others = testing::random_frozen_parts(config, 5);
  const auto own =
      QwenVl::load(files_.path(), make_ops({"cpu", GetParam(), 1}), {true, true, nullptr, parts.get()});
  const Tensor expected = result_of(*own);
  const auto errors = as_ranks([&](Communicator& world) {
    const auto model = load_shared(world, world.rank() < 2 ? "a" : "b", files_.path(),
                                   make_ops({"cpu", GetParam(), 1}), world.rank() % 2 == 0, parts.get());
    EXPECT_TRUE(same_bits(result_of(*model).const_view(), expected.const_view())) << "rank " << world.rank();
  });
  EXPECT_THAT(errors, ::testing::Each(std::string()));
  const auto refused = as_ranks(
      [&](Communicator& world) {
        load_shared(world, world.rank() < 2 ? "a" : "b", files_.path(), make_ops({"cpu", GetParam(), 1}),
                    false, world.rank() == 3 ? others.get() : parts.get());
      },
      kShort);
  EXPECT_THAT(refused[3],
              HasSubstr("the adapter of rank 3 differs from that of rank 0 on modules that are not trained"));
  for (const std::string& error : refused) EXPECT_NE(error, "");
}

TEST_P(Nodes, ANodeWithAnotherLayoutReadsForItself) {
  const auto own = QwenVl::load(files_.path(), make_ops({"cpu", GetParam(), 1}), {true, true});
  const DType other_type = GetParam() == DType::f32 ? DType::bf16 : DType::f32;
  const auto other = QwenVl::load(files_.path(), make_ops({"cpu", other_type, 1}), {true, true});
  const Tensor expected = result_of(*own);
  const Tensor expected_other = result_of(*other);
  const auto errors = as_ranks([&](Communicator& world) {
    const bool first = world.rank() < 2;
    const auto model = load_shared(world, first ? "a" : "b", files_.path(),
                                   make_ops({"cpu", first ? GetParam() : other_type, 1}), true);
    EXPECT_TRUE(same_bits(result_of(*model).const_view(), (first ? expected : expected_other).const_view()))
        << "rank " << world.rank();
  });
  EXPECT_THAT(errors, ::testing::Each(std::string()));
}

TEST_P(Nodes, ARankWithAnotherLayoutOnANodeIsRefused) {
  const DType other_type = GetParam() == DType::f32 ? DType::bf16 : DType::f32;
  const auto errors = as_ranks(
      [&](Communicator& world) {
        load_shared(world, "a", files_.path(),
                    make_ops({"cpu", world.rank() == 2 ? other_type : GetParam(), 1}), true);
      },
      kShort);
  EXPECT_THAT(errors[2], AllOf(HasSubstr("cannot use the weights of process "),
                               HasSubstr(" visual.patch_embed.proj.forward ")));
  for (const std::size_t rank : {0U, 1U, 3U}) EXPECT_NE(errors[rank], "") << "rank " << rank;
}

TEST(NodeFailures, TheReasonIsToldAndTheOthersDoNotWait) {
  const TinyModel files;
  const TemporaryFolder empty;
  for (const int broken : {0, 2}) {
    SCOPED_TRACE(broken);
    const auto start = std::chrono::steady_clock::now();
    const auto errors = as_ranks(
        [&](Communicator& world) {
          load_shared(world, world.rank() < 2 ? "a" : "b",
                      world.rank() == broken ? empty.path() : files.path(), make_ops({"cpu", DType::f32, 1}),
                      true);
        },
        kShort);
    EXPECT_THAT(errors[static_cast<std::size_t>(broken)], HasSubstr(empty.path().string()));
    for (const std::string& error : errors) EXPECT_NE(error, "");
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
  }
}

// The rank that reads the weights has one thread, so it cannot notice anything.
TEST(NodeFailures, EveryRankChecksItsOwnThreads) {
  const TinyModel files;
  const testing::AlteredProducts products([](std::int64_t, int threads) { return threads == 2; });
  for (const char* last_node : {"a", "b"}) {
    const auto errors = as_ranks(
        [&](Communicator& world) {
          const bool last = world.rank() == kRanks - 1;
          load_shared(world, last ? last_node : "a", files.path(),
                      make_ops({"cpu", DType::f32, last ? 2 : 1}), false);
        },
        kShort);
    EXPECT_THAT(errors[kRanks - 1], HasSubstr(" differ between 2 threads and one")) << last_node;
    for (const std::string& error : errors) EXPECT_NE(error, "") << last_node;
  }
}

TEST(NodeFailures, NoMemoryOnTheFirstRankEndsAll) {
  const TinyModel files;
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const rlimit small{4096, old.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto errors = as_ranks(
      [&](Communicator& world) {
        load_shared(world, "a", files.path(), make_ops({"cpu", DType::f32, 1}), true);
      },
      kShort);
  setrlimit(RLIMIT_FSIZE, &old);
  EXPECT_THAT(errors[0], AllOf(HasSubstr("cannot hold "), HasSubstr("give the job more memory")));
  for (const std::string& error : errors) EXPECT_NE(error, "");
}

TEST(NodeFailures, WithoutSharedMemoryANodeTakesCopiesAndSaysSo) {
  const TinyModel files;
  const Tensor expected = result_of(*testing::load(files, DType::f32));
  const std::size_t before = memory_report()["weights"].now;
  std::size_t held = 0;
  ::testing::internal::CaptureStderr();
  const auto errors = as_ranks([&](Communicator& world) {
    if (world.rank() == 2) testing::deny_call(__NR_memfd_create, EPERM);
    const auto model = load_shared(world, world.rank() < 2 ? "a" : "b", files.path(),
                                   make_ops({"cpu", DType::f32, 1}), false);
    world.barrier("models of all ranks");
    if (world.rank() == 0) held = memory_report()["weights"].now - before;
    EXPECT_TRUE(same_bits(result_of(*model).const_view(), expected.const_view())) << "rank " << world.rank();
    world.barrier("the end");
  });
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(errors, ::testing::Each(std::string()));
  WeightArena planned;
  QwenVl::load(files.path(), make_ops({"cpu", DType::f32, 1}), {false, true, &planned});
  EXPECT_EQ(held, 3 * planned.bytes()) << "one for the first node, two for the second";
  EXPECT_THAT(said, HasSubstr(fmt::format(
                        "cannot create shared memory: memfd_create fails with Operation not permitted; "
                        "this node holds 2 copies of the weights instead of one ({} each)",
                        bytes_text(planned.bytes()))));
}

TEST(SharedPolicy, OpensOnAllRanks) {
  const PolicyOptions options{BIQA_SOURCE_DIR "/assets/tiny/model", DType::f32, "cpu", 1, true};
  const Policy own = Policy::open(options);
  const auto errors = as_ranks([&](Communicator& world) {
    const Policy policy = Policy::open(options, world);
    EXPECT_EQ(policy.chat.im_end, own.chat.im_end);
    EXPECT_NE(policy.pictures, nullptr);
  });
  EXPECT_THAT(errors, ::testing::Each(std::string()));
  PolicyOptions absent = options;
  absent.path = "no/such/folder";
  const auto failures = as_ranks([&](Communicator& world) { Policy::open(absent, world); }, kShort);
  EXPECT_THAT(failures[0], HasSubstr("cannot open model no/such/folder: no such folder"));
  for (const std::string& failure : failures) EXPECT_NE(failure, "");
}

TEST(SharedPolicy, AnUnknownDeviceIsRefusedWithTheSettingsName) {
  PolicyOptions options{BIQA_SOURCE_DIR "/assets/tiny/model", DType::f32, "gpu", 1, true};
  EXPECT_EQ(error_of([&] { Policy::open(options); }),
            "cannot compute on device gpu: set model.device (or the flag --device) to cpu or cuda");
}

TEST(SharedPolicy, AttentionByCudnnIsRefusedBeforeLoading) {
  PolicyOptions options{BIQA_SOURCE_DIR "/assets/tiny/model", DType::bf16, "cpu", 1, true};
  options.vision_attention = VisionAttentionBy::cudnn;
  EXPECT_THAT(error_of([&] { Policy::open(options); }),
              ::testing::AllOf(HasSubstr("model.vision_attention"), HasSubstr("device cpu"),
                               HasSubstr("model.vision_attention: own")));
}

TEST(ThisNode, KnowsSlurmsNodesOnOneMachine) {
  const std::string plain = this_node();
  EXPECT_EQ(plain, this_node());
  setenv("SLURMD_NODENAME", "node-7", 1);
  EXPECT_NE(plain, this_node());
  unsetenv("SLURMD_NODENAME");
}

}  // namespace
}  // namespace biqa
