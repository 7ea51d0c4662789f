// SPDX-License-Identifier: Apache-2.0
#include "model/checkpoint.h"

#include <fmt/ranges.h>
#include <glog/logging.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "core/error.h"
#include "io/json.h"

namespace biqa {
namespace fs = std::filesystem;
namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr const char* kHead = "lm_head.weight";
constexpr const char* kEmbedding = "model.embed_tokens.weight";

bool starts_with(const std::string& text, std::string_view prefix) {
  return text.compare(0, prefix.size(), prefix) == 0;
}

// A shard must be a file of the same folder. Names that lead elsewhere are refused.
void check_shard_name(const std::string& name, const std::string& index) {
  const bool plain = !name.empty() && name.find('/') == std::string::npos &&
                     name.find('\0') == std::string::npos && fs::path(name).extension() == ".safetensors" &&
                     name[0] != '.';
  if (!plain) {
    fail(
        "cannot read {}: the shard {} is not the plain name of a .safetensors file in the same folder; "
        "correct it",
        index, shown(name));
  }
}

// Opens every shard of an index and checks that each tensor is where the index says, and nowhere else.
std::vector<Safetensors> open_shards(const fs::path& directory) {
  const fs::path index_path = directory / kIndexFile;
  const std::string index = index_path.string();
  const nlohmann::json json = read_json(index_path);
  const JsonFields fields(json, index);
  if (!fields.object("weight_map")) fields.missing("weight_map");
  const nlohmann::json& map = json["weight_map"];
  std::set<std::string> shards;
  for (const auto& [name, shard] : map.items()) {
    if (!shard.is_string()) fields.object("weight_map")->refuse(name, "a file name");
    check_shard_name(shard.get<std::string>(), index);
    shards.insert(shard.get<std::string>());
  }
  std::vector<Safetensors> files;
  for (const std::string& shard : shards) {
    std::error_code ignored;
    if (!fs::exists(directory / shard, ignored)) {
      fail("cannot read {}: the shard {} is missing; fetch it", index, shard);
    }
    files.push_back(Safetensors::open(directory / shard));
    for (const StoredTensor& tensor : files.back().tensors()) {
      const auto entry = map.find(tensor.name);
      if (entry == map.end()) {
        fail("cannot read {}: tensor {} of {} is not in the index; fetch the folder again", index,
             shown(tensor.name), shard);
      }
      if (*entry != shard) {
        fail("cannot read {}: tensor {} is in {}, but the index says {}; fetch the folder again", index,
             shown(tensor.name), shard, shown(*entry));
      }
    }
  }
  for (const auto& [name, value] : map.items()) {
    const fs::path shard = value.get<std::string>();
    const auto file = std::find_if(files.begin(), files.end(), [&shard](const Safetensors& candidate) {
      return candidate.path().filename() == shard;
    });
    if (!file->has(name)) {
      fail("cannot read {}: tensor {} is not in {}; fetch the folder again", index, shown(name),
           shard.string());
    }
  }
  return files;
}

std::vector<Safetensors> open_files(const fs::path& directory) {
  std::error_code ignored;
  if (fs::exists(directory / kSingleFile, ignored)) {
    std::vector<Safetensors> files;
    files.push_back(Safetensors::open(directory / kSingleFile));
    return files;
  }
  if (fs::exists(directory / kIndexFile, ignored)) return open_shards(directory);
  fail(
      "cannot read the weights of {}: there is neither {} nor {}; give the folder of a Qwen2.5-VL in "
      "safetensors format",
      directory.string(), kSingleFile, kIndexFile);
}

bool same_values(const StoredTensor& a, const StoredTensor& b) {
  if (a.type == b.type) return std::memcmp(a.bytes.data(), b.bytes.data(), a.bytes.size()) == 0;
  std::vector<float> left(static_cast<std::size_t>(a.elements())), right(left.size());
  a.copy_to(left);
  b.copy_to(right);
  return left == right;
}

}  // namespace

std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config, bool with_head) {
  std::vector<ExpectedTensor> expected;
  const auto add = [&](std::string name, std::vector<std::int64_t> shape) {
    expected.push_back({std::move(name), std::move(shape)});
  };
  const auto add_linear = [&](const std::string& name, std::int64_t out, std::int64_t in, bool bias) {
    add(name + ".weight", {out, in});
    if (bias) add(name + ".bias", {out});
  };
  const VisionConfig& vision = config.vision;
  add("visual.patch_embed.proj.weight",
      {vision.hidden, vision.channels, vision.temporal, vision.patch, vision.patch});
  for (std::int64_t i = 0; i < vision.depth; ++i) {
    const std::string block = fmt::format("visual.blocks.{}.", i);
    add(block + "norm1.weight", {vision.hidden});
    add(block + "norm2.weight", {vision.hidden});
    add_linear(block + "attn.qkv", 3 * vision.hidden, vision.hidden, true);
    add_linear(block + "attn.proj", vision.hidden, vision.hidden, true);
    add_linear(block + "mlp.gate_proj", vision.intermediate, vision.hidden, true);
    add_linear(block + "mlp.up_proj", vision.intermediate, vision.hidden, true);
    add_linear(block + "mlp.down_proj", vision.hidden, vision.intermediate, true);
  }
  const std::int64_t merged = vision.hidden * vision.merge * vision.merge;
  add("visual.merger.ln_q.weight", {vision.hidden});
  add_linear("visual.merger.mlp.0", merged, merged, true);
  add_linear("visual.merger.mlp.2", vision.out_hidden, merged, true);

  const TextConfig& text = config.text;
  const std::int64_t kv = text.kv_heads * text.head_dim;
  add(kEmbedding, {text.vocab, text.hidden});
  for (std::int64_t i = 0; i < text.layers; ++i) {
    const std::string layer = fmt::format("model.layers.{}.", i);
    add(layer + "input_layernorm.weight", {text.hidden});
    add(layer + "post_attention_layernorm.weight", {text.hidden});
    add_linear(layer + "self_attn.q_proj", text.heads * text.head_dim, text.hidden, true);
    add_linear(layer + "self_attn.k_proj", kv, text.hidden, true);
    add_linear(layer + "self_attn.v_proj", kv, text.hidden, true);
    add_linear(layer + "self_attn.o_proj", text.hidden, text.heads * text.head_dim, false);
    add_linear(layer + "mlp.gate_proj", text.intermediate, text.hidden, false);
    add_linear(layer + "mlp.up_proj", text.intermediate, text.hidden, false);
    add_linear(layer + "mlp.down_proj", text.hidden, text.intermediate, false);
  }
  add("model.norm.weight", {text.hidden});
  if (with_head) add(kHead, {text.vocab, text.hidden});
  return expected;
}

std::string canonical_name(const std::string& stored) {
  std::string name = stored;
  if (starts_with(name, "model.visual.") || starts_with(name, "model.language_model.")) name.erase(0, 6);
  if (starts_with(name, "language_model."))
    name = "model." + name.substr(std::string_view("language_model.").size());
  return name;
}

Checkpoint Checkpoint::open(const fs::path& directory, const ModelConfig& config) {
  Checkpoint checkpoint;
  checkpoint.files_ = open_files(directory);
  const std::string where = directory.string();
  std::map<std::string, StoredTensor>& tensors = checkpoint.tensors_;
  for (const Safetensors& file : checkpoint.files_) {
    for (const StoredTensor& tensor : file.tensors()) {
      const std::string name = canonical_name(tensor.name);
      const auto [place, fresh] = tensors.emplace(name, tensor);
      if (!fresh) {
        fail("cannot read {}: tensor {} and {} of {} stand for the same weight; remove one of them",
             tensor.file, shown(tensor.name), shown(place->second.name), place->second.file);
      }
    }
  }

  // A tied model may have a stored head. An untied model must have one.
  const bool head_stored = tensors.count(kHead) != 0;
  const std::vector<ExpectedTensor> expected = expected_tensors(config, head_stored || !config.text.tied);
  std::set<std::string> names;
  std::vector<std::string> missing;
  for (const ExpectedTensor& want : expected) {
    names.insert(want.name);
    const auto found = tensors.find(want.name);
    if (found == tensors.end()) {
      missing.push_back(want.name);
      continue;
    }
    const StoredTensor& tensor = found->second;
    if (tensor.shape != want.shape) {
      fail(
          "cannot read {}: tensor {} has the shape [{}], but config.json requires [{}]; give files of one "
          "model",
          tensor.file, shown(tensor.name), fmt::join(tensor.shape, ", "), fmt::join(want.shape, ", "));
    }
    if (!tensor.is_float()) {
      fail("cannot read {}: tensor {} has the dtype {}; convert it to F32, BF16 or F16", tensor.file,
           shown(tensor.name), name_of(tensor.type));
    }
  }
  if (!missing.empty()) {
    fail("cannot read the weights of {}: {} of {} tensors are missing, {} first; fetch the folder again",
         where, missing.size(), expected.size(), missing[0]);
  }
  for (const auto& [name, tensor] : tensors) {
    if (names.count(name) == 0) {
      fail("cannot read {}: config.json does not expect tensor {}; give files of one model", tensor.file,
           shown(tensor.name));
    }
  }

  checkpoint.tied_ = config.text.tied;
  if (config.text.tied && head_stored) {
    if (same_values(tensors.at(kHead), tensors.at(kEmbedding))) {
      tensors.erase(kHead);
    } else {
      checkpoint.tied_ = false;
      LOG(WARNING)
          << "the configuration of " << one_line(where)
          << " ties head and embedding, but its files contain different tensors for them: both are used";
    }
  }
  return checkpoint;
}

const StoredTensor& Checkpoint::tensor(const std::string& name) const {
  const auto found = tensors_.find(name);
  CHECK(found != tensors_.end()) << "no tensor " << name;
  return found->second;
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  return names;
}

std::vector<fs::path> Checkpoint::files() const {
  std::vector<fs::path> paths;
  for (const Safetensors& file : files_) paths.push_back(file.path());
  return paths;
}

std::string Checkpoint::fingerprint() const {
  constexpr std::size_t kSample = 4096;
  std::string text;
  for (const auto& [name, tensor] : tensors_) {
    const auto sample = tensor.bytes.first(std::min(tensor.bytes.size(), kSample));
    text += fmt::format("{} {} {} {:016x}\n", name, name_of(tensor.type), fmt::join(tensor.shape, "x"),
                        digest_of_bytes(sample));
  }
  return fmt::format("{:016x}", digest_of_bytes(std::as_bytes(std::span(text))));
}

void Checkpoint::release(const StoredTensor& tensor) const {
  for (const Safetensors& file : files_) file.release(tensor);  // only one of them holds it
}

std::size_t Checkpoint::bytes() const {
  std::size_t total = 0;
  for (const auto& [name, tensor] : tensors_) total += tensor.bytes.size();
  return total;
}

}  // namespace biqa
