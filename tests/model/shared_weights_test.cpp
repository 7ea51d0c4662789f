// SPDX-License-Identifier: Apache-2.0
// A model over weights that another one packed is the model with weights of its own, to the bit.
#include <gtest/gtest.h>

#include "support/compare.h"
#include "support/tiny_model.h"

namespace biqa {
namespace {

using testing::same_bits;
using testing::TinyModel;

std::unique_ptr<QwenVl> load(const TinyModel& files, DType type, QwenVl::Options options) {
  return QwenVl::load(files.path(), make_ops({"cpu", type, 1}), options);
}

/// Logits of every token of a prompt with a picture that goes through the vision tower.
Tensor logits(const QwenVl& model) {
  const std::vector<float> pixels = testing::random_values(4 * 6 * TinyModel::kPatchValues, 2, 3);
  const ImagePatches image{{1, 4, 6}, pixels};
  const Tensor features = model.encode_images(std::span(&image, 1));
  Tensor unused;
  PromptInput prompt = testing::image_prompt(model, 2, 3, 30, 1, unused);
  prompt.features.front().features = features.view();
  return testing::logits_of(model, testing::hidden_of(model, prompt, nullptr).view());
}

class SharedWeights : public ::testing::TestWithParam<testing::ModelSetting> {};
INSTANTIATE_TEST_SUITE_P(Settings, SharedWeights, ::testing::ValuesIn(testing::kModelSettings));

TEST_P(SharedWeights, LogitsAreThoseOfAPrivateCopyToTheBit) {
  const auto [type, tied] = GetParam();
  const TinyModel files(tied);
  const Tensor expected = logits(*load(files, type, {true, true}));
  WeightArena filled;
  load(files, type, {true, true, &filled});
  EXPECT_GT(filled.bytes(), 0U);
  filled.create();
  auto first = load(files, type, {true, true, &filled});
  EXPECT_TRUE(same_bits(logits(*first).const_view(), expected.const_view())) << "while filling";
  filled.seal();
  EXPECT_TRUE(same_bits(logits(*first).const_view(), expected.const_view())) << "read-only";

  const std::size_t before = memory_report()["weights"].now;
  WeightArena attached;
  load(files, type, {true, true, &attached});
  attached.attach(filled.handle());
  const auto actor = load(files, type, {false, true, &attached});
  EXPECT_EQ(memory_report()["weights"].now, before) << "no copy";
  first.reset();
  EXPECT_TRUE(same_bits(logits(*actor).const_view(), expected.const_view()))
      << "attached, without the backward";
}

TEST(SharedWeightsOfAnother, ModelAreRefused) {
  const TinyModel tied(true);
  WeightArena filled, other;
  load(tied, DType::f32, {false, true, &filled});
  load(tied, DType::bf16, {false, true, &other});
  filled.create();
  load(tied, DType::f32, {false, true, &filled});
  filled.seal();
  EXPECT_THROW(other.attach(filled.handle()), Error);
  WeightArena learner;
  load(tied, DType::f32, {true, true, &learner});
  EXPECT_EQ(learner.digest(WeightPart::forward), filled.digest(WeightPart::forward));
  EXPECT_THROW(learner.attach(filled.handle()), Error) << "it has no backward";
}

}  // namespace
}  // namespace biqa
