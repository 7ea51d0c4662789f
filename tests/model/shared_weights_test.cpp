// SPDX-License-Identifier: Apache-2.0
// A model over weights that another one packed is the model with weights of its own, to the bit.
#include <gtest/gtest.h>

#include "support/compare.h"
#include "support/tiny_model.h"

namespace biqa {
namespace {

using testing::same_bits;
using testing::TinyModel;

struct Setting {
  DType type;
  bool tied;
};
std::ostream& operator<<(std::ostream& out, const Setting& s) {
  return out << name_of(s.type) << (s.tied ? " tied" : " untied");
}

std::unique_ptr<QwenVl> load(const TinyModel& files, DType type, QwenVl::Options options) {
  return QwenVl::load(files.path(), make_cpu_ops(type, 1), options);
}

/// Logits of every token of a prompt with a picture that goes through the vision tower.
Tensor logits(const QwenVl& model) {
  const ModelConfig& config = model.config();
  const std::vector<float> pixels = testing::random_values(4 * 6 * TinyModel::kPatchValues, 2, 3);
  const ImagePatches image{{1, 4, 6}, pixels};
  const Tensor features = model.encode_images(std::span(&image, 1));
  std::vector<float> unused;
  PromptInput prompt = testing::image_prompt(config, 2, 3, 30, 1, unused);
  for (std::int64_t cell = 0; cell < 6; ++cell)
    prompt.features[static_cast<std::size_t>(2 + cell)] = features.row<float>(cell);
  const DType type = model.ops().compute_type();
  KvCache cache(config, type, 32, config.text.layers);
  KvSequence sequence;
  const auto count = static_cast<std::int64_t>(prompt.ids.size());
  CHECK(cache.extend(sequence, count));
  RowBatch batch;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(i);
    batch.writes.push_back({static_cast<std::int32_t>(i), sequence.pages[at / kPageTokens],
                            static_cast<std::int32_t>(i % kPageTokens)});
    batch.append(prompt.ids[at], prompt.positions[at], prompt.features[at]);
  }
  batch.sequences.push_back({0, count, 0, count, sequence.pages.data()});
  Tensor hidden(type, count, config.text.hidden, "test");
  model.forward(batch, cache, nullptr, hidden.view());
  Tensor result(DType::f32, count, config.text.vocab, "test");
  model.ops().linear(hidden.const_view(), model.head(), result.view());
  return result;
}

class SharedWeights : public ::testing::TestWithParam<Setting> {};
INSTANTIATE_TEST_SUITE_P(Settings, SharedWeights,
                         ::testing::Values(Setting{DType::f32, true}, Setting{DType::f32, false},
                                           Setting{DType::bf16, true}, Setting{DType::bf16, false}));

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
