// SPDX-License-Identifier: Apache-2.0
// The whole network, generation and a learner's updates on a device whose memory the host may not touch and whose work is
// done later than asked for (support/remote/remote_ops.h): the bits are the CPU backend's.
#include <gtest/gtest.h>

#include "support/compare.h"
#include "support/network_runs.h"
#include "support/remote/remote_ops.h"

namespace biqa {
namespace {

using testing::generate;
using testing::Prompt;
using testing::random_adapter;
using testing::same_bits;
using testing::TinyModel;
using testing::train;

class Remote : public ::testing::TestWithParam<testing::ModelSetting> {
 protected:
  std::unique_ptr<QwenVl> load(bool remote) const {
    std::shared_ptr<Ops> ops =
        remote ? testing::make_remote_ops(GetParam().type, 0) : make_ops({"cpu", GetParam().type, 0});
    return QwenVl::load(files_.path(), std::move(ops), {true, true});
  }
  TinyModel files_{GetParam().tied};
};
INSTANTIATE_TEST_SUITE_P(Settings, Remote, ::testing::ValuesIn(testing::kModelSettings));

TEST_P(Remote, VisionAndDecoder) {
  const auto cpu = load(false), remote = load(true);
  const Prompt here(*cpu), there(*remote);
  EXPECT_TRUE(same_bits(copied_to_host(remote->ops().memory(), there.features.view(), "test").view(),
                        here.features.view()));
  for (const bool adapted : {false, true}) {
    const Lora lora = random_adapter(cpu->config(), 2);
    const auto on_cpu = adapted ? pack_adapter(*cpu, lora) : nullptr;
    const auto on_remote = adapted ? pack_adapter(*remote, lora) : nullptr;
    const Tensor expected = testing::hidden_of(*cpu, *here.input, on_cpu.get());
    const Tensor hidden = testing::hidden_of(*remote, *there.input, on_remote.get());
    EXPECT_TRUE(same_bits(hidden.view(), expected.view()));
    EXPECT_TRUE(same_bits(testing::logits_of(*remote, hidden.view()).view(),
                          testing::logits_of(*cpu, expected.view()).view()));
  }
}

TEST_P(Remote, Generation) {
  const testing::Results expected = generate(*load(false));
  const testing::Results results = generate(*load(true));
  ASSERT_EQ(results.size(), 9U);
  for (const auto& [key, result] : expected) {
    const Generated& other = results.at(key);
    EXPECT_EQ(other.ids, result.ids) << "tag " << key.first;
    EXPECT_EQ(other.logp, result.logp) << "tag " << key.first;
    EXPECT_EQ(other.entropy, result.entropy) << "tag " << key.first;
  }
}

// The engine is a pass ahead of the tokens that it has seen. A text that ends costs one row, and one pass if it is the last.
TEST_P(Remote, TheNextPassStartsBeforeTheTokensAreKnown) {
  const auto cpu = load(false), remote = load(true);
  std::size_t ended = 0;
  std::size_t full = 0;
  for (std::uint64_t tag = 0; tag < 12; ++tag) {
    GenerateRequest request;
    request.prompt = std::make_shared<PromptInput>(testing::text_prompt(cpu->config(), 9, 1));
    request.streams = {RandomStream{9, tag}};
    request.sampling.temperature = 3.0F;
    request.sampling.max_new_tokens = 60;
    const auto run = [&](const QwenVl& model) {
      Engine engine(model, {});
      engine.submit(request);
      Generated result;
      engine.run([&](Generated&& g) { result = std::move(g); });
      return std::pair(std::move(result), engine.statistics());
    };
    const auto [expected, passes] = run(*cpu);
    const auto [result, remote_passes] = run(*remote);
    EXPECT_EQ(result.ids, expected.ids);
    EXPECT_EQ(result.logp, expected.logp);
    EXPECT_EQ(result.ended, expected.ended);
    EXPECT_EQ(passes.iterations, static_cast<std::int64_t>(expected.ids.size()));
    EXPECT_EQ(remote_passes.generated_tokens, passes.generated_tokens);
    const bool cut_at_the_limit = expected.ids.size() == 60;
    EXPECT_EQ(remote_passes.iterations, passes.iterations + (cut_at_the_limit ? 0 : 1));
    ended += cut_at_the_limit ? 0U : 1U;
    full += cut_at_the_limit ? 1U : 0U;
  }
  EXPECT_GT(ended, 0U);
  EXPECT_GT(full, 0U);
}

TEST_P(Remote, Updates) {
  for (const bool recompute : {false, true}) {
    LearnerOptions options;
    options.objective.beta = 0.05;
    options.max_grad_norm = 0.5;
    options.longest_allowed = 16;
    options.recompute_layers = recompute;
    options.dropout = recompute ? 0.1 : 0.0;
    const auto expected = train([&] { return load(false); }, options);
    const auto results = train([&] { return load(true); }, options);
    for (std::size_t rank = 0; rank < 2; ++rank) {
      EXPECT_GT(expected[rank].grad_norm, 0);
      EXPECT_EQ(results[rank].grad_norm, expected[rank].grad_norm);
      EXPECT_EQ(results[rank].values, expected[rank].values);
      EXPECT_EQ(results[rank].gradient, expected[rank].gradient);
      EXPECT_EQ(results[rank].m, expected[rank].m);
      EXPECT_EQ(results[rank].v, expected[rank].v);
      ASSERT_EQ(results[rank].records.size(), 3U);
      for (std::size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(results[rank].records[i].learner_logp, expected[rank].records[i].learner_logp);
        EXPECT_EQ(results[rank].records[i].reference_logp, expected[rank].records[i].reference_logp);
      }
    }
  }
}

// The remote device is of use only if it catches what it is there for.
using RemoteDeathTest = ::testing::Test;
TEST(RemoteDeathTest, TheHostTouchesNoTensor) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_DEATH(
      {
        const auto ops = testing::make_remote_ops(DType::f32, 1);
        Tensor tensor = ops->memory().allocate(DType::f32, 2, 3, "some label");
        tensor.view().row_range(1, 1).row<float>(0)[0] = 1;
      },
      "the host touched device memory: some label");
  EXPECT_DEATH(
      {
        const auto ops = testing::make_remote_ops(DType::f32, 1);
        const Tensor tensor = ops->memory().allocate(DType::f32, 2, 3, "some label");
        std::fputc(*static_cast<const char*>(tensor.view().address()), stderr);
      },
      "");
  EXPECT_DEATH(
      {
        const auto ops = testing::make_remote_ops(DType::f32, 1);
        Tensor host(DType::f32, 1, 3, "host");
        ops->adamw(host.view(), host.view(), host.view(), host.view(), {});
        ops->memory().wait();
      },
      "given host memory");
}

TEST(RemoteMemory, ValuesComeWithTheWait) {
  const auto ops = testing::make_remote_ops(DType::f32, 1);
  const std::vector<float> values{1, 2, 3};
  const Tensor there = copied_to(ops->memory(), ConstView(values.data(), 1, 3), "test");
  Tensor back(DType::f32, 1, 3, "test");
  ops->memory().copy(there.view(), back.view());
  EXPECT_TRUE(std::isnan(back.row<float>(0)[1])) << "read too early, it must be seen";
  ops->memory().wait();
  EXPECT_EQ(std::vector<float>(back.row<float>(0), back.row<float>(0) + 3), values);
}

}  // namespace
}  // namespace biqa
