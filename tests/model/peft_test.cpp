// SPDX-License-Identifier: Apache-2.0
#include "model/peft.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "io/files.h"
#include "io/safetensors.h"
#include "model/frozen_parts.h"
#include "support/shared_folder.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
namespace fs = std::filesystem;

ModelConfig small_config() {
  ModelConfig config;
  config.text = {
      .hidden = 12, .layers = 3, .heads = 3, .kv_heads = 1, .head_dim = 4, .intermediate = 20, .vocab = 30};
  config.vision.hidden = 8;
  config.vision.depth = 2;
  config.vision.intermediate = 10;
  config.vision.out_hidden = 12;
  config.vision.patch = 2;
  return config;
}

Lora example(const LoraLayout& layout) {
  Lora lora = initial_lora(std::make_shared<const LoraLayout>(layout), 7);
  for (std::size_t i = 0; i < lora.values.size(); ++i) lora.values[i] += static_cast<float>(i % 97) * 1e-3F;
  return lora;
}

TEST(Peft, ReadsWhatItWrote) {
  const ModelConfig config = small_config();
  LoraLayout uneven(config, {.rank = 4, .alpha = 16, .rslora = true}, [] {
    std::vector<LoraModule> modules(3);
    modules[0] = {.layer = 0, .projection = Projection::q, .rank = 4, .scale = 8};
    modules[1] = {.layer = 1, .projection = Projection::gate, .rank = 2, .scale = 0.3F};
    modules[2] = {.layer = 1, .projection = Projection::down, .rank = 9, .scale = 2};
    return modules;
  }());
  const std::vector<LoraLayout> layouts{
      LoraLayout(config, {.rank = 4, .alpha = 16, .dropout = 0.05}),
      LoraLayout(config, {.rank = 3, .alpha = 0.7, .rslora = true}),
      LoraLayout(config, {.rank = 2, .alpha = 8, .targets = {Projection::v, Projection::q}}),
      LoraLayout(config, {.rank = 2, .alpha = 8, .targets = {Projection::gate, Projection::down}}), uneven};
  for (const LoraLayout& layout : layouts) {
    for (const bool old_names : {false, true}) {
      const TemporaryFolder folder;
      const Lora lora = example(layout);
      write_peft(folder.path() / "adapter", lora, "base", old_names);
      const Lora from_folder = read_peft(folder.path() / "adapter", config);
      EXPECT_TRUE(*from_folder.layout == layout);
      EXPECT_EQ(from_folder.values, lora.values);
      EXPECT_EQ(from_folder.layout->spec().dropout, layout.spec().dropout);
      EXPECT_EQ(digest_of(from_folder), digest_of(lora));
      const Lora from_file = read_peft(folder.path() / "adapter/adapter_model.safetensors", config);
      EXPECT_EQ(from_file.values, lora.values);
    }
  }
}

TEST(Peft, ReplacesAnAdapterButNothingElse) {
  const TemporaryFolder folder;
  const ModelConfig config = small_config();
  const fs::path target = folder.path() / "adapter";
  write_peft(target, example(LoraLayout(config, {.rank = 2})), "base");
  write_file_atomically(target / "README.md", "my model card");
  write_peft(target, example(LoraLayout(config, {.rank = 3})), "base");
  EXPECT_EQ(read_peft(target, config).layout->spec().rank, 3);
  EXPECT_EQ(read_file(target / "README.md"), "my model card");
  write_file_atomically(target / "notes.txt", "mine");
  EXPECT_THAT(error_of([&] { write_peft(target, example(LoraLayout(config, {.rank = 2})), "base"); }),
              AllOf(HasSubstr("cannot write"), HasSubstr(target.string())));
  EXPECT_EQ(read_file(target / "notes.txt"), "mine");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);
}

// An adapter folder on disk, with changes to its configuration and its tensors.
struct Folder {
  TemporaryFolder folder;
  json config;
  std::map<std::string, std::vector<std::int64_t>> shapes;
  std::map<std::string, std::vector<float>> values;

  explicit Folder(const LoraSpec& spec = {.rank = 2, .alpha = 8, .targets = {Projection::q, Projection::v}}) {
    const fs::path path = folder.path() / "adapter";
    write_peft(path, example(LoraLayout(small_config(), spec)), "base");
    config = json::parse(read_file(path / "adapter_config.json"));
    config["target_modules"] = {"q_proj", "v_proj"};
    const Safetensors file = Safetensors::open(path / "adapter_model.safetensors");
    for (const StoredTensor& tensor : file.tensors()) {
      shapes[tensor.name] = tensor.shape;
      values[tensor.name].resize(static_cast<std::size_t>(tensor.elements()));
      tensor.copy_to(values[tensor.name]);
    }
  }
  void rename(const std::string& from, const std::string& to) {
    ASSERT_EQ(shapes.count(from), 1U) << from;
    shapes[to] = shapes[from];
    values[to] = values[from];
    remove(from);
  }
  void remove(const std::string& name) {
    ASSERT_EQ(shapes.erase(name), 1U) << name;
    values.erase(name);
  }
  Lora read(StoredType type = StoredType::f32, const ModelConfig& model = small_config()) const {
    const fs::path path = folder.path() / "adapter";
    write_file_atomically(path / "adapter_config.json", config.dump());
    std::vector<NamedTensor> tensors;
    for (const auto& [name, shape] : shapes) {
      tensors.push_back({name, type, shape, std::as_bytes(std::span(values.at(name)))});
    }
    write_safetensors(path / "adapter_model.safetensors", tensors);
    return read_peft(path, model);
  }
};

constexpr const char* kFirstA =
    "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight";
constexpr const char* kFirstB =
    "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_B.weight";

// Half a terabyte by r and the model, and nothing in the file.
TEST(Peft, RanksAloneClaimNoMemory) {
  constexpr std::int64_t kWidth = std::int64_t{1} << 18;
  ModelConfig model;
  model.text = {
      .hidden = kWidth, .layers = 3, .heads = 1, .kv_heads = 1, .head_dim = kWidth, .intermediate = kWidth};
  Folder folder;
  folder.config["r"] = kMaxLoraRank;
  for (auto& [key, shape] : folder.shapes) {
    const bool a = key.find("lora_A") != std::string::npos;
    shape = {a ? kMaxLoraRank : 0, a ? 0 : kMaxLoraRank};
    folder.values[key].clear();
  }
  EXPECT_THAT(error_of([&] { folder.read(StoredType::f32, model); }), HasSubstr("has the shape [65536, 0]"));
}

TEST(Peft, ReadsEverySpellingOfTargets) {
  const std::vector<std::pair<const char*, json>> spellings{
      {"list", {"q_proj", "v_proj"}},
      {"longer names", {"self_attn.q_proj", "self_attn.v_proj"}},
      {"expression", R"(.*language_model\.layers\.\d+\.self_attn\.(q|v)_proj)"},
      {"non-capturing", R"(.*\.layers\.[0-9]+\.(?:self_attn\.q_proj|self_attn.v_proj)$)"},
      {"old expression", R"(model\.layers\.\d+\.self_attn\.[qv]_proj)"},
      {"look-ahead, which is not evaluated", R"(^(?!.*visual).*(?:q_proj|v_proj).*)"}};
  for (const auto& [name, target] : spellings) {
    Folder folder;
    folder.config["target_modules"] = target;
    EXPECT_EQ(folder.read().layout->modules().size(), 6U) << name;
  }
  Folder partial;
  partial.config["layers_to_transform"] = {0, 2};
  for (const char* module : {"q_proj", "v_proj"}) {
    for (const char* part : {"A", "B"}) {
      partial.remove(fmt::format("base_model.model.model.language_model.layers.1.self_attn.{}.lora_{}.weight",
                                 module, part));
    }
  }
  EXPECT_EQ(partial.read().layout->modules().size(), 4U);
}

TEST(Peft, PatternsGiveRankAndScale) {
  Folder folder;
  folder.config["alpha_pattern"] = {{"v_proj", 32}, {R"(layers\.1\.self_attn\.q_proj)", 5}};
  const Lora lora = folder.read();
  EXPECT_EQ(lora.layout->find(0, Projection::q)->scale, 4.0F);
  EXPECT_EQ(lora.layout->find(1, Projection::q)->scale, 2.5F);
  EXPECT_EQ(lora.layout->find(1, Projection::v)->scale, 16.0F);
  folder.config["use_rslora"] = true;
  EXPECT_EQ(folder.read().layout->find(0, Projection::q)->scale, static_cast<float>(8 / std::sqrt(2.0)));
}

TEST(Peft, IgnoresFieldsThatChangeNothing) {
  Folder folder;
  folder.config["task_type"] = nullptr;
  folder.config["auto_mapping"] = {{"base_model_class", "X"}};
  folder.config["loftq_config"] = json::object();
  folder.config["megatron_core"] = "megatron.core";
  folder.config["qalora_group_size"] = 16;
  folder.config["invented_later"] = 3;
  folder.config["init_lora_weights"] = "gaussian";
  EXPECT_EQ(folder.read().layout->modules().size(), 6U);
}

// ---- parts on frozen modules ----

// Of PEFT on q_proj and gate_proj: the vision tower's MLP has a gate_proj as well.
struct VisionFolder : Folder {
  VisionFolder() : Folder({.rank = 2, .alpha = 8, .targets = {Projection::q, Projection::gate}}) {
    config["target_modules"] = {"q_proj", "gate_proj"};
    for (const char* block : {"0", "1"}) {
      add(std::string("base_model.model.model.visual.blocks.") + block + ".mlp.gate_proj", {2, 8}, {10, 2});
    }
  }
  void add(const std::string& module, std::vector<std::int64_t> a, std::vector<std::int64_t> b) {
    for (const auto& [part, shape] : {std::pair(".lora_A.weight", a), std::pair(".lora_B.weight", b)}) {
      std::size_t count = 1;
      for (const std::int64_t width : shape) count *= static_cast<std::size_t>(width);
      shapes[module + part] = shape;
      values[module + part].assign(count, 0.0F);
      for (std::size_t i = 0; i < count; ++i) values[module + part][i] = static_cast<float>(i) + 0.5F;
    }
  }
  // Every key by `change`.
  void rename_all(const std::function<std::string(std::string)>& change) {
    const auto names = shapes;
    for (const auto& [name, shape] : names) {
      if (const std::string other = change(name); other != name) rename(name, other);
    }
  }
};

constexpr const char* kVisionA = "base_model.model.model.visual.blocks.1.mlp.gate_proj.lora_A.weight";

TEST(PeftOnFrozenModules, IsReadUnderEverySpelling) {
  const VisionFolder folder;
  const Lora lora = folder.read();
  EXPECT_EQ(lora.layout->modules().size(), 6U);
  ASSERT_NE(lora.frozen, nullptr);
  ASSERT_EQ(lora.frozen->parts.size(), 2U);
  const FrozenPart* part = lora.frozen->find("visual.blocks.1.mlp.gate_proj");
  ASSERT_NE(part, nullptr);
  EXPECT_EQ(part->rank, 2);
  EXPECT_EQ(part->scale, 4.0F);
  EXPECT_EQ(part->a, folder.values.at(kVisionA));

  const auto replace = [](std::string text, const std::string& from, const std::string& to) {
    const std::size_t at = text.find(from);
    return at == std::string::npos ? text : text.replace(at, from.size(), to);
  };
  const std::vector<std::function<std::string(std::string)>> spellings{
      [&](const std::string& key) { return replace(key, ".weight", ".default.weight"); },
      [&](const std::string& key) { return replace(key, ".weight", ".my-adapter_2.weight"); },
      [&](const std::string& key) {
        return replace(replace(key, ".model.visual.", ".visual."), ".language_model.", ".");
      },
      [&](const std::string& key) {
        return replace(replace(replace(key, ".model.visual.", ".visual."), ".language_model.", "."),
                       ".weight", ".default.weight");
      }};
  for (const auto& spelling : spellings) {
    VisionFolder other;
    other.rename_all(spelling);
    EXPECT_EQ(digest_of(other.read()), digest_of(lora)) << other.shapes.begin()->first;
  }
}

TEST(PeftOnFrozenModules, ComesBackAsItWas) {
  for (const bool old_names : {false, true}) {
    VisionFolder folder;
    folder.config["rank_pattern"] = {{"visual.blocks.1.mlp.gate_proj", 3}};
    folder.config["alpha_pattern"] = {{R"(visual\.blocks\.\d+\.mlp\.gate_proj)", 5}};
    folder.add("base_model.model.model.visual.blocks.1.mlp.gate_proj", {3, 8}, {10, 3});
    folder.config["target_modules"] = {"q_proj", "gate_proj", "merger.mlp.2", "patch_embed.proj", "lm_head"};
    folder.add("base_model.model.model.visual.merger.mlp.2", {2, 32}, {12, 2});
    folder.add("base_model.model.model.visual.patch_embed.proj", {2, 3, 2, 2, 2}, {8, 2, 1, 1, 1});
    folder.add("base_model.model.lm_head", {2, 12}, {30, 2});
    const Lora lora = folder.read();
    ASSERT_EQ(lora.frozen->parts.size(), 5U);
    EXPECT_EQ(lora.frozen->find("visual.blocks.0.mlp.gate_proj")->scale, 2.5F);
    EXPECT_EQ(lora.frozen->find("visual.blocks.1.mlp.gate_proj")->scale, static_cast<float>(5.0 / 3.0));
    EXPECT_EQ(lora.frozen->find("lm_head")->scale, 4.0F);
    const TemporaryFolder out;
    write_peft(out.path() / "again", lora, "base", old_names);
    const Lora again = read_peft(out.path() / "again", small_config());
    EXPECT_EQ(digest_of(again), digest_of(lora));
    EXPECT_TRUE(same_parts(again, lora));
    const Safetensors file = Safetensors::open(out.path() / "again/adapter_model.safetensors");
    EXPECT_EQ(file.has("base_model.model.visual.merger.mlp.2.lora_B.weight"), old_names);
    EXPECT_EQ(file.tensors().size(), folder.shapes.size());
    if (!old_names) {
      for (const StoredTensor& tensor : file.tensors())
        EXPECT_EQ(tensor.shape, folder.shapes.at(tensor.name)) << tensor.name;
    }
  }
}

TEST(PeftOnFrozenModules, FollowsTheConfigurationAsPeftDoes) {
  VisionFolder all;
  all.config["target_modules"] = "all-linear";
  EXPECT_THAT(error_of([&] { all.read(); }), HasSubstr("is missing"));  // there are more linear layers

  VisionFolder layers;
  layers.config["layers_to_transform"] = {1};
  for (const char* module :
       {"language_model.layers.0.self_attn.q_proj", "language_model.layers.0.mlp.gate_proj",
        "language_model.layers.2.self_attn.q_proj", "language_model.layers.2.mlp.gate_proj",
        "visual.blocks.0.mlp.gate_proj"}) {
    for (const char* part : {"A", "B"})
      layers.remove(fmt::format("base_model.model.model.{}.lora_{}.weight", module, part));
  }
  EXPECT_EQ(layers.read().frozen->parts.size(), 1U);
  layers.config["layers_pattern"] = "layers";  // the tower's list is called otherwise
  EXPECT_THAT(error_of([&] { layers.read(); }), HasSubstr("target_modules does not name it"));
  layers.config["layers_pattern"] = {"layers", "blocks"};
  EXPECT_EQ(layers.read().frozen->parts.size(), 1U);

  // An expression excludes the path that the keys have, not the older one.
  VisionFolder excluded;
  excluded.config["exclude_modules"] = R"(visual\..*)";
  EXPECT_EQ(excluded.read().frozen->parts.size(), 2U);
  excluded.config["exclude_modules"] = R"(.*visual\..*)";
  EXPECT_THAT(error_of([&] { excluded.read(); }), HasSubstr("target_modules does not name it"));

  // Only the tower.
  VisionFolder vision;
  vision.config["target_modules"] = R"(.*visual.*gate_proj)";
  for (const auto& [name, shape] : VisionFolder().shapes) {
    if (name.find("language_model") != std::string::npos) vision.remove(name);
  }
  const Lora lora = vision.read();
  EXPECT_EQ(lora.layout->size(), 0U);
  EXPECT_EQ(lora.frozen->parts.size(), 2U);
}

TEST(PeftOnFrozenModules, AreAllThereOrNone) {
  VisionFolder none;
  for (const auto& [name, shape] : VisionFolder().shapes) {
    if (name.find("visual") != std::string::npos) none.remove(name);
  }
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(none.read().frozen, nullptr);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("the tower stays unchanged"));
  VisionFolder half;
  half.remove(kVisionA);
  EXPECT_THAT(error_of([&] { half.read(); }),
              HasSubstr("model.visual.blocks.1.mlp.gate_proj.lora_A.weight is missing"));
  half.remove("base_model.model.model.visual.blocks.1.mlp.gate_proj.lora_B.weight");
  EXPECT_THAT(error_of([&] { half.read(); }),
              HasSubstr("model.visual.blocks.1.mlp.gate_proj.lora_A.weight is missing"));
}

TEST(PeftOnFrozenModules, RefusesOtherShapesAndValues) {
  VisionFolder other;
  other.shapes[kVisionA] = {2, 4};
  other.values[kVisionA].resize(8);
  EXPECT_THAT(
      error_of([&] { other.read(); }),
      AllOf(HasSubstr(kVisionA), HasSubstr("has the shape [2, 4], but the model and r require [2, 8]")));
  VisionFolder rank;
  rank.shapes[kVisionA] = {4, 4};
  EXPECT_THAT(error_of([&] { rank.read(); }), HasSubstr("r and rank_pattern give it the rank 2"));
  VisionFolder infinite;
  infinite.values[kVisionA][3] = INFINITY;
  EXPECT_THAT(error_of([&] { infinite.read(); }), AllOf(HasSubstr(kVisionA), HasSubstr("not finite")));
  VisionFolder tied;
  tied.config["target_modules"] = {"q_proj", "gate_proj", "lm_head"};
  tied.config["ensure_weight_tying"] = true;
  tied.add("base_model.model.lm_head", {2, 12}, {30, 2});
  EXPECT_THAT(error_of([&] { tied.read(); }), HasSubstr("merge it with PEFT first"));
}

TEST(PeftOnFrozenModules, KnowsCopiesOfTheModelsWeights) {
  VisionFolder folder;
  for (const char* key :
       {"base_model.model.lm_head.base_layer.weight", "base_model.model.model.embed_tokens.weight"}) {
    folder.shapes[key] = {30, 12};
    folder.values[key].assign(360, 1.0F);
  }
  const Lora lora = folder.read();
  ASSERT_EQ(lora.frozen->copies.size(), 2U);
  EXPECT_EQ(lora.frozen->parts.size(), 2U);
  EXPECT_EQ(lora.frozen->copies[0].weight, "lm_head.weight");
  EXPECT_EQ(lora.frozen->copies[1].weight, "model.embed_tokens.weight");
}

TEST(PeftOnFrozenModules, NeedNoModelToBeRead) {
  VisionFolder folder;
  folder.config["target_modules"] = {"q_proj",       "gate_proj",        "qkv",
                                     "merger.mlp.0", "patch_embed.proj", "lm_head"};
  for (const char* block : {"0", "1"})
    folder.add(std::string("base_model.model.model.visual.blocks.") + block + ".attn.qkv", {2, 8}, {24, 2});
  folder.add("base_model.model.model.visual.merger.mlp.0", {2, 32}, {32, 2});
  folder.add("base_model.model.model.visual.patch_embed.proj", {2, 3, 2, 2, 2}, {8, 2, 1, 1, 1});
  folder.add("base_model.model.lm_head", {2, 12}, {30, 2});
  const Lora lora = folder.read();
  const fs::path path = folder.folder.path() / "adapter";
  const ModelConfig config = config_of_adapter(read_peft_shapes(path), path.string());
  EXPECT_EQ(config.vision.depth, 2);
  EXPECT_EQ(digest_of(read_peft(path, config)), digest_of(lora));
}

struct Refusal {
  const char* name;
  std::function<void(Folder&)> change;
  const char* reason;
};

class PeftRefusal : public testing::TestWithParam<Refusal> {};

TEST_P(PeftRefusal, NamesFileAndReason) {
  Folder folder;
  GetParam().change(folder);
  const std::string message = error_of([&] { folder.read(); });
  EXPECT_THAT(message, AllOf(HasSubstr(folder.folder.path().string()), HasSubstr(GetParam().reason)));
}

std::function<void(Folder&)> with(const char* patch) {
  return [patch](Folder& folder) { folder.config.merge_patch(json::parse(patch)); };
}

INSTANTIATE_TEST_SUITE_P(
    All, PeftRefusal,
    testing::Values(
        Refusal{"NoType", with(R"({"peft_type": null})"), "peft_type is missing"},
        Refusal{"OtherType", with(R"({"peft_type": "LOHA"})"), "only LORA"},
        Refusal{"Dora", with(R"({"use_dora": true})"), "use_dora is true"},
        Refusal{"LoraBias", with(R"({"lora_bias": true})"), "lora_bias is true"},
        Refusal{"Bias", with(R"({"bias": "all"})"), "bias is \"all\""},
        Refusal{"Saved", with(R"({"modules_to_save": ["lm_head"]})"), "modules_to_save is [\"lm_head\"]"},
        Refusal{"Qalora", with(R"({"use_qalora": true})"), "use_qalora"},
        Refusal{"Bdlora", with(R"({"use_bdlora": {"nblocks": 2}})"), "use_bdlora"},
        Refusal{"Arrow", with(R"({"arrow_config": {"top_k": 1}})"), "arrow_config"},
        Refusal{"Eva", with(R"({"eva_config": {"rho": 2}})"), "eva_config"},
        Refusal{"Corda", with(R"({"corda_config": {"a": 2}})"), "corda_config"},
        Refusal{"Kasa", with(R"({"kasa_config": {"a": 2}})"), "kasa_config"},
        Refusal{"Velora", with(R"({"velora_config": {"a": 2}})"), "velora_config"},
        Refusal{"LoraGa", with(R"({"lora_ga_config": {"a": 2}})"), "lora_ga_config"},
        Refusal{"Monteclora", with(R"({"monteclora_config": {"a": 2}})"), "monteclora_config"},
        Refusal{"Megatron", with(R"({"megatron_config": {"a": 2}})"), "megatron_config"},
        Refusal{"Loftq", with(R"({"loftq_config": {"bits": 4}})"), "loftq_config"},
        Refusal{"Replication", with(R"({"layer_replication": [[0, 2]]})"), "layer_replication"},
        Refusal{"Parameters", with(R"({"target_parameters": ["x"]})"), "target_parameters"},
        Refusal{"Tokens", with(R"({"trainable_token_indices": [1]})"), "trainable_token_indices"},
        Refusal{"Alora", with(R"({"alora_invocation_tokens": [1]})"), "alora_invocation_tokens"},
        Refusal{"Pissa", with(R"({"init_lora_weights": "pissa_niter_16"})"), "changes the base weights"},
        Refusal{"Olora", with(R"({"init_lora_weights": "olora"})"), "changes the base weights"},
        Refusal{"NoTargets", with(R"({"target_modules": null})"), "target_modules is missing"},
        Refusal{"TargetsNumber", with(R"({"target_modules": 3})"), "target_modules is 3"},
        Refusal{"RankZero", with(R"({"r": 0})"), "r is 0"},
        Refusal{"RankText", with(R"({"r": "2"})"), "r is \"2\""},
        Refusal{"OtherRank", with(R"({"r": 4})"), "r and rank_pattern give it the rank 4"},
        Refusal{"RankHuge", with(R"({"r": 99999999})"), "r is 99999999"},
        Refusal{"RankPattern", with(R"({"rank_pattern": {"q_proj": 3}})"), "the rank 3"},
        Refusal{"RankFraction", with(R"({"rank_pattern": {"q_proj": 2.5}})"), "rank_pattern"},
        Refusal{"PatternValue", with(R"({"alpha_pattern": {"q_proj": "x"}})"),
                "alpha_pattern.q_proj is \"x\""},
        Refusal{"PatternBeyond", with(R"({"alpha_pattern": {"(?=q)q_proj": 3}})"),
                "alpha_pattern gives the key"},
        Refusal{"AlphaHuge", with(R"({"lora_alpha": 1e300})"), "the scale inf"},
        Refusal{"Dropout", with(R"({"lora_dropout": 1.0})"), "lora_dropout is 1.0"},
        Refusal{"TargetsMore", with(R"({"target_modules": ["q_proj", "v_proj", "k_proj"]})"),
                "model.language_model.layers.0.self_attn.k_proj.lora_A.weight is missing"},
        Refusal{"TargetsFewer", with(R"({"target_modules": ["q_proj"]})"), "target_modules does not name it"},
        Refusal{"Excluded", with(R"({"exclude_modules": ["language_model.layers.1.self_attn.q_proj"]})"),
                "target_modules does not name it"},
        Refusal{"MissingA", [](Folder& folder) { folder.remove(kFirstA); },
                "q_proj.lora_A.weight is missing"},
        Refusal{"MissingB", [](Folder& folder) { folder.remove(kFirstB); },
                "q_proj.lora_B.weight is missing"},
        Refusal{"MissingPair",
                [](Folder& folder) {
                  folder.remove(kFirstA);
                  folder.remove(kFirstB);
                },
                "layers.0.self_attn.q_proj.lora_A.weight is missing"},
        Refusal{"Nothing",
                [](Folder& folder) {
                  folder.shapes.clear();
                  folder.config["target_modules"] = "nothing";
                },
                "it has no tensors"},
        Refusal{"NoSuchVisionModule",
                [](Folder& folder) {
                  folder.rename(kFirstA, "base_model.model.model.visual.blocks.0.norm1.lora_A.weight");
                },
                "merge the adapter with PEFT first"},
        Refusal{"VisionLeadingZero",
                [](Folder& folder) {
                  folder.rename(kFirstA, "base_model.model.model.visual.blocks.00.attn.qkv.lora_A.weight");
                },
                "is unexpected"},
        Refusal{"VisionBeyond",
                [](Folder& folder) {
                  folder.rename(kFirstA, "base_model.model.model.visual.blocks.2.attn.qkv.lora_A.weight");
                },
                "is for vision block 2, but the model has 2"},
        Refusal{"Embedding",
                [](Folder& folder) {
                  folder.rename(kFirstA,
                                "base_model.model.model.language_model.embed_tokens.lora_embedding_A.weight");
                },
                "merge the adapter with PEFT first"},
        Refusal{"Magnitude",
                [](Folder& folder) {
                  folder.rename(kFirstA,
                                "base_model.model.model.language_model.layers.0.self_attn.q_proj."
                                "lora_magnitude_vector.weight");
                },
                "merge the adapter with PEFT first"},
        Refusal{"TwoAdapterNames",
                [](Folder& folder) {
                  const std::string named =
                      "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.other.weight";
                  folder.shapes[named] = folder.shapes[kFirstA];
                  folder.values[named] = folder.values[kFirstA];
                },
                "are the same"},
        Refusal{"EmptyAdapterName",
                [](Folder& folder) {
                  folder.rename(
                      kFirstA,
                      "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A..weight");
                },
                "is unexpected"},
        Refusal{"DottedAdapterName",
                [](Folder& folder) {
                  folder.rename(
                      kFirstA,
                      "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.a.b.weight");
                },
                "is unexpected"},
        Refusal{"LeadingZero",
                [](Folder& folder) {
                  folder.rename(
                      kFirstA,
                      "base_model.model.model.language_model.layers.00.self_attn.q_proj.lora_A.weight");
                },
                "is unexpected"},
        Refusal{"LayerNegative",
                [](Folder& folder) {
                  for (const char part : {'A', 'B'}) {
                    const std::string spelled = fmt::format("self_attn.q_proj.lora_{}.weight", part);
                    folder.rename("base_model.model.model.language_model.layers.0." + spelled,
                                  "base_model.model.model.language_model.layers.-1." + spelled);
                  }
                },
                "layers.-1.self_attn.q_proj.lora_A.weight\" is unexpected"},
        Refusal{"LayerBeyond",
                [](Folder& folder) {
                  folder.rename(
                      kFirstA,
                      "base_model.model.model.language_model.layers.3.self_attn.q_proj.lora_A.weight");
                },
                "is for layer 3, but the model has 3"},
        Refusal{"LayerHuge",
                [](Folder& folder) {
                  folder.rename(
                      kFirstA,
                      "base_model.model.model.layers.99999999999999999999.self_attn.q_proj.lora_A.weight");
                },
                "is unexpected"},
        Refusal{"BothNames",
                [](Folder& folder) {
                  const std::string old = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
                  folder.shapes[old] = folder.shapes[kFirstA];
                  folder.values[old] = folder.values[kFirstA];
                },
                "are the same"},
        Refusal{"OtherModel",
                [](Folder& folder) {
                  folder.shapes[kFirstA] = {2, 6};
                  folder.values[kFirstA].resize(12);
                },
                "has the shape [2, 6], but the model and r require [2, 12]"},
        Refusal{"Transposed",
                [](Folder& folder) {
                  folder.shapes[kFirstB] = {2, 12};
                },
                "require [12, 2]"},
        Refusal{"NotFinite", [](Folder& folder) { folder.values[kFirstB][3] = std::nanf(""); },
                "not finite"}),
    [](const auto& row) { return row.param.name; });

TEST(Peft, NamesMissingAndBrokenFiles) {
  Folder folder;
  EXPECT_THAT(error_of([&] { folder.read(StoredType::i32); }), HasSubstr("has the dtype I32"));
  const fs::path path = folder.folder.path() / "adapter";
  fs::resize_file(path / "adapter_model.safetensors", 100);
  EXPECT_THAT(error_of([&] { read_peft(path, small_config()); }), HasSubstr("adapter_model.safetensors"));
  fs::remove(path / "adapter_model.safetensors");
  EXPECT_THAT(error_of([&] { read_peft(path, small_config()); }),
              HasSubstr("it has no adapter_model.safetensors"));
  fs::remove(path / "adapter_config.json");
  EXPECT_THAT(error_of([&] { read_peft(path / "adapter_model.safetensors", small_config()); }),
              HasSubstr("adapter_config.json"));
}

TEST(Peft, ReadsTheGoldenAdapters) {
  BIQA_REQUIRE_SHARED(shared);
  struct Golden {
    const char *adapter, *model;
    std::size_t modules;
  };
  for (const Golden& golden :
       {Golden{"flat-tied-all", "flat-tied", 21}, Golden{"nested-qv", "nested-sharded", 4},
        Golden{"seven-rslora", "seven-bf16", 14}, Golden{"both-old-names", "both-tied", 14},
        Golden{"partial-attention", "partial-vision", 8}}) {
    const fs::path path = shared / "golden/adapters" / golden.adapter;
    const ModelConfig config = ModelConfig::load(shared / "golden/models" / golden.model);
    const Lora lora = read_peft(path, config);
    EXPECT_EQ(lora.layout->modules().size(), golden.modules) << golden.adapter;

    // Written again, it is the same file. BIQA_KEEP_ADAPTERS names a folder for tests/scripts/check_peft.py to read.
    const TemporaryFolder temporary;
    const char* kept = std::getenv("BIQA_KEEP_ADAPTERS");
    const fs::path written = (kept != nullptr ? fs::path(kept) : temporary.path()) / golden.adapter;
    const bool old_names = std::string(golden.adapter) == "both-old-names";
    write_peft(written, lora, "base", old_names);
    EXPECT_EQ(file_content(written / "adapter_model.safetensors"),
              file_content(path / "adapter_model.safetensors"))
        << golden.adapter;
    EXPECT_EQ(digest_of(read_peft(written, config)), digest_of(lora)) << golden.adapter;
  }
  const Lora partial = read_peft(shared / "golden/adapters/partial-attention",
                                 ModelConfig::load(shared / "golden/models/partial-vision"));
  EXPECT_EQ(partial.layout->find(0, Projection::q)->scale, 4.0F);
  EXPECT_EQ(partial.layout->find(0, Projection::k)->scale, 8.0F);
  EXPECT_EQ(partial.layout->find(1, Projection::o)->rank, 2);
  EXPECT_EQ(partial.layout->find(1, Projection::o)->scale, 8.0F);
  EXPECT_THAT(error_of([&] {
                read_peft(shared / "golden/adapters/flat-tied-all",
                          ModelConfig::load(shared / "golden/models/seven-bf16"));
              }),
              HasSubstr("belongs to another model"));
}

}  // namespace
}  // namespace biqa
