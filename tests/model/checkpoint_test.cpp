// SPDX-License-Identifier: Apache-2.0
#include "model/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/error.h"
#include "support/shared_folder.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

using testing::AllOf;
using testing::HasSubstr;
namespace fs = std::filesystem;

ModelConfig small_config(bool tied) {
  ModelConfig config;
  config.text = {
      .hidden = 8, .layers = 2, .heads = 2, .kv_heads = 1, .head_dim = 4, .intermediate = 6, .vocab = 10};
  config.text.mrope_section = {1, 1, 0};
  config.text.tied = tied;
  config.vision.hidden = 8;
  config.vision.depth = 1;
  config.vision.heads = 2;
  config.vision.intermediate = 4;
  config.vision.out_hidden = 8;
  config.vision.patch = 2;
  return config;
}

// A folder under construction: tensors by stored name, all values of a tensor equal to its number.
struct Folder {
  std::map<std::string, std::vector<std::int64_t>> shapes;
  std::map<std::string, std::vector<float>> values;
  StoredType type = StoredType::f32;

  Folder(const ModelConfig& config, bool with_head) {
    float number = 0;
    for (const ExpectedTensor& tensor : expected_tensors(config, with_head))
      add(tensor.name, tensor.shape, ++number);
  }
  void add(const std::string& name, const std::vector<std::int64_t>& shape, float value) {
    shapes[name] = shape;
    values[name].assign(static_cast<std::size_t>(std::accumulate(shape.begin(), shape.end(), std::int64_t{1},
                                                                 std::multiplies<>())),
                        value);
  }
  void remove(const std::string& name) {
    ASSERT_EQ(shapes.erase(name), 1U) << name;
    values.erase(name);
  }
  void rename(const std::function<std::string(const std::string&)>& change) {
    Folder renamed = *this;
    renamed.shapes.clear();
    renamed.values.clear();
    for (const auto& [name, shape] : shapes) {
      renamed.shapes[change(name)] = shape;
      renamed.values[change(name)] = values[name];
    }
    *this = renamed;
  }
  void write(const fs::path& file, const std::function<bool(const std::string&)>& wanted) const {
    std::vector<NamedTensor> tensors;
    for (const auto& [name, shape] : shapes) {
      if (wanted(name)) tensors.push_back({name, type, shape, std::as_bytes(std::span(values.at(name)))});
    }
    write_safetensors(file, tensors);
  }
  void write(const fs::path& file) const {
    write(file, [](const std::string&) { return true; });
  }
  // Two shards, text in the second one; `change` may spoil the index.
  void write_sharded(const fs::path& folder, const std::function<void(nlohmann::json&)>& change = {}) const {
    const auto is_text = [](const std::string& name) { return name.find("layers") != std::string::npos; };
    write(folder / "model-00001-of-00002.safetensors",
          [&](const std::string& name) { return !is_text(name); });
    write(folder / "model-00002-of-00002.safetensors", is_text);
    nlohmann::json index{{"metadata", {{"total_size", 0}}}};
    for (const auto& [name, shape] : shapes) {
      index["weight_map"][name] =
          is_text(name) ? "model-00002-of-00002.safetensors" : "model-00001-of-00002.safetensors";
    }
    if (change) change(index);
    write_file_atomically(folder / "model.safetensors.index.json", index.dump(2));
  }
};

float first_value(const Checkpoint& checkpoint, const std::string& name) {
  const StoredTensor& tensor = checkpoint.tensor(name);
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  tensor.copy_to(values);
  return values.at(0);
}

TEST(Checkpoint, ReadsASingleFile) {
  const TemporaryFolder folder;
  const ModelConfig config = small_config(false);
  const Folder content(config, true);
  content.write(folder.path() / "model.safetensors");
  const Checkpoint checkpoint = Checkpoint::open(folder.path(), config);
  EXPECT_FALSE(checkpoint.tied());
  EXPECT_EQ(checkpoint.names().size(), expected_tensors(config, true).size());
  EXPECT_EQ(checkpoint.bytes(), static_cast<std::size_t>(config.total_parameters()) * 4);
  EXPECT_EQ(checkpoint.files().size(), 1U);
  EXPECT_TRUE(checkpoint.has("lm_head.weight"));
  EXPECT_EQ(first_value(checkpoint, "visual.patch_embed.proj.weight"), 1.0F);
}

// Every naming scheme gives the same canonical checkpoint, from one file or from shards.
TEST(Checkpoint, NormalisesNames) {
  const std::map<std::string, std::function<std::string(const std::string&)>> schemes{
      {"A", [](const std::string& name) { return name; }},
      {"B",
       [](const std::string& name) {
         if (name.rfind("visual.", 0) == 0) return "model." + name;
         if (name.rfind("model.", 0) == 0) return "model.language_model." + name.substr(6);
         return name;
       }},
      {"C", [](const std::string& name) {
         return name.rfind("model.", 0) == 0 ? "language_model." + name.substr(6) : name;
       }}};
  const ModelConfig config = small_config(true);
  const Folder original(config, false);
  for (const auto& [scheme, change] : schemes) {
    for (const bool sharded : {false, true}) {
      Folder content = original;
      content.rename(change);
      const TemporaryFolder folder;
      if (sharded)
        content.write_sharded(folder.path());
      else
        content.write(folder.path() / "model.safetensors");
      const Checkpoint checkpoint = Checkpoint::open(folder.path(), config);
      EXPECT_TRUE(checkpoint.tied());
      EXPECT_EQ(checkpoint.files().size(), sharded ? 2U : 1U);
      for (const auto& [name, values] : original.values) {
        EXPECT_EQ(first_value(checkpoint, name), values[0]) << scheme << " " << name;
      }
    }
  }
}

TEST(Checkpoint, HeadIsTiedWhereItEqualsTheEmbedding) {
  const ModelConfig config = small_config(true);
  Folder content(config, true);
  const TemporaryFolder folder;
  content.write(folder.path() / "model.safetensors");
  const Checkpoint different = Checkpoint::open(folder.path(), config);
  EXPECT_FALSE(different.tied());
  EXPECT_TRUE(different.has("lm_head.weight"));

  content.values["lm_head.weight"] = content.values["model.embed_tokens.weight"];
  content.write(folder.path() / "model.safetensors");
  const Checkpoint equal = Checkpoint::open(folder.path(), config);
  EXPECT_TRUE(equal.tied());
  EXPECT_FALSE(equal.has("lm_head.weight"));
}

TEST(Checkpoint, SurvivesItsCopiesAndMoves) {
  const TemporaryFolder folder;
  const ModelConfig config = small_config(true);
  Folder(config, false).write(folder.path() / "model.safetensors");
  auto first = std::make_unique<Checkpoint>(Checkpoint::open(folder.path(), config));
  const Checkpoint copy = *first;
  first.reset();
  EXPECT_EQ(first_value(copy, "visual.patch_embed.proj.weight"), 1.0F);
}

struct Refusal {
  const char* name;
  std::function<void(const fs::path&)> write;
  const char* reason;
};

class CheckpointRefusal : public testing::TestWithParam<Refusal> {};

TEST_P(CheckpointRefusal, NamesFolderAndReason) {
  const TemporaryFolder folder;
  GetParam().write(folder.path());
  const std::string message = error_of([&] { Checkpoint::open(folder.path(), small_config(false)); });
  EXPECT_THAT(message, AllOf(HasSubstr(folder.path().string()), HasSubstr(GetParam().reason)));
}

// Writes one file after a change to the tensors.
std::function<void(const fs::path&)> with(const std::function<void(Folder&)>& change) {
  return [change](const fs::path& folder) {
    Folder content(small_config(false), true);
    change(content);
    content.write(folder / "model.safetensors");
  };
}
// Writes shards after a change to the index.
std::function<void(const fs::path&)> with_index(const std::function<void(nlohmann::json&)>& change) {
  return
      [change](const fs::path& folder) { Folder(small_config(false), true).write_sharded(folder, change); };
}

const char* const kNorm = "model.norm.weight";

INSTANTIATE_TEST_SUITE_P(
    All, CheckpointRefusal,
    testing::Values(
        Refusal{"EmptyFolder", [](const fs::path&) {},
                "neither model.safetensors nor model.safetensors.index.json"},
        Refusal{"Missing", with([](Folder& content) { content.remove("visual.merger.mlp.0.bias"); }),
                "1 of 45 tensors are missing, visual.merger.mlp.0.bias first"},
        Refusal{"HeadMissing", with([](Folder& content) { content.remove("lm_head.weight"); }),
                "lm_head.weight first"},
        Refusal{"Unexpected", with([](Folder& content) {
                  content.add("model.layers.2.mlp.up_proj.weight", {6, 8}, 1);
                }),
                "config.json does not expect tensor \"model.layers.2.mlp.up_proj.weight\""},
        Refusal{"Shape", with([](Folder& content) { content.add(kNorm, {9}, 1); }),
                "\"model.norm.weight\" has the shape [9], but config.json requires [8]"},
        Refusal{"Transposed", with([](Folder& content) {
                  content.add("model.layers.0.mlp.up_proj.weight", {8, 6}, 1);
                }),
                "[8, 6]"},
        Refusal{"Twice",
                with([](Folder& content) { content.add("model.language_model.norm.weight", {8}, 1); }),
                "stand for the same weight"},
        Refusal{"Type", with([](Folder& content) { content.type = StoredType::i32; }), "has the dtype I32"},
        Refusal{"TruncatedFile",
                [](const fs::path& folder) {
                  const fs::path file = folder / "model.safetensors";
                  Folder(small_config(false), true).write(file);
                  fs::resize_file(file, fs::file_size(file) / 2);
                },
                "model.safetensors"},
        Refusal{"ShardMissing",
                [](const fs::path& folder) {
                  Folder(small_config(false), true).write_sharded(folder);
                  fs::remove(folder / "model-00002-of-00002.safetensors");
                },
                "the shard model-00002-of-00002.safetensors is missing"},
        Refusal{"NotInShard", with_index([](nlohmann::json& index) {
                  index["weight_map"]["model.extra"] = "model-00001-of-00002.safetensors";
                }),
                "\"model.extra\" is not in"},
        Refusal{"NotInIndex", with_index([](nlohmann::json& index) { index["weight_map"].erase(kNorm); }),
                "is not in the index"},
        Refusal{"WrongShard", with_index([](nlohmann::json& index) {
                  index["weight_map"][kNorm] = "model-00002-of-00002.safetensors";
                }),
                "but the index says"},
        Refusal{"ShardElsewhere",
                with_index([](nlohmann::json& index) { index["weight_map"][kNorm] = "../x.safetensors"; }),
                "is not the plain name of a .safetensors file in the same folder"},
        Refusal{"ShardAbsolute",
                with_index([](nlohmann::json& index) { index["weight_map"][kNorm] = "/etc/x.safetensors"; }),
                "is not the plain name of"},
        Refusal{"ShardOtherFile",
                with_index([](nlohmann::json& index) { index["weight_map"][kNorm] = "passwd"; }),
                "is not the plain name of"},
        Refusal{"ShardNoText", with_index([](nlohmann::json& index) { index["weight_map"][kNorm] = 7; }),
                "weight_map.model.norm.weight is 7"},
        Refusal{"NoMap", with_index([](nlohmann::json& index) { index.erase("weight_map"); }),
                "weight_map is missing"},
        Refusal{"MapNoObject", with_index([](nlohmann::json& index) { index["weight_map"] = "x"; }),
                "not an object"}),
    [](const auto& row) { return row.param.name; });

TEST(Checkpoint, OpensTheGoldenModels) {
  BIQA_REQUIRE_SHARED(shared);
  const std::map<std::string, bool> tied{{"flat-tied", true},
                                         {"nested-sharded", false},
                                         {"seven-bf16", false},
                                         {"partial-vision", false},
                                         {"both-tied", true}};
  for (const auto& [name, expected] : tied) {
    const fs::path path = shared / "golden/models" / name;
    const ModelConfig config = ModelConfig::load(path);
    const Checkpoint checkpoint = Checkpoint::open(path, config);
    EXPECT_EQ(checkpoint.tied(), expected) << name;
    EXPECT_EQ(checkpoint.files().size(), name == "nested-sharded" ? 3U : 1U);
    const StoredTensor& norm = checkpoint.tensor(kNorm);
    EXPECT_EQ(norm.type,
              name == "flat-tied" || name == "nested-sharded" ? StoredType::f32 : StoredType::bf16);
  }
  const ModelConfig tiny = ModelConfig::load(shared / "tiny/model");
  EXPECT_TRUE(Checkpoint::open(shared / "tiny/model", tiny).tied());
}

}  // namespace
}  // namespace biqa
