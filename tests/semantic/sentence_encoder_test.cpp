// SPDX-License-Identifier: Apache-2.0
// Against transformers: tests/fixtures/sentence (tests/scripts/make_sentence_fixture.py), and on request a real model.
#include "semantic/sentence_encoder.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "core/error.h"
#include "io/files.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const fs::path kFixture = BIQA_SOURCE_DIR "/tests/fixtures/sentence";

std::vector<std::string_view> views_of(const std::vector<std::string>& texts) {
  return {texts.begin(), texts.end()};
}

/// Token ids are equal. Vectors differ from the reference in f64 by at most three times what the reference's own f32 run
/// differs from it (docs/numerics.md).
void compare_with_transformers(const fs::path& folder) {
  SentenceEncoder encoder = SentenceEncoder::open(folder, 2);
  const nlohmann::json expected = read_json(folder / "expected.json");
  const auto texts = expected.at("texts").get<std::vector<std::string>>();
  ASSERT_GT(texts.size(), 50U);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto ids = expected["ids"][i].get<std::vector<std::int64_t>>();
    EXPECT_EQ(encoder.tokenizer().encode(texts[i], static_cast<std::size_t>(encoder.most_tokens())), ids)
        << "text " << i << ": " << texts[i];
  }
  const std::vector<float> vectors = encoder.encode(views_of(texts));
  const auto width = static_cast<std::size_t>(encoder.width());
  const double tolerance = 3 * expected["f32_distance"].get<double>();
  double largest = 0;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto want = expected["vectors"][i].get<std::vector<double>>();
    ASSERT_EQ(want.size(), width);
    for (std::size_t c = 0; c < width; ++c) {
      const double difference = std::abs(static_cast<double>(vectors[i * width + c]) - want[c]);
      ASSERT_LE(difference, tolerance) << "text " << i << ", column " << c;
      largest = std::max(largest, difference);
    }
  }
  ::testing::Test::RecordProperty("largest_difference", fmt::format("{}", largest));
}

TEST(SentenceEncoder, AgreesWithTransformers) {
  compare_with_transformers(kFixture);
}

TEST(SentenceEncoder, AgreesWithTransformersOnARealModel) {
  const char* folder = std::getenv("BIQA_SENTENCE_MODEL");
  if (folder == nullptr)
    GTEST_SKIP() << "BIQA_SENTENCE_MODEL names no model (make_sentence_fixture.py --real)";
  compare_with_transformers(folder);
}

TEST(SentenceEncoder, AVectorDependsOnlyOnItsText) {
  SentenceEncoder one = SentenceEncoder::open(kFixture, 1), two = SentenceEncoder::open(kFixture, 2);
  constexpr std::size_t kTexts = 130;  // more tokens than the network gets at once
  std::vector<std::string> texts;
  texts.reserve(kTexts);
  for (std::size_t i = 0; i < kTexts; ++i)
    texts.push_back(std::string(i % 40, 'a') + " sharp picture is noise");
  const std::vector<float> all = two.encode(views_of(texts));
  const auto width = static_cast<std::size_t>(one.width());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const std::string_view text = texts[i];
    const std::vector<float> alone = one.encode({&text, 1});
    ASSERT_EQ(alone, std::vector<float>(all.begin() + static_cast<std::ptrdiff_t>(i * width),
                                        all.begin() + static_cast<std::ptrdiff_t>((i + 1) * width)))
        << i;
  }
  EXPECT_TRUE(one.encode({}).empty());
}

TEST(SentenceEncoder, VectorsHaveLengthOne) {
  SentenceEncoder encoder = SentenceEncoder::open(kFixture, 1);
  const std::string_view text = "the picture is sharp";
  const std::vector<float> v = encoder.encode({&text, 1});
  EXPECT_NEAR(cosine(v, v), 1, 1e-6);
}

class SentenceFolder : public ::testing::Test {
 protected:
  SentenceFolder() { fs::copy(kFixture, folder_.path() / "model", fs::copy_options::recursive); }
  fs::path model() const { return folder_.path() / "model"; }
  void change(const std::string& file, const std::string& key, const nlohmann::json& value) const {
    nlohmann::json json = read_json(model() / file);
    json[key] = value;
    std::ofstream(model() / file) << json;
  }
  std::string problem() const {
    try {
      SentenceEncoder::open(model(), 1);
    } catch (const Error& error) {
      return error.what();
    }
    return "none";
  }
  TemporaryFolder folder_;
};

TEST_F(SentenceFolder, RefusesOtherNetworks) {
  EXPECT_EQ(problem(), "none");
  change("config.json", "hidden_act", "relu");
  EXPECT_THAT(problem(), HasSubstr("hidden_act"));
  change("config.json", "hidden_act", "gelu");
  change("config.json", "model_type", "mpnet");
  EXPECT_THAT(problem(), HasSubstr("model_type"));
  change("config.json", "model_type", "bert");
  change("config.json", "num_attention_heads", 5);
  EXPECT_THAT(problem(), HasSubstr("a divisor of hidden_size, 24"));
  change("config.json", "num_attention_heads", 3);
  change("config.json", "intermediate_size", 41);
  EXPECT_THAT(problem(), HasSubstr("intermediate.dense.weight"));
  change("config.json", "intermediate_size", 40);
  change("config.json", "vocab_size", 3);
  EXPECT_THAT(problem(), HasSubstr("vocab.txt"));
}

TEST_F(SentenceFolder, RefusesOtherPooling) {
  change("1_Pooling/config.json", "pooling_mode_max_tokens", true);
  EXPECT_THAT(problem(), HasSubstr("pooling_mode_max_tokens"));
  change("1_Pooling/config.json", "pooling_mode_max_tokens", false);
  change("1_Pooling/config.json", "pooling_mode_cls_token", true);
  EXPECT_THAT(problem(), HasSubstr("are both true; set exactly one"));
  change("1_Pooling/config.json", "pooling_mode_mean_tokens", false);
  EXPECT_EQ(problem(), "none");
}

TEST_F(SentenceFolder, TheFirstTokenIsAnotherVector) {
  const std::string_view text = "the picture is sharp";
  const std::vector<float> mean = SentenceEncoder::open(model(), 1).encode({&text, 1});
  change("1_Pooling/config.json", "pooling_mode_cls_token", true);
  change("1_Pooling/config.json", "pooling_mode_mean_tokens", false);
  EXPECT_NE(SentenceEncoder::open(model(), 1).encode({&text, 1}), mean);
}

TEST_F(SentenceFolder, SaysHowToConvertPickledWeights) {
  fs::rename(model() / "model.safetensors", model() / "pytorch_model.bin");
  EXPECT_THAT(problem(), HasSubstr("save_pretrained"));
  fs::remove(model() / "pytorch_model.bin");
  EXPECT_THAT(problem(), HasSubstr("model.safetensors"));
}

TEST_F(SentenceFolder, ReadsTheNamesOfALargerModel) {
  const Safetensors file = Safetensors::open(model() / "model.safetensors");
  std::vector<NamedTensor> renamed;
  for (const StoredTensor& tensor : file.tensors())
    renamed.push_back({"bert." + tensor.name, tensor.type, tensor.shape, tensor.bytes});
  const std::string_view text = "the picture is sharp";
  const std::vector<float> before = SentenceEncoder::open(model(), 1).encode({&text, 1});
  write_safetensors(model() / "model.safetensors", renamed);
  EXPECT_EQ(SentenceEncoder::open(model(), 1).encode({&text, 1}), before);
}

TEST_F(SentenceFolder, RefusesValuesThatAreNotFinite) {
  const Safetensors file = Safetensors::open(model() / "model.safetensors");
  const std::string damaged = "encoder.layer.1.output.dense.bias";
  std::vector<float> values(static_cast<std::size_t>(file.at(damaged).elements()));
  file.at(damaged).copy_to(values);
  values.back() = std::nanf("");
  std::vector<NamedTensor> tensors;
  for (const StoredTensor& tensor : file.tensors()) {
    const bool is_damaged = tensor.name == damaged;
    tensors.push_back({tensor.name, tensor.type, tensor.shape,
                       is_damaged ? std::as_bytes(std::span(values)) : tensor.bytes});
  }
  write_safetensors(model() / "model.safetensors", tensors);
  EXPECT_THAT(problem(), HasSubstr(damaged));
  EXPECT_THAT(problem(), HasSubstr("not finite"));
}

TEST_F(SentenceFolder, RefusesADamagedVocabulary) {
  const std::string vocabulary = read_file(model() / "vocab.txt");
  std::ofstream(model() / "vocab.txt") << vocabulary.substr(0, vocabulary.size() - 7) << "the\n";
  EXPECT_THAT(problem(), HasSubstr("are the same token"));
  change("tokenizer_config.json", "tokenizer_class", "XLMRobertaTokenizer");
  EXPECT_THAT(problem(), HasSubstr("tokenizer_class"));
}

}  // namespace
}  // namespace biqa
