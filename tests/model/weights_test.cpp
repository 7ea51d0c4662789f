// SPDX-License-Identifier: Apache-2.0
// Weights that are no numbers are told by name while a model is loaded.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <limits>

#include "core/error.h"
#include "io/files.h"
#include "io/safetensors.h"
#include "support/compare.h"
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
}

}  // namespace
}  // namespace biqa
