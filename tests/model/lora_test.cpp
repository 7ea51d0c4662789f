// SPDX-License-Identifier: Apache-2.0
#include "model/lora.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "core/error.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

using testing::HasSubstr;

ModelConfig small_config() {
  ModelConfig config;
  config.text.hidden = 12;
  config.text.layers = 3;
  config.text.heads = 3;
  config.text.kv_heads = 1;
  config.text.head_dim = 4;
  config.text.intermediate = 20;
  return config;
}

TEST(Lora, LayoutIsDenseAndOrdered) {
  const ModelConfig config = small_config();
  const LoraLayout layout(config, {.rank = 2, .alpha = 8});
  ASSERT_EQ(layout.modules().size(), 21U);
  EXPECT_EQ(layout.layers(), 3);
  std::size_t offset = 0;
  for (std::size_t i = 0; i < layout.modules().size(); ++i) {
    const LoraModule& module = layout.modules()[i];
    EXPECT_EQ(module.layer, static_cast<std::int64_t>(i / 7));
    EXPECT_EQ(module.projection, kProjections[i % 7]);
    EXPECT_EQ(module.scale, 4.0F);
    EXPECT_EQ(module.a_offset, offset);
    EXPECT_EQ(module.b_offset, offset + static_cast<std::size_t>(2 * module.in));
    offset = module.b_offset + static_cast<std::size_t>(2 * module.out);
    EXPECT_EQ(layout.find(module.layer, module.projection), &module);
  }
  EXPECT_EQ(layout.size(), offset);
  const auto widths = [&](Projection projection) {
    return std::pair(layout.find(0, projection)->in, layout.find(0, projection)->out);
  };
  EXPECT_EQ(widths(Projection::q), (std::pair<std::int64_t, std::int64_t>(12, 12)));
  EXPECT_EQ(widths(Projection::k), (std::pair<std::int64_t, std::int64_t>(12, 4)));
  EXPECT_EQ(widths(Projection::v), (std::pair<std::int64_t, std::int64_t>(12, 4)));
  EXPECT_EQ(widths(Projection::o), (std::pair<std::int64_t, std::int64_t>(12, 12)));
  EXPECT_EQ(widths(Projection::gate), (std::pair<std::int64_t, std::int64_t>(12, 20)));
  EXPECT_EQ(widths(Projection::up), (std::pair<std::int64_t, std::int64_t>(12, 20)));
  EXPECT_EQ(widths(Projection::down), (std::pair<std::int64_t, std::int64_t>(20, 12)));
}

// The figures of the design page for r = 16 and all seven projections.
TEST(Lora, CountsTheParametersOfTheReleasedModels) {
  ModelConfig config;
  config.text = {
      .hidden = 3584, .layers = 28, .heads = 28, .kv_heads = 4, .head_dim = 128, .intermediate = 18944};
  EXPECT_EQ(LoraLayout(config, {.rank = 16}).size(), 40370176U);
  config.text = {
      .hidden = 2048, .layers = 36, .heads = 16, .kv_heads = 2, .head_dim = 128, .intermediate = 11008};
  EXPECT_NEAR(static_cast<double>(LoraLayout(config, {.rank = 16}).size()), 29.9e6, 0.05e6);
}

TEST(Lora, ScaleFollowsRslora) {
  const LoraLayout layout(small_config(),
                          {.rank = 9, .alpha = 6, .rslora = true, .targets = {Projection::v}});
  EXPECT_EQ(layout.modules().size(), 3U);
  EXPECT_EQ(layout.modules()[0].scale, 2.0F);
  EXPECT_EQ(layout.find(0, Projection::q), nullptr);
}

TEST(Lora, RefusesImpossibleWishes) {
  const ModelConfig config = small_config();
  const auto message = [&](const LoraSpec& spec) { return error_of([&] { LoraLayout(config, spec); }); };
  EXPECT_THAT(message({.rank = 0}), HasSubstr("rank is 0"));
  EXPECT_THAT(message({.rank = 100000}), HasSubstr("rank is 100000"));
  EXPECT_THAT(message({.alpha = std::nan("")}), HasSubstr("alpha is nan"));
  EXPECT_THAT(message({.dropout = 1.0}), HasSubstr("dropout is 1"));
  EXPECT_THAT(message({.dropout = std::nan("")}), HasSubstr("dropout is nan"));
  EXPECT_THAT(message({.targets = {}}), HasSubstr("no targets"));
}

TEST(Lora, EqualLayoutsCompareEqual) {
  const ModelConfig config = small_config();
  const LoraLayout layout(config, {.rank = 2, .alpha = 8});
  EXPECT_TRUE(layout == LoraLayout(config, {.rank = 2, .alpha = 8, .dropout = 0.5}));
  EXPECT_FALSE(layout == LoraLayout(config, {.rank = 4, .alpha = 8}));
  EXPECT_FALSE(layout == LoraLayout(config, {.rank = 2, .alpha = 4}));
  EXPECT_FALSE(layout == LoraLayout(config, {.rank = 2, .alpha = 8, .targets = {Projection::q}}));
}

TEST(Lora, StartsAsPeftDoes) {
  const auto layout = std::make_shared<const LoraLayout>(small_config(), LoraSpec{.rank = 8});
  const Lora lora = initial_lora(layout, 42);
  std::set<float> first_values;
  for (const LoraModule& module : layout->modules()) {
    const double bound = 1 / std::sqrt(static_cast<double>(module.in));
    const auto count = static_cast<std::size_t>(module.rank * module.in);
    double sum = 0, squares = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const double value = lora.a(module)[i];
      EXPECT_LE(std::abs(value), bound);
      sum += value;
      squares += value * value;
    }
    const auto n = static_cast<double>(count);
    EXPECT_LT(std::abs(sum / n), 5 * bound / std::sqrt(3 * n));
    EXPECT_NEAR(squares / n, bound * bound / 3, 5 * bound * bound * 0.3 / std::sqrt(n));
    for (std::int64_t i = 0; i < module.out * module.rank; ++i) EXPECT_EQ(lora.b(module)[i], 0.0F);
    first_values.insert(lora.a(module)[0]);
  }
  EXPECT_EQ(first_values.size(), layout->modules().size());
  EXPECT_EQ(initial_lora(layout, 42).values, lora.values);
  EXPECT_NE(initial_lora(layout, 43).values, lora.values);

  // A module's start does not depend on which others there are.
  const auto few =
      std::make_shared<const LoraLayout>(small_config(), LoraSpec{.rank = 8, .targets = {Projection::down}});
  EXPECT_EQ(initial_lora(few, 42).a(few->modules()[2])[5], lora.a(*layout->find(2, Projection::down))[5]);
}

TEST(Lora, KeysAreThoseOfPeft) {
  const LoraLayout layout(small_config(), {.rank = 2});
  EXPECT_EQ(peft_key(*layout.find(1, Projection::q), 'A'),
            "base_model.model.model.language_model.layers.1.self_attn.q_proj.lora_A.weight");
  EXPECT_EQ(peft_key(*layout.find(2, Projection::down), 'B', true),
            "base_model.model.model.layers.2.mlp.down_proj.lora_B.weight");
}

TEST(Lora, DigestCoversValuesAndLayout) {
  const ModelConfig config = small_config();
  const auto layout = std::make_shared<const LoraLayout>(config, LoraSpec{.rank = 2, .alpha = 4});
  Lora lora = initial_lora(layout, 1);
  const std::string digest = digest_of(lora);
  EXPECT_EQ(digest.size(), 16U);
  EXPECT_EQ(digest, digest_of(initial_lora(layout, 1)));
  lora.values.back() = 1e-30F;
  EXPECT_NE(digest, digest_of(lora));
  const auto scaled = std::make_shared<const LoraLayout>(config, LoraSpec{.rank = 2, .alpha = 8});
  EXPECT_NE(digest, digest_of(initial_lora(scaled, 1)));
}

}  // namespace
}  // namespace biqa
