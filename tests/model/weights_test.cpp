// SPDX-License-Identifier: Apache-2.0
// Weights that are no numbers are told by name while a model is loaded.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.h"
#include "io/files.h"
#include "io/safetensors.h"
#include "support/compare.h"
#include "support/remote/scripted_ops.h"
#include "support/tiny_model.h"

namespace biqa {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::TinyModel;

/// Overwrites one element of a tensor in the model's file.
void put(const TinyModel& files, const std::string& name, std::int64_t element, float value) {
  const auto path = files.path() / "model.safetensors";
  std::streamoff place = 0;
  {
    const Safetensors stored = Safetensors::open(path);
    const std::byte* start = stored.tensors().front().bytes.data();
    const StoredTensor& tensor = stored.at(name);
    ASSERT_LT(element, tensor.elements());
    const std::size_t data_bytes = static_cast<std::size_t>(std::filesystem::file_size(path));
    const StoredTensor& last = stored.tensors().back();
    const std::ptrdiff_t header =
        static_cast<std::ptrdiff_t>(data_bytes) - (last.bytes.data() + last.bytes.size() - start);
    place = header + (tensor.bytes.data() - start) + 4 * element;
  }
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(place);
  file.write(reinterpret_cast<const char*>(&value), sizeof value);
  ASSERT_TRUE(file.good());
}

std::string message_of_loading(const TinyModel& files, DType type) {
  try {
    testing::load(files, type);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Weights, ThatAreNoNumbersAreRefusedByName) {
  // Every way that values take: stacked products and their biases, norms, embedding, head, both towers.
  const std::vector<std::pair<std::string, std::int64_t>> places{
      {"visual.patch_embed.proj.weight", 17},
      {"visual.blocks.1.attn.qkv.bias", 95},
      {"visual.blocks.2.norm2.weight", 0},
      {"visual.merger.mlp.2.weight", 100},
      {"model.embed_tokens.weight", 6399},
      {"model.layers.0.self_attn.k_proj.bias", 31},
      {"model.layers.1.mlp.up_proj.weight", 777},
      {"model.layers.2.input_layernorm.weight", 63},
      {"model.norm.weight", 5},
      {"lm_head.weight", 64}};
  for (const auto& [name, element] : places) {
    for (const float value :
         {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      const TinyModel files(false);
      put(files, name, element, value);
      for (const DType type : {DType::f32, DType::bf16}) {
        EXPECT_THAT(message_of_loading(files, type),
                    AllOf(HasSubstr("model.safetensors: tensor \"" + name + "\""), HasSubstr("not finite")))
            << name_of(type);
      }
    }
  }
}

TEST(Weights, BeyondTheRangeOfBf16AreRefusedThere) {
  constexpr float kLargest = 0x1.fep127F;  // of bf16
  const TinyModel files(false);
  put(files, "model.layers.1.mlp.up_proj.weight", 1, kLargest);
  for (const DType type : {DType::f32, DType::bf16}) EXPECT_EQ(message_of_loading(files, type), "");
  put(files, "model.layers.1.mlp.up_proj.weight", 1, 0x1.ffp127F);
  EXPECT_EQ(message_of_loading(files, DType::f32), "");
  EXPECT_THAT(message_of_loading(files, DType::bf16),
              AllOf(HasSubstr("model.layers.1.mlp.up_proj.weight"), HasSubstr("outside the range of bf16")));
}

/// Gives the feed-forward networks of both towers this width. All their weights become zero.
void widen(const TinyModel& files, std::int64_t width) {
  const auto file = files.path() / "model.safetensors";
  nlohmann::json config = nlohmann::json::parse(read_file(files.path() / "config.json"));
  config["intermediate_size"] = config["vision_config"]["intermediate_size"] = width;
  std::ofstream(files.path() / "config.json") << config;
  std::vector<NamedTensor> tensors;
  const Safetensors stored = Safetensors::open(file);
  const std::vector<std::byte> zeros(static_cast<std::size_t>(width) * 64 * sizeof(float));
  for (const StoredTensor& tensor : stored.tensors()) {
    NamedTensor& wide =
        tensors.emplace_back(NamedTensor{tensor.name, tensor.type, tensor.shape, tensor.bytes});
    const bool down = tensor.name.ends_with("mlp.down_proj.weight");
    const bool up = tensor.name.find("mlp.gate_proj.") != std::string::npos ||
                    tensor.name.find("mlp.up_proj.") != std::string::npos;
    if (!down && !up) continue;
    wide.shape[down ? 1 : 0] = width;
    std::size_t bytes = sizeof(float);
    for (const std::int64_t size : wide.shape) bytes *= static_cast<std::size_t>(size);
    wide.bytes = std::span(zeros).first(bytes);
  }
  write_safetensors(files.path() / "wide.safetensors", tensors);
  std::filesystem::rename(files.path() / "wide.safetensors", file);
}

/// Bytes of a file that are in the memory of this process.
std::size_t resident_bytes(const std::filesystem::path& file) {
  std::ifstream maps("/proc/self/smaps");
  bool found = false;
  std::size_t bytes = 0;
  for (std::string line; std::getline(maps, line);) {
    if (line.find('-') < line.find(' '))  // the range of addresses begins a mapping
      found = line.ends_with(file.string());
    else if (found && line.starts_with("Rss:"))
      bytes += std::stoul(line.substr(4)) * 1024;
  }
  return bytes;
}

/// What there was whenever a product was packed.
struct Packing {
  std::vector<std::size_t> resident;    ///< bytes of the model's file in memory
  std::vector<std::uintptr_t> address;  ///< of the weights
};

class WatchingOps final : public testing::ScriptedOps {
 public:
  WatchingOps(std::filesystem::path file, Packing& packing)
      : ScriptedOps(std::make_shared<testing::Script>()), file_(std::move(file)), packing_(packing) {}
  std::unique_ptr<FrozenLinear> pack(ConstView weight, std::span<const float> bias, bool backward) override {
    packing_.resident.push_back(resident_bytes(file_));
    packing_.address.push_back(reinterpret_cast<std::uintptr_t>(weight.data()));
    return ScriptedOps::pack(weight, bias, backward);
  }

 private:
  std::filesystem::path file_;
  Packing& packing_;
};

Packing packing_of(const TinyModel& files, const FrozenParts* frozen) {
  Packing packing;
  QwenVl::Options options;
  options.frozen = frozen;
  QwenVl::load(files.path(), std::make_shared<WatchingOps>(files.path() / "model.safetensors", packing),
               options);
  return packing;
}

/// Moves all tensors of the model's file by one byte.
void shift(const TinyModel& files) {
  const auto path = files.path() / "model.safetensors";
  std::string content = read_file(path);
  std::uint64_t header = 0;
  std::memcpy(&header, content.data(), sizeof header);
  content.insert(sizeof header + header, 1, ' ');
  ++header;
  std::memcpy(content.data(), &header, sizeof header);
  std::ofstream(path, std::ios::binary) << content;
}

TEST(Weights, AtOddAddressesGiveTheSameBits) {
  const TinyModel files(false);
  const auto hidden = [&files] {
    const auto model = testing::load(files, DType::f32);
    return testing::hidden_of(*model, testing::text_prompt(model->config(), 17, 1), nullptr);
  };
  const Tensor before = hidden();
  shift(files);
  const Safetensors stored = Safetensors::open(files.path() / "model.safetensors");
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(stored.at("lm_head.weight").bytes.data()) % 4, 1U);
  EXPECT_TRUE(testing::same_bits(hidden().view(), before.view()));
  // Not every processor reads numbers from such addresses, so a product never gets one.
  for (const std::uintptr_t address : packing_of(files, nullptr).address) EXPECT_EQ(address % 4, 0U);
}

// Of a large model, the pages of all tensors would otherwise stay beside the packed weights.
TEST(Weights, ThePagesOfATensorLeaveTheMemoryBeforeTheNextIsPacked) {
  constexpr std::int64_t kWidth = 1 << 14;
  constexpr std::size_t kLargest = kWidth * 64 * sizeof(float);
  const TinyModel files(false);
  widen(files, kWidth);
  const auto file = files.path() / "model.safetensors";
  ASSERT_GT(std::filesystem::file_size(file), 10 * kLargest);
  // Copied, packed as they lie in the file, and merged with an adapter's parts.
  const auto parts = testing::random_frozen_parts(ModelConfig::load(files.path()), 4, "visual");
  for (const FrozenParts* frozen : {static_cast<const FrozenParts*>(nullptr), parts.get()}) {
    const std::vector<std::size_t> resident = packing_of(files, frozen).resident;
    ASSERT_GT(resident.size(), 20U);
    const std::size_t most = *std::max_element(resident.begin(), resident.end());
    EXPECT_GE(most, kLargest) << "a tensor is packed from the file";
    // The system maps neighbours of a page that is read. That is less than the smallest of the wide tensors.
    EXPECT_LE(most, kLargest + kLargest / 2);
  }
}

}  // namespace
}  // namespace biqa
