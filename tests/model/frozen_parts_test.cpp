// SPDX-License-Identifier: Apache-2.0
// A model loaded with an adapter's parts on frozen modules is the model whose weights were merged by the formula.
#include "model/frozen_parts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "model/merge.h"
#include "support/compare.h"
#include "support/tiny_model.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::random_frozen_parts;
using testing::same_bits;
using testing::TinyModel;

std::unique_ptr<QwenVl> load(const fs::path& folder, DType type, const FrozenParts* frozen,
                             WeightArena* arena = nullptr) {
  return QwenVl::load(folder, make_ops({"cpu", type, 1}), {false, true, arena, frozen});
}

/// The vision tower's features of a picture, and the head's logits of these.
struct Outputs {
  Tensor features, logits;
};
Outputs outputs_of(const QwenVl& model) {
  const std::vector<float> pixels = testing::random_values(4 * 6 * TinyModel::kPatchValues, 2, 3);
  const ImagePatches image{{1, 4, 6}, pixels};
  Outputs outputs;
  outputs.features = model.encode_images(std::span(&image, 1));
  outputs.logits = testing::logits_of(model, outputs.features.const_view());
  return outputs;
}
void expect_same(const Outputs& a, const Outputs& b) {
  EXPECT_TRUE(same_bits(a.features.const_view(), b.features.const_view())) << "features";
  EXPECT_TRUE(same_bits(a.logits.const_view(), b.logits.const_view())) << "logits";
}

/// A copy of a model with W + scale · B A in the file: each value in f64, or in f32 in the order of the ranks.
void write_merged(const fs::path& model, const FrozenParts& parts, const fs::path& target, bool in_f64) {
  fs::create_directory(target);
  fs::copy_file(model / "config.json", target / "config.json");
  const Safetensors file = Safetensors::open(model / "model.safetensors");
  std::vector<std::vector<float>> values;
  std::vector<NamedTensor> tensors;
  for (const StoredTensor& tensor : file.tensors()) {
    std::vector<float>& weight = values.emplace_back(static_cast<std::size_t>(tensor.elements()));
    tensor.copy_to(weight);
    if (const FrozenPart* part = parts.find(tensor.name.substr(0, tensor.name.rfind('.')));
        part != nullptr && tensor.name.ends_with(".weight")) {
      const auto out = static_cast<std::size_t>(tensor.shape[0]), in = weight.size() / out;
      const auto rank = static_cast<std::size_t>(part->rank);
      for (std::size_t o = 0; o < out; ++o) {
        for (std::size_t i = 0; i < in; ++i) {
          double exact = 0;
          float sum = 0;
          for (std::size_t r = 0; r < rank; ++r) {
            const float b = part->b[o * rank + r], a = part->a[r * in + i];
            exact += static_cast<double>(b) * static_cast<double>(a);
            const volatile float product = b * a;  // rounded
            sum += product;
          }
          const volatile float scaled = part->scale * sum;
          float& w = weight[o * in + i];
          w = in_f64 ? static_cast<float>(static_cast<double>(w) + static_cast<double>(part->scale) * exact)
                     : w + scaled;
        }
      }
    }
    tensors.push_back({tensor.name, StoredType::f32, tensor.shape, {}});
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) tensors[i].bytes = std::as_bytes(std::span(values[i]));
  write_safetensors(target / "model.safetensors", tensors);
}

double distance(const Tensor& a, const Tensor& b) {
  double apart = 0, size = 0;
  for (std::int64_t i = 0; i < a.size(); ++i) {
    const double x = a.span<float>()[static_cast<std::size_t>(i)],
                 y = b.span<float>()[static_cast<std::size_t>(i)];
    apart += (x - y) * (x - y);
    size += y * y;
  }
  return std::sqrt(apart / size);
}

TEST(FrozenParts, EveryModuleHasAName) {
  const ModelConfig config = ModelConfig::load(TinyModel().path());
  const std::vector<FrozenModule> modules = frozen_modules(config);
  EXPECT_EQ(modules.size(), 1U + 3U * 5U + 2U + 1U);
  for (const FrozenModule& module : modules) EXPECT_TRUE(is_frozen_module(module.name)) << module.name;
  for (const char* name : {"visual.blocks.17.attn.qkv", "visual.merger.mlp.0", "lm_head"})
    EXPECT_TRUE(is_frozen_module(name)) << name;
  for (const char* name : {"visual.blocks.01.attn.qkv", "visual.blocks.-1.attn.qkv", "visual.blocks.0.norm1",
                           "visual", "visual.merger.ln_q", "model.embed_tokens", "model.norm", "",
                           "visual.blocks.99999999999999999999.attn.qkv", "visual.blocks.0."})
    EXPECT_FALSE(is_frozen_module(name)) << name;
}

struct Setting {
  DType type;
  bool tied;
};
std::ostream& operator<<(std::ostream& out, const Setting& s) {
  return out << name_of(s.type) << (s.tied ? " tied" : " untied");
}
class FrozenPartsOf : public ::testing::TestWithParam<Setting> {};
INSTANTIATE_TEST_SUITE_P(Settings, FrozenPartsOf,
                         ::testing::Values(Setting{DType::f32, true}, Setting{DType::f32, false},
                                           Setting{DType::bf16, true}, Setting{DType::bf16, false}));

TEST_P(FrozenPartsOf, AreMergedWhileLoading) {
  const auto [type, tied] = GetParam();
  const TinyModel files(tied);
  const auto parts = random_frozen_parts(ModelConfig::load(files.path()), 4, tied ? "visual" : "");
  const Outputs plain = outputs_of(*load(files.path(), type, nullptr));
  const Outputs have = outputs_of(*load(files.path(), type, parts.get()));
  const TemporaryFolder folder;
  write_merged(files.path(), *parts, folder.path() / "f32", false);
  expect_same(have, outputs_of(*load(folder.path() / "f32", type, nullptr)));
  EXPECT_GT(distance(plain.features, have.features), 1e-2);

  // By another order of summing the same but for rounding.
  write_merged(files.path(), *parts, folder.path() / "f64", true);
  const Outputs exact = outputs_of(*load(folder.path() / "f64", type, nullptr));
  const double roundoff = type == DType::f32 ? 300 * std::ldexp(1.0, -24) : 4 * std::ldexp(1.0, -8);
  EXPECT_LT(distance(have.features, exact.features), roundoff);
  EXPECT_LT(distance(have.logits, exact.logits), roundoff);
}

TEST_P(FrozenPartsOf, EachModuleIsHeldAgainstItsOwn) {
  const auto [type, tied] = GetParam();
  const TinyModel files(tied);
  const auto all = random_frozen_parts(ModelConfig::load(files.path()), 4, tied ? "visual" : "");
  const Outputs plain = outputs_of(*load(files.path(), type, nullptr));
  for (const FrozenPart& part : all->parts) {
    SCOPED_TRACE(part.module.name);
    FrozenParts alone;
    alone.parts = {part};
    const Outputs have = outputs_of(*load(files.path(), type, &alone));
    EXPECT_FALSE(same_bits(have.logits.const_view(), plain.logits.const_view()));
    const TemporaryFolder folder;
    write_merged(files.path(), alone, folder.path() / "merged", false);
    expect_same(have, outputs_of(*load(folder.path() / "merged", type, nullptr)));
  }
}

TEST_P(FrozenPartsOf, OnTheHeadLeaveTheEmbeddingAlone) {
  const auto [type, tied] = GetParam();
  const TinyModel files(tied);
  const ModelConfig config = ModelConfig::load(files.path());
  const auto parts = random_frozen_parts(config, 4, "lm_head");
  ASSERT_EQ(parts->parts.size(), 1U);
  const auto plain = load(files.path(), type, nullptr), model = load(files.path(), type, parts.get());
  const Outputs before = outputs_of(*plain), after = outputs_of(*model);
  EXPECT_TRUE(same_bits(before.features.const_view(), after.features.const_view()));
  EXPECT_GT(distance(before.logits, after.logits), 1e-3);
  // Hidden states begin with the embedding.
  const PromptInput prompt = testing::text_prompt(config, 12, 3);
  const auto hidden = [&](const QwenVl& network) { return testing::hidden_of(network, prompt, nullptr); };
  EXPECT_TRUE(same_bits(hidden(*plain).const_view(), hidden(*model).const_view()));
}

TEST_P(FrozenPartsOf, AnotherAdaptersWeightsAreNotShared) {
  const auto [type, tied] = GetParam();
  const TinyModel files(tied);
  const ModelConfig config = ModelConfig::load(files.path());
  const auto one = random_frozen_parts(config, 4), other = random_frozen_parts(config, 5);
  const Outputs expected = outputs_of(*load(files.path(), type, one.get()));
  WeightArena filled;
  load(files.path(), type, one.get(), &filled);
  filled.create();
  load(files.path(), type, one.get(), &filled);
  filled.seal();
  WeightArena same;
  load(files.path(), type, one.get(), &same);
  EXPECT_EQ(same.digest(WeightPart::forward), filled.digest(WeightPart::forward));
  same.attach(filled.handle());
  expect_same(outputs_of(*load(files.path(), type, one.get(), &same)), expected);
  for (const FrozenParts* parts : {other.get(), static_cast<const FrozenParts*>(nullptr)}) {
    WeightArena wrong;
    load(files.path(), type, parts, &wrong);
    EXPECT_NE(wrong.digest(WeightPart::forward), filled.digest(WeightPart::forward));
    EXPECT_THROW(wrong.attach(filled.handle()), Error);
  }
  // A part that only the second of two stacked weights has counts too.
  FrozenParts up, changed;
  up.parts = {*one->find("visual.blocks.0.mlp.up_proj")};
  changed.parts = up.parts;
  changed.parts[0].b[0] += 1;
  WeightArena first, second;
  load(files.path(), type, &up, &first);
  load(files.path(), type, &changed, &second);
  EXPECT_NE(first.digest(WeightPart::forward), second.digest(WeightPart::forward));
}

TEST(FrozenParts, MergeIntoFilesAsWhileLoading) {
  for (const bool tied : {true, false}) {
    const TinyModel files(tied);
    const ModelConfig config = ModelConfig::load(files.path());
    Lora lora = testing::random_adapter(config, 5);
    lora.frozen = random_frozen_parts(config, 4, tied ? "visual" : "");
    const TemporaryFolder folder;
    const MergeReport report = write_merged_model(files.path(), lora, folder.path() / "merged");
    EXPECT_EQ(report.merged,
              static_cast<std::int64_t>(lora.layout->modules().size() + lora.frozen->parts.size()));
    expect_same(outputs_of(*load(folder.path() / "merged", DType::f32, nullptr)),
                outputs_of(*load(files.path(), DType::f32, lora.frozen.get())));
    if (!tied) continue;
    lora.frozen = random_frozen_parts(config, 4);
    EXPECT_THAT(error_of([&] { write_merged_model(files.path(), lora, folder.path() / "head"); }),
                HasSubstr("the model's head is also its embedding"));
    EXPECT_FALSE(fs::exists(folder.path() / "head"));
  }
}

TEST(FrozenParts, SumsThatAreNotFiniteAreNamed) {
  const TinyModel files;
  FrozenParts parts;
  parts.parts = {*random_frozen_parts(ModelConfig::load(files.path()), 4)->find("visual.blocks.2.attn.proj")};
  parts.parts[0].a.assign(parts.parts[0].a.size(), 3e38F);
  parts.parts[0].b.assign(parts.parts[0].b.size(), 3e38F);
  EXPECT_THAT(error_of([&] { load(files.path(), DType::f32, &parts); }),
              AllOf(HasSubstr("visual.blocks.2.attn.proj.weight"), HasSubstr("not finite")));
}

TEST(FrozenParts, CopiesOfWeightsAreTheModels) {
  for (const bool tied : {true, false}) {
    const TinyModel files(tied);
    const Safetensors model = Safetensors::open(files.path() / "model.safetensors");
    FrozenParts parts;
    parts.copies = {{"lm_head.weight", model.at(tied ? "model.embed_tokens.weight" : "lm_head.weight")},
                    {"model.embed_tokens.weight", model.at("model.embed_tokens.weight")}};
    EXPECT_NO_THROW(load(files.path(), DType::f32, &parts));
    std::vector<float> values(static_cast<std::size_t>(parts.copies[1].tensor.elements()));
    parts.copies[1].tensor.copy_to(values);
    // Stored narrower it is the same weight.
    std::vector<Bf16> narrow(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) narrow[i] = to_bf16(values[i]);
    parts.copies[1].tensor.type = StoredType::bf16;
    parts.copies[1].tensor.bytes = std::as_bytes(std::span(narrow));
    EXPECT_NO_THROW(load(files.path(), DType::f32, &parts));
    narrow.back() = to_bf16(values.back() + 1);
    EXPECT_THAT(error_of([&] { load(files.path(), DType::f32, &parts); }),
                AllOf(HasSubstr("model.embed_tokens.weight"), HasSubstr("merge it with PEFT first")));
    parts.copies[1].tensor.shape[0] -= 1;
    EXPECT_THAT(error_of([&] { load(files.path(), DType::f32, &parts); }),
                HasSubstr("merge it with PEFT first"));
  }
}

}  // namespace
}  // namespace biqa
