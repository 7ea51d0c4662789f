// SPDX-License-Identifier: Apache-2.0
// An adapter merged into a model's files: each value by the formula, everything else to the bit.
#include "model/merge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/bf16.h"
#include "core/error.h"
#include "io/safetensors.h"
#include "model/checkpoint.h"
#include "support/tiny_model.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::TinyModel;

std::vector<std::byte> converted(const StoredTensor& tensor, StoredType type) {
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  tensor.copy_to(values);
  std::vector<std::byte> bytes(values.size() * static_cast<std::size_t>(bits_of(type) / 8));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t narrow = type == StoredType::bf16 ? to_bf16(values[i]).bits : to_half(values[i]);
    if (type == StoredType::f32)
      std::memcpy(bytes.data() + 4 * i, &values[i], 4);
    else
      std::memcpy(bytes.data() + 2 * i, &narrow, 2);
  }
  return bytes;
}

class MergeTest : public ::testing::Test {
 protected:
  /// The tiny model with another dtype, in so many shards (1: a single file).
  fs::path model_of(StoredType type, std::size_t shards) const {
    fs::path folder = folder_.path() / "model";
    fs::remove_all(folder);
    fs::create_directory(folder);
    fs::copy_file(files_.path() / "config.json", folder / "config.json");
    const Safetensors file = Safetensors::open(files_.path() / "model.safetensors");
    std::vector<std::vector<std::byte>> bytes;
    std::vector<std::vector<NamedTensor>> parts(shards);
    nlohmann::json map;
    bytes.reserve(file.tensors().size());
    for (const StoredTensor& tensor : file.tensors()) {
      bytes.push_back(converted(tensor, type));
      const std::size_t part = bytes.size() * shards / (file.tensors().size() + 1);
      parts[part].push_back({tensor.name, type, tensor.shape, bytes.back()});
      map[tensor.name] = fmt::format("model-{:05}-of-{:05}.safetensors", part + 1, shards);
    }
    for (std::size_t part = 0; part < shards; ++part) {
      const std::string name = shards == 1
                                   ? "model.safetensors"
                                   : fmt::format("model-{:05}-of-{:05}.safetensors", part + 1, shards);
      write_safetensors(folder / name, parts[part], {{"format", "pt"}, {"origin", "a test"}});
    }
    if (shards > 1) {
      std::ofstream(folder / "model.safetensors.index.json")
          << nlohmann::json{{"metadata", {{"total_size", 1}}}, {"weight_map", map}}.dump(2);
    }
    return folder;
  }

  TinyModel files_;
  TemporaryFolder folder_;
};

TEST_F(MergeTest, EveryValueByTheFormulaInEveryDtypeAndLayout) {
  const ModelConfig config = ModelConfig::load(files_.path());
  const Lora lora = testing::random_adapter(config, 5);
  for (const StoredType type : {StoredType::f32, StoredType::bf16, StoredType::f16}) {
    for (const std::size_t shards : {1, 3}) {
      SCOPED_TRACE(fmt::format("{} in {} files", name_of(type), shards));
      const fs::path model = model_of(type, shards), merged = folder_.path() / "merged";
      fs::remove_all(merged);
      const MergeReport report = write_merged_model(model, lora, merged);
      EXPECT_EQ(report.merged, static_cast<std::int64_t>(lora.layout->modules().size()));
      EXPECT_EQ(report.files, static_cast<std::int64_t>(shards));
      const Checkpoint before = Checkpoint::open(model, config), after = Checkpoint::open(merged, config);
      ASSERT_EQ(before.names(), after.names());
      EXPECT_EQ(report.merged + report.copied, static_cast<std::int64_t>(before.names().size()));
      std::size_t changed = 0;
      for (const std::string& name : before.names()) {
        const StoredTensor &x = before.tensor(name), &y = after.tensor(name);
        EXPECT_EQ(x.type, y.type);
        EXPECT_EQ(x.shape, y.shape);
        EXPECT_EQ(fs::path(x.file).filename(), fs::path(y.file).filename());
        if (!std::equal(x.bytes.begin(), x.bytes.end(), y.bytes.begin(), y.bytes.end())) ++changed;
      }
      EXPECT_EQ(changed, lora.layout->modules().size());
      for (const LoraModule& m : lora.layout->modules()) {
        const std::string key = peft_key(m, 'A', true);
        const std::string name = key.substr(17, key.rfind(".lora_A") - 17) + ".weight";
        std::vector<float> w(static_cast<std::size_t>(m.out * m.in)), have(w.size());
        before.tensor(name).copy_to(w);
        after.tensor(name).copy_to(have);
        for (std::int64_t o = 0; o < m.out; ++o) {
          for (std::int64_t i = 0; i < m.in; ++i) {
            float sum = 0;
            for (std::int64_t r = 0; r < m.rank; ++r)
              sum += lora.b(m)[o * m.rank + r] * lora.a(m)[r * m.in + i];
            const float exact = w[static_cast<std::size_t>(o * m.in + i)] + m.scale * sum;
            const float want = type == StoredType::f32    ? exact
                               : type == StoredType::bf16 ? to_float(to_bf16(exact))
                                                          : half_to_float(to_half(exact));
            ASSERT_EQ(have[static_cast<std::size_t>(o * m.in + i)], want) << name << " " << o << " " << i;
          }
        }
      }
      const fs::path first = before.files().front();
      EXPECT_EQ(Safetensors::open(merged / first.filename()).metadata().at("origin"), "a test");
    }
  }
}

TEST_F(MergeTest, CopiesWhatBelongsToAModelAndNothingElse) {
  const fs::path model = model_of(StoredType::f32, 2);
  const std::vector<std::string> wanted{"tokenizer.json",           "merges.txt",
                                        "chat_template.jinja",      "LICENSE",
                                        "preprocessor_config.json", "README.md"};
  const std::vector<std::string> unwanted{
      "pytorch_model.bin",   "pytorch_model.bin.index.json", ".gitattributes",
      "adapter_config.json", "adapter_model.safetensors",    "model.gguf"};
  for (const std::string& name : wanted) std::ofstream(model / name) << name;
  for (const std::string& name : unwanted) std::ofstream(model / name) << name;
  const fs::path merged = folder_.path() / "merged";
  write_merged_model(model, testing::random_adapter(ModelConfig::load(model), 5), merged);
  for (const std::string& name : wanted) EXPECT_EQ(file_content(merged / name), name);
  for (const std::string& name : unwanted) EXPECT_FALSE(fs::exists(merged / name)) << name;
  EXPECT_EQ(file_content(merged / "config.json"), file_content(model / "config.json"));
  EXPECT_EQ(file_content(merged / "model.safetensors.index.json"),
            file_content(model / "model.safetensors.index.json"));
}

TEST_F(MergeTest, FilesBesideReplaceNoneOfTheModel) {
  const fs::path model = model_of(StoredType::f32, 1);
  std::ofstream(model / "README.md") << "of the model";
  const Lora lora = testing::random_adapter(ModelConfig::load(model), 5);
  const fs::path merged = folder_.path() / "merged", again = folder_.path() / "again";
  write_merged_model(model, lora, merged, {{"README.md", "first"}, {"run.json", "{}"}});
  EXPECT_EQ(file_content(merged / "README.md"), "first");
  EXPECT_EQ(file_content(merged / "run.json"), "{}");
  EXPECT_EQ(file_content(merged / "base_model_README.md"), "of the model");
  EXPECT_FALSE(fs::exists(merged / "base_model_run.json"));
  write_merged_model(merged, lora, again, {{"README.md", "second"}, {"run.json", "{}"}});
  EXPECT_EQ(file_content(again / "README.md"), "second");
  EXPECT_EQ(file_content(again / "base_model_README.md"), "first");
  EXPECT_EQ(file_content(again / "base_model_base_model_README.md"), "of the model");
}

TEST_F(MergeTest, LeavesNothingBehindWhenItFails) {
  const fs::path model = model_of(StoredType::f16, 1), merged = folder_.path() / "merged";
  Lora lora = testing::random_adapter(ModelConfig::load(model), 5);
  for (float& value : lora.values) value = 1e3F;  // sums beyond what f16 holds
  EXPECT_THAT(error_of([&] { write_merged_model(model, lora, merged); }), HasSubstr("F16"));
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder_.path()))
    names.push_back(entry.path().filename().string());
  EXPECT_EQ(names, std::vector<std::string>{"model"});
  // What is there stays.
  folder_.write("merged/mine.txt", "mine");
  EXPECT_THAT(error_of([&] {
                write_merged_model(model, testing::random_adapter(ModelConfig::load(model), 5), merged);
              }),
              HasSubstr(merged.string()));
  EXPECT_EQ(file_content(merged / "mine.txt"), "mine");
}

TEST(Half, RoundsToNearestEven) {
  // Every half comes back; halfway between two the even one is taken, and the next float decides otherwise.
  for (std::uint32_t bits = 0; bits < 0x7c00U; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value = half_to_float(half);
    ASSERT_EQ(to_half(value), half);
    ASSERT_EQ(to_half(-value), half | 0x8000U);
    const float next = bits + 1 == 0x7c00U ? 65536.0F : half_to_float(static_cast<std::uint16_t>(bits + 1));
    const float middle = value + (next - value) / 2;
    const auto up = static_cast<std::uint16_t>(bits + 1);
    ASSERT_EQ(to_half(middle), bits % 2 == 0 ? half : up) << bits;
    ASSERT_EQ(to_half(std::nextafter(middle, 0.0F)), half) << bits;
    ASSERT_EQ(to_half(std::nextafter(middle, 1e9F)), up) << bits;
  }
  EXPECT_EQ(to_half(std::numeric_limits<float>::infinity()), 0x7c00U);
  EXPECT_EQ(to_half(-1e30F), 0xfc00U);
  EXPECT_EQ(to_half(1e-30F), 0U);
  EXPECT_TRUE(std::isnan(half_to_float(to_half(std::nanf("")))));
}

}  // namespace
}  // namespace biqa
