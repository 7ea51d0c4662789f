// SPDX-License-Identifier: Apache-2.0
#include "model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <numeric>

#include "core/error.h"
#include "model/checkpoint.h"
#include "support/shared_folder.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

// The original layout, all fields stated.
json flat_config() {
  return json::parse(R"({
    "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl",
    "bos_token_id": 90, "eos_token_id": 92, "vision_start_token_id": 93, "vision_end_token_id": 94,
    "vision_token_id": 95, "image_token_id": 96, "video_token_id": 97,
    "hidden_act": "silu", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "vocab_size": 100, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
    "rope_theta": 50000.0, "tie_word_embeddings": true, "sliding_window": 4096, "use_sliding_window": false,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "vision_config": {"hidden_act": "silu", "hidden_size": 32, "depth": 4, "num_heads": 2, "intermediate_size": 40,
      "out_hidden_size": 64, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 56,
      "in_chans": 3, "fullatt_block_indexes": [1, 3]}})");
}

ModelConfig load(const json& config, const std::string& generation = "") {
  const TemporaryFolder folder;
  folder.write("config.json", config.dump());
  if (!generation.empty()) folder.write("generation_config.json", generation);
  return ModelConfig::load(folder.path());
}

TEST(ModelConfig, ReadsTheFlatLayout) {
  const ModelConfig config = load(flat_config());
  EXPECT_EQ(config.text.hidden, 64);
  EXPECT_EQ(config.text.layers, 3);
  EXPECT_EQ(config.text.heads, 4);
  EXPECT_EQ(config.text.kv_heads, 2);
  EXPECT_EQ(config.text.head_dim, 16);
  EXPECT_EQ(config.text.intermediate, 96);
  EXPECT_EQ(config.text.vocab, 100);
  EXPECT_EQ(config.text.rms_eps, 1e-6F);
  EXPECT_EQ(config.text.rope_theta, 50000.0);
  EXPECT_THAT(config.text.mrope_section, ElementsAre(2, 3, 3));
  EXPECT_EQ(config.text.max_position, 4096);
  EXPECT_TRUE(config.text.tied);
  EXPECT_EQ(config.vision.hidden, 32);
  EXPECT_EQ(config.vision.depth, 4);
  EXPECT_EQ(config.vision.heads, 2);
  EXPECT_EQ(config.vision.intermediate, 40);
  EXPECT_EQ(config.vision.window, 56);
  EXPECT_THAT(config.vision.full_attention_blocks, ElementsAre(1, 3));
  EXPECT_EQ(config.image_token, 96);
  EXPECT_EQ(config.video_token, 97);
  EXPECT_EQ(config.vision_start, 93);
  EXPECT_EQ(config.vision_end, 94);
  EXPECT_EQ(config.vision_pad, 95);
  EXPECT_EQ(config.pad_token, 90);
  EXPECT_THAT(config.end_tokens, ElementsAre(92));
}

json nested_config() {
  json outer = flat_config();
  json inner = json::object();
  for (const char* key :
       {"hidden_act", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "intermediate_size", "vocab_size", "max_position_embeddings", "rms_norm_eps", "sliding_window",
        "use_sliding_window", "bos_token_id", "eos_token_id"}) {
    inner[key] = outer[key];
    outer.erase(key);
  }
  outer.erase("rope_theta");
  outer.erase("rope_scaling");
  inner["model_type"] = "qwen2_5_vl_text";
  inner["layer_types"] = {"full_attention", "full_attention", "full_attention"};
  inner["rope_parameters"] = {
      {"mrope_section", {2, 3, 3}}, {"rope_theta", 50000.0}, {"rope_type", "default"}, {"type", "mrope"}};
  outer["text_config"] = inner;
  outer["vision_config"]["in_channels"] = 3;
  outer["vision_config"]["rope_parameters"] = {{"rope_theta", 20000.0}, {"rope_type", "axial"}};
  return outer;
}

TEST(ModelConfig, ReadsTheNestedLayout) {
  const ModelConfig config = load(nested_config());
  EXPECT_EQ(config.text.hidden, 64);
  EXPECT_EQ(config.text.rope_theta, 50000.0);
  EXPECT_EQ(config.vision.rope_theta, 20000.0);
  EXPECT_THAT(config.text.mrope_section, ElementsAre(2, 3, 3));
  EXPECT_THAT(config.end_tokens, ElementsAre(92));
  EXPECT_EQ(config.pad_token, 90);
}

// Both copies: text_config wins unless it says null; for token ids the top level wins.
TEST(ModelConfig, ReadsBothCopies) {
  json both = flat_config();
  both["text_config"] = {{"hidden_size", 128},
                         {"image_token_id", nullptr},
                         {"video_token_id", 5},
                         {"vocab_size", nullptr},
                         {"intermediate_size", 100},
                         {"tie_word_embeddings", false},
                         {"rope_scaling", {{"rope_type", "default"}, {"mrope_section", {4, 6, 6}}}}};
  both["vision_config"]["out_hidden_size"] = 128;
  const ModelConfig config = load(both);
  EXPECT_EQ(config.text.hidden, 128);
  EXPECT_EQ(config.text.head_dim, 32);
  EXPECT_EQ(config.text.vocab, 100);
  EXPECT_EQ(config.text.intermediate, 100);
  EXPECT_EQ(config.text.rope_theta, 50000.0);
  EXPECT_EQ(config.image_token, 96);
  EXPECT_EQ(config.video_token, 97);
}

TEST(ModelConfig, TiedAtEitherLevelIsTied) {
  for (const auto& [outer, inner, tied] :
       std::vector<std::tuple<json, json, bool>>{{true, nullptr, true},
                                                 {false, true, true},
                                                 {true, false, true},
                                                 {nullptr, true, true},
                                                 {false, false, false},
                                                 {nullptr, nullptr, false}}) {
    json config = flat_config();
    config["tie_word_embeddings"] = outer;
    config["text_config"] = {{"tie_word_embeddings", inner}};
    EXPECT_EQ(load(config).text.tied, tied) << outer << inner;
  }
}

TEST(ModelConfig, FillsAPartialVisionConfig) {
  json config = flat_config();
  config["vision_config"] = {{"in_chans", 3}, {"spatial_patch_size", 14}, {"hidden_size", 1280}};
  const ModelConfig loaded = load(config);
  EXPECT_EQ(loaded.vision.depth, 32);
  EXPECT_EQ(loaded.vision.heads, 16);
  EXPECT_EQ(loaded.vision.intermediate, 3420);
  EXPECT_EQ(loaded.vision.out_hidden, 64);
  EXPECT_EQ(loaded.vision.patch, 14);
  EXPECT_EQ(loaded.vision.merge, 2);
  EXPECT_EQ(loaded.vision.temporal, 2);
  EXPECT_EQ(loaded.vision.window, 112);
  EXPECT_THAT(loaded.vision.full_attention_blocks, ElementsAre(7, 15, 23, 31));
}

TEST(ModelConfig, EveryRopeSpellingMeansTheSame) {
  for (const char* rope : {R"({"type": "mrope", "mrope_section": [2, 3, 3]})",
                           R"({"rope_type": "mrope", "mrope_section": [2, 3, 3]})",
                           R"({"rope_type": "default", "type": "default", "mrope_section": [2, 3, 3]})",
                           R"({"mrope_section": [2, 3, 3]})"}) {
    json config = flat_config();
    config["rope_scaling"] = json::parse(rope);
    EXPECT_THAT(load(config).text.mrope_section, ElementsAre(2, 3, 3)) << rope;
  }
}

TEST(ModelConfig, GenerationConfigDecidesTheEnd) {
  const ModelConfig list = load(flat_config(), R"({"eos_token_id": [92, 91, 92], "pad_token_id": 91})");
  EXPECT_THAT(list.end_tokens, ElementsAre(92, 91));
  EXPECT_EQ(list.pad_token, 91);
  EXPECT_THAT(load(flat_config(), R"({"eos_token_id": 5})").end_tokens, ElementsAre(5));
  EXPECT_THAT(load(flat_config(), R"({"temperature": 0.1})").end_tokens, ElementsAre(92));
}

TEST(ModelConfig, DefaultsAreThoseOfTheReferenceClass) {
  json config = flat_config();
  for (const char* key : {"rms_norm_eps", "rope_theta", "max_position_embeddings", "tie_word_embeddings",
                          "bos_token_id", "vision_token_id"}) {
    config.erase(key);
  }
  const ModelConfig loaded = load(config);
  EXPECT_EQ(loaded.text.rms_eps, 1e-5F);
  EXPECT_EQ(loaded.text.rope_theta, 1e6);
  EXPECT_EQ(loaded.text.max_position, 32768);
  EXPECT_FALSE(loaded.text.tied);
  EXPECT_EQ(loaded.pad_token, -1);
  EXPECT_EQ(loaded.vision_pad, -1);
}

struct Refusal {
  const char* name;
  const char* patch;  ///< merged into the flat configuration
  const char* reason;
};

class ModelConfigRefusal : public testing::TestWithParam<Refusal> {};

TEST_P(ModelConfigRefusal, NamesFileAndField) {
  json config = flat_config();
  config.merge_patch(json::parse(GetParam().patch));
  const std::string message = error_of([&] { load(config); });
  EXPECT_THAT(message, AllOf(HasSubstr("config.json"), HasSubstr(GetParam().reason)));
}

INSTANTIATE_TEST_SUITE_P(
    All, ModelConfigRefusal,
    testing::Values(
        Refusal{"OtherModel", R"({"model_type": "llama"})", "model_type is \"llama\""},
        Refusal{"Quantised", R"({"quantization_config": {"bits": 4}})", "quantization_config"},
        Refusal{"NoHidden", R"({"hidden_size": null})", "hidden_size is missing"},
        Refusal{"HiddenText", R"({"hidden_size": "64"})", "hidden_size is \"64\""},
        Refusal{"HiddenZero", R"({"hidden_size": 0})", "hidden_size is 0"},
        Refusal{"HiddenNegative", R"({"hidden_size": -64})", "hidden_size is -64"},
        Refusal{"HiddenFraction", R"({"hidden_size": 64.5})", "hidden_size is 64.5"},
        Refusal{"HiddenHuge", R"({"hidden_size": 9223372036854775807})",
                "hidden_size is 9223372036854775807"},
        Refusal{"LayersHuge", R"({"num_hidden_layers": 1000000000})", "num_hidden_layers"},
        Refusal{"VocabularyHuge", R"({"vocab_size": 4000000000})", "vocab_size"},
        Refusal{"NoVocabulary", R"({"vocab_size": null})", "vocab_size is missing"},
        Refusal{"Heads", R"({"num_attention_heads": 5})",
                "hidden_size 64 is not a multiple of num_attention_heads 5"},
        Refusal{"KeyHeads", R"({"num_key_value_heads": 3})", "4 is not a multiple of num_key_value_heads 3"},
        Refusal{"HeadDim", R"({"head_dim": 32})",
                "head_dim is 32, not hidden_size / num_attention_heads = 16"},
        Refusal{"OddHead", R"({"hidden_size": 20, "vision_config": {"out_hidden_size": 20}})",
                "head size 5 is odd"},
        Refusal{"TwoSections", R"({"rope_scaling": {"mrope_section": [4, 4]}})", "mrope_section is [4,4]"},
        Refusal{"SectionSum", R"({"rope_scaling": {"mrope_section": [2, 3, 4]}})", "add up to 9"},
        Refusal{"NegativeSection", R"({"rope_scaling": {"mrope_section": [-2, 5, 5]}})",
                "mrope_section holds -2"},
        Refusal{"HugeSection", R"({"rope_scaling": {"mrope_section": [9223372036854775807, 2, 7]}})",
                "mrope_section"},
        Refusal{"NoRope", R"({"rope_scaling": null})", "rope_scaling is missing"},
        Refusal{"ScaledRope", R"({"rope_scaling": {"type": "yarn"}})", "rope_scaling.type is \"yarn\""},
        Refusal{"ThetaZero", R"({"rope_theta": 0})", "rope_theta is 0"},
        Refusal{"EpsilonNegative", R"({"rms_norm_eps": -1e-6})", "rms_norm_eps"},
        Refusal{"Sliding", R"({"use_sliding_window": true})", "use_sliding_window"},
        Refusal{"SlidingLayer", R"({"text_config": {"layer_types": ["sliding_attention"]}})",
                "text_config.layer_types"},
        Refusal{"Activation", R"({"hidden_act": "gelu"})", "hidden_act is \"gelu\""},
        Refusal{"NoVision", R"({"vision_config": null})", "vision_config is missing"},
        Refusal{"VisionNoObject", R"({"vision_config": 3})", "vision_config is 3"},
        Refusal{"VisionHeads", R"({"vision_config": {"num_heads": 3}})",
                "vision hidden_size 32 is not a multiple"},
        Refusal{"VisionHead", R"({"vision_config": {"num_heads": 16}})", "vision head size 2"},
        Refusal{"VisionOut", R"({"vision_config": {"out_hidden_size": 32}})", "out_hidden_size 32"},
        Refusal{"VisionDepth", R"({"vision_config": {"depth": 3}})", "fullatt_block_indexes holds 3"},
        Refusal{"VisionBlock", R"({"vision_config": {"fullatt_block_indexes": [-1]}})",
                "fullatt_block_indexes holds -1"},
        Refusal{"VisionWindow", R"({"vision_config": {"window_size": 27}})", "window_size 27"},
        Refusal{"VisionChannels", R"({"vision_config": {"in_channels": 4}})", "in_channels is 4"},
        Refusal{"VisionHuge", R"({"vision_config": {"hidden_size": 1000000}})", "vision_config.hidden_size"},
        Refusal{"ImageToken", R"({"image_token_id": 100})", "image_token_id 100 is not below vocab_size 100"},
        Refusal{"DefaultToken", R"({"image_token_id": null})", "image_token_id 151655"},
        Refusal{"EndToken", R"({"eos_token_id": [92, -1]})", "eos_token_id -1"},
        Refusal{"NoEndToken", R"({"eos_token_id": null})", "eos_token_id is missing"},
        Refusal{"EndTokenText", R"({"eos_token_id": "end"})", "eos_token_id is \"end\""}),
    [](const auto& row) { return row.param.name; });

TEST(ModelConfig, NamesAMissingOrBrokenFile) {
  const TemporaryFolder folder;
  EXPECT_THAT(error_of([&] { ModelConfig::load(folder.path()); }), HasSubstr("config.json: No such file"));
  const std::string text = flat_config().dump();
  folder.write("config.json", text.substr(0, text.size() / 2));
  EXPECT_THAT(error_of([&] { ModelConfig::load(folder.path()); }), HasSubstr("config.json: not valid JSON"));
  folder.write("config.json", text);
  folder.write("generation_config.json", "[]");
  EXPECT_THAT(error_of([&] { ModelConfig::load(folder.path()); }), HasSubstr("generation_config.json"));
}

struct Real {
  const char* name;
  std::int64_t hidden, layers, heads, kv_heads, intermediate, vocab, vision_intermediate;
  bool tied;
  std::int64_t total, layer, vision, tensors;
};

// The released models by their configurations; counts are those of the reference's classes.
TEST(ModelConfig, CountsTheParametersOfTheReleasedModels) {
  const std::vector<Real> models{
      {"3B", 2048, 36, 16, 2, 11008, 151936, 3420, true, 3754622976, 77076992, 668684288, 824},
      {"7B", 3584, 28, 28, 4, 18944, 152064, 3420, false, 8292166656, 233057792, 676550144, 729},
      {"32B", 5120, 64, 40, 8, 27648, 152064, 3456, false, 33452718336, 487605248, 0, 1161},
      {"72B", 8192, 80, 64, 8, 29568, 152064, 3456, false, 73410777344, 877684736, 0, 1353}};
  for (const Real& model : models) {
    json file = flat_config();
    for (const char* key :
         {"image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"}) {
      file.erase(key);
    }
    file["hidden_size"] = model.hidden;
    file["num_hidden_layers"] = model.layers;
    file["num_attention_heads"] = model.heads;
    file["num_key_value_heads"] = model.kv_heads;
    file["intermediate_size"] = model.intermediate;
    file["vocab_size"] = model.vocab;
    file["tie_word_embeddings"] = model.tied;
    file["rope_scaling"]["mrope_section"] = {16, 24, 24};
    file["vision_config"] = {{"in_chans", 3},
                             {"hidden_size", 1280},
                             {"intermediate_size", model.vision_intermediate},
                             {"out_hidden_size", model.hidden}};
    const ModelConfig config = load(file);
    EXPECT_EQ(config.text.head_dim, 128) << model.name;
    EXPECT_EQ(config.total_parameters(), model.total) << model.name;
    EXPECT_EQ(config.layer_parameters(), model.layer) << model.name;
    if (model.vision != 0) {
      EXPECT_EQ(config.vision_parameters(), model.vision) << model.name;
    }
    const auto expected = expected_tensors(config, !model.tied);
    EXPECT_EQ(static_cast<std::int64_t>(expected.size()), model.tensors) << model.name;
    std::int64_t sum = 0;
    for (const ExpectedTensor& tensor : expected) {
      sum += std::accumulate(tensor.shape.begin(), tensor.shape.end(), std::int64_t{1}, std::multiplies<>());
    }
    EXPECT_EQ(sum, model.total) << model.name;
  }
}

TEST(ModelConfig, ReadsTheGoldenModels) {
  BIQA_REQUIRE_SHARED(shared);
  const auto golden = [&](const char* name) { return ModelConfig::load(shared / "golden/models" / name); };
  const ModelConfig nested = golden("nested-sharded");
  EXPECT_EQ(nested.text.rms_eps, 1e-3F);
  EXPECT_EQ(nested.text.rope_theta, 5e4);
  EXPECT_EQ(nested.vision.window, 56);
  EXPECT_FALSE(nested.text.tied);
  EXPECT_THAT(nested.text.mrope_section, ElementsAre(1, 1, 2));
  EXPECT_TRUE(golden("both-tied").text.tied);
  EXPECT_EQ(golden("both-tied").image_token, 524);
  EXPECT_EQ(golden("partial-vision").vision.depth, 32);
  EXPECT_EQ(golden("seven-bf16").text.kv_heads, 1);
  EXPECT_THAT(golden("seven-bf16").end_tokens, ElementsAre(514, 512));
  EXPECT_THAT(golden("flat-tied").end_tokens, ElementsAre(514, 512));
  EXPECT_THAT(golden("both-tied").end_tokens, ElementsAre(514));
  const ModelConfig tiny = ModelConfig::load(shared / "tiny/model");
  EXPECT_EQ(tiny.text.rope_theta, 10000.0);
  EXPECT_THAT(tiny.end_tokens, ElementsAre(760, 761));
}

}  // namespace
}  // namespace biqa
