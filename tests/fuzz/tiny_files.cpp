// SPDX-License-Identifier: Apache-2.0
#include "fuzz/tiny_files.h"

#include <array>
#include <functional>
#include <memory>
#include <numeric>
#include <span>
#include <vector>

#include "io/safetensors.h"
#include "model/checkpoint.h"
#include "model/peft.h"

namespace biqa::fuzz {
namespace fs = std::filesystem;
namespace {

constexpr std::array<const char*, 2> kShards{"model-00001-of-00002.safetensors",
                                             "model-00002-of-00002.safetensors"};

std::size_t shard_of(const std::string& tensor) {
  return tensor.starts_with("model.layers") ? 1 : 0;
}

}  // namespace

ModelConfig tiny_config() {
  ModelConfig config;
  config.text = {
      .hidden = 8, .layers = 2, .heads = 2, .kv_heads = 1, .head_dim = 4, .intermediate = 6, .vocab = 10};
  config.text.mrope_section = {1, 1, 0};
  config.text.tied = true;
  config.vision.hidden = 8;
  config.vision.depth = 1;
  config.vision.heads = 2;
  config.vision.intermediate = 4;
  config.vision.out_hidden = 8;
  config.vision.patch = 2;
  return config;
}

Lora tiny_adapter() {
  Lora lora =
      initial_lora(std::make_shared<const LoraLayout>(tiny_config(), LoraSpec{.rank = 2, .alpha = 4}), 7);
  for (std::size_t i = 0; i < lora.values.size(); ++i) lora.values[i] += static_cast<float>(i % 97) * 1e-3F;
  return lora;
}

std::string tiny_shard_of(const std::string& tensor) {
  return kShards[shard_of(tensor)];
}

void write_tiny_shards(const fs::path& folder) {
  std::vector<std::vector<float>> values;
  std::vector<std::vector<NamedTensor>> shards(2);
  for (const ExpectedTensor& tensor : expected_tensors(tiny_config(), false)) {
    const auto count =
        std::accumulate(tensor.shape.begin(), tensor.shape.end(), std::int64_t{1}, std::multiplies<>());
    values.emplace_back(static_cast<std::size_t>(count), 0.5F);
    shards[shard_of(tensor.name)].push_back(
        {tensor.name, StoredType::f32, tensor.shape, std::as_bytes(std::span(values.back()))});
  }
  for (std::size_t i = 0; i < shards.size(); ++i) write_safetensors(folder / kShards[i], shards[i]);
}

void write_tiny_adapter(const fs::path& folder) {
  write_peft(folder, tiny_adapter(), "base");
}

}  // namespace biqa::fuzz
