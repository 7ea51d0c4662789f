// SPDX-License-Identifier: Apache-2.0
// One rank reads the weights, and its emulated GPU sends them to those of the other ranks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <fstream>

#include "comm/link_contract.h"
#include "comm/nccl/link.h"
#include "comm/watch.h"
#include "core/error.h"
#include "cuda_emulation/host_matmul.h"
#include "cuda_emulation/host_nccl.h"
#include "ops/cuda/cuda_ops.h"
#include "policy/shared_weights.h"
#include "support/compare.h"
#include "support/network_runs.h"

namespace biqa {
namespace {

using emulation::HostNccl;
using emulation::NcclFaults;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using testing::same_bits;
using testing::TinyModel;

constexpr int kRanks = 3;

/// Runs `work` on every rank. When one of them fails, the others learn of its loss, as from a watch. Returns the errors.
std::vector<std::string> on_ranks(const std::function<void(Communicator& world)>& work) {
  std::atomic<bool> lost{false};
  return testing::on_ranks(kRanks, Seconds(300), [&](Communicator& world) {
    world.set_poll([&] {
      if (lost) throw PeerLost("a rank is lost");
    });
    try {
      work(world);
    } catch (const Error&) {
      lost = true;
      throw;
    }
  });
}

/// From now on, links go through `library`.
class UseNccl {
 public:
  explicit UseNccl(HostNccl& library) {
    set_tensor_link_maker([&library](Communicator& ranks, DeviceMemory& memory, Shards shards) {
      return std::make_unique<nccl::NcclLink>(library, ranks, dynamic_cast<cuda::CudaMemory&>(memory),
                                              std::move(shards));
    });
  }
  ~UseNccl() { set_tensor_link_maker({}); }
  UseNccl(const UseNccl&) = delete;
  UseNccl& operator=(const UseNccl&) = delete;
};

/// Every weight becomes NaN. The header stays.
void spoil(const TinyModel& files) {
  const auto path = files.path() / "model.safetensors";
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  std::uint64_t header = 0;
  file.read(reinterpret_cast<char*>(&header), sizeof header);
  const auto first = sizeof header + header;
  const std::string ones(std::filesystem::file_size(path) - first, '\xff');
  file.seekp(static_cast<std::streamoff>(first));
  file.write(ones.data(), static_cast<std::streamsize>(ones.size()));
  CHECK(file.good());
}

std::shared_ptr<Ops> gpu(DType type) {
  return std::make_shared<cuda::CudaOps>(type);
}

/// Results of every weight: the features of an image, and the logits of a prompt with it.
std::vector<Tensor> results_of(const QwenVl& model) {
  const testing::Prompt prompt(model);
  std::vector<Tensor> results;
  results.push_back(copied_to_host(model.ops().memory(), prompt.features.view(), "test"));
  results.push_back(testing::logits_of(model, testing::hidden_of(model, *prompt.input, nullptr).view()));
  return results;
}
void expect_same(const std::vector<Tensor>& results, const std::vector<Tensor>& expected) {
  for (std::size_t i = 0; i < expected.size(); ++i)
    EXPECT_TRUE(same_bits(results[i].const_view(), expected[i].const_view())) << i;
}

class NcclWeights : public ::testing::TestWithParam<testing::ModelSetting> {};
INSTANTIATE_TEST_SUITE_P(Settings, NcclWeights, ::testing::ValuesIn(testing::kModelSettings));

TEST_P(NcclWeights, OnlyTheFirstRankReadsThem) {
  const auto [type, tied] = GetParam();
  const TinyModel files(tied);
  const TinyModel spoilt(tied);
  spoil(spoilt);
  const auto expected = results_of(*QwenVl::load(files.path(), gpu(type), {true, true}));
  const auto load = [&, type = type] {
    return on_ranks([&](Communicator& world) {
      const bool first = world.rank() == 0;
      const auto model = load_shared(world, "a", (first ? files : spoilt).path(), gpu(type), true);
      expect_same(results_of(*model), expected);
    });
  };
  {
    SCOPED_TRACE("through the host");
    EXPECT_THAT(load(), Each(std::string()));
  }
  HostNccl library;
  const UseNccl use(library);
  EXPECT_THAT(load(), Each(std::string()));
  EXPECT_EQ(library.ends(), 0);
  EXPECT_EQ(library.aborted(), 0);
}

TEST(NcclWeightsOfAnAdapter, AreMergedByTheFirstRank) {
  const TinyModel files(true);
  const TinyModel spoilt(true);
  spoil(spoilt);
  const auto parts = testing::random_frozen_parts(ModelConfig::load(files.path()), 4);
  const auto expected =
      results_of(*QwenVl::load(files.path(), gpu(DType::f32), {true, true, nullptr, parts.get()}));
  HostNccl library;
  const UseNccl use(library);
  const auto errors = on_ranks([&](Communicator& world) {
    const bool first = world.rank() == 0;
    const auto model =
        load_shared(world, "a", (first ? files : spoilt).path(), gpu(DType::f32), false, parts.get());
    expect_same(results_of(*model), expected);
  });
  EXPECT_THAT(errors, Each(std::string()));
}

/// Loads the folder on all ranks through `library`. Returns the errors. `type_of`: the type of a rank's weights.
std::vector<std::string> load_errors(
    HostNccl& library, const TinyModel& files,
    const std::function<DType(int rank)>& type_of = [](int) { return DType::f32; }) {
  const UseNccl use(library);
  return on_ranks(
      [&](Communicator& world) { load_shared(world, "a", files.path(), gpu(type_of(world.rank())), false); });
}

TEST(NcclWeightFailures, AFileThatCannotBeReadIsReportedOnce) {
  const TinyModel files;
  spoil(files);
  HostNccl library;
  const auto errors = load_errors(library, files);
  EXPECT_THAT(errors[0], AllOf(HasSubstr(files.path().string()), HasSubstr("values that are not finite")));
  for (const std::size_t rank : {1U, 2U}) EXPECT_EQ(errors[rank], "a rank is lost");
  EXPECT_EQ(library.ends(), 0);
}

TEST(NcclWeightFailures, OtherShapesAreRefused) {
  const TinyModel files;
  HostNccl library;
  const auto errors =
      load_errors(library, files, [](int rank) { return rank == 2 ? DType::bf16 : DType::f32; });
  EXPECT_THAT(errors[0], HasSubstr("rank 2 has weights of other shapes or types than rank 0"));
  for (const std::size_t rank : {1U, 2U}) EXPECT_EQ(errors[rank], "a rank is lost");
}

TEST(NcclWeightFailures, ARankThatFailsInTheBroadcastEndsAll) {
  const TinyModel files;
  NcclFaults faults;
  faults.failing_start = 1;
  faults.starts_before = 5;
  HostNccl library(faults);
  const auto errors = load_errors(library, files);
  EXPECT_THAT(errors[1],
              MatchesRegex("the broadcast between GPUs through NCCL on rank 1 with ranks 0, 2: emulated "
                           "failure of a move after .*"));
  for (const std::size_t rank : {0U, 2U}) EXPECT_EQ(errors[rank], "a rank is lost");
  EXPECT_EQ(library.ends(), 0);
  EXPECT_EQ(library.aborted(), 3);
}

TEST(NcclWeightFailures, EveryRankChecksItsOwnProducts) {
  const TinyModel files;
  HostNccl library;
  const auto errors = load_errors(library, files, [](int rank) {
    emulation::altered_rows = rank == 2 ? 1 : 0;  // of this rank's thread
    return DType::f32;
  });
  EXPECT_THAT(errors[2], HasSubstr("product differ between a batch of 1 and a larger one"));
  for (const std::size_t rank : {0U, 1U}) EXPECT_EQ(errors[rank], "a rank is lost");
}

}  // namespace
}  // namespace biqa
