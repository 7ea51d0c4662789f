// SPDX-License-Identifier: Apache-2.0
#include "model/frozen_parts.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <span>
#include <string_view>

#include "core/error.h"
#include "core/random.h"
#include "io/files.h"
#include "io/json.h"

namespace biqa {
namespace {

constexpr std::string_view kVision = "visual.";
constexpr std::string_view kBlocks = "visual.blocks.";
constexpr std::string_view kHead = "lm_head";
constexpr std::string_view kWeight = ".weight";

std::int64_t product(std::span<const std::int64_t> sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), std::int64_t{1}, std::multiplies<>());
}

// Tensors are large, so they are compared piece by piece.
constexpr std::int64_t kPiece = std::int64_t{1} << 20;

StoredTensor piece_of(const StoredTensor& tensor, std::int64_t first, std::int64_t count) {
  const auto size = static_cast<std::size_t>(bits_of(tensor.type) / 8);
  StoredTensor piece = tensor;
  piece.shape = {count};
  piece.bytes =
      tensor.bytes.subspan(static_cast<std::size_t>(first) * size, static_cast<std::size_t>(count) * size);
  return piece;
}

bool is_copy(const StoredTensor& copy, const StoredTensor& weight) {
  if (copy.shape != weight.shape) return false;
  std::vector<float> mine, theirs;
  for (std::int64_t first = 0; first < copy.elements(); first += kPiece) {
    const std::int64_t count = std::min(kPiece, copy.elements() - first);
    mine.resize(static_cast<std::size_t>(count));
    theirs.resize(static_cast<std::size_t>(count));
    piece_of(copy, first, count).copy_to(mine);
    piece_of(weight, first, count).copy_to(theirs);
    for (float& value : theirs) {
      if (copy.type == StoredType::bf16) value = to_float(to_bf16(value));
      if (copy.type == StoredType::f16) value = half_to_float(to_half(value));
    }
    if (mine != theirs) return false;
  }
  return true;
}

}  // namespace

std::vector<FrozenModule> frozen_modules(const ModelConfig& config) {
  std::vector<FrozenModule> modules;
  ModelConfig without_layers = config;
  without_layers.text.layers = 0;
  for (ExpectedTensor& tensor : expected_tensors(without_layers, true)) {
    const std::string_view name = tensor.name;
    const bool frozen = name.starts_with(kVision) || name.starts_with(kHead);
    // Norms and biases have no second dimension.
    if (!frozen || tensor.shape.size() < 2 || !name.ends_with(kWeight)) continue;
    modules.push_back({std::string(name.substr(0, name.size() - kWeight.size())), std::move(tensor.shape)});
  }
  return modules;
}

std::optional<std::int64_t> block_of_module(const std::string& name) {
  if (!name.starts_with(kBlocks)) return std::nullopt;
  std::int64_t block = 0;
  const char* const end = name.data() + name.size();
  const auto parsed = std::from_chars(name.data() + kBlocks.size(), end, block);
  if (parsed.ec != std::errc() || block < 0) return std::nullopt;
  // No signs, no leading zeros.
  const std::string start = fmt::format("{}{}.", kBlocks, block);
  return name.starts_with(start) ? std::optional(block) : std::nullopt;
}

bool is_frozen_module(const std::string& name) {
  static const std::vector<FrozenModule> kOneBlock = [] {
    ModelConfig config;
    config.vision.depth = 1;
    return frozen_modules(config);
  }();
  std::string as_first = name;
  if (const auto block = block_of_module(name)) {
    const std::size_t rest = name.find('.', kBlocks.size());
    as_first = fmt::format("{}0{}", kBlocks, name.substr(rest));
  }
  return std::any_of(kOneBlock.begin(), kOneBlock.end(),
                     [&](const FrozenModule& module) { return module.name == as_first; });
}

std::vector<std::int64_t> FrozenPart::shape(char part) const {
  CHECK(part == 'A' || part == 'B') << part;
  std::vector<std::int64_t> result = module.shape;
  if (part == 'A') {
    result[0] = rank;
  } else {
    std::fill(result.begin() + 1, result.end(), 1);
    result[1] = rank;
  }
  return result;
}

LowRank FrozenPart::change() const {
  const std::int64_t in = product(std::span(module.shape).subspan(1));
  CHECK(static_cast<std::int64_t>(a.size()) == rank * in &&
        static_cast<std::int64_t>(b.size()) == rank * module.shape[0])
      << module.name;
  return {module.shape[0], rank, in, scale, a.data(), b.data()};
}

const FrozenPart* FrozenParts::find(const std::string& module) const {
  const auto found = std::find_if(parts.begin(), parts.end(),
                                  [&](const FrozenPart& part) { return part.module.name == module; });
  return found == parts.end() ? nullptr : &*found;
}

void check_copies(const FrozenParts& parts, const Checkpoint& checkpoint) {
  for (const BaseCopy& copy : parts.copies) {
    const std::string& weight = checkpoint.has(copy.weight) ? copy.weight : "model.embed_tokens.weight";
    if (is_copy(copy.tensor, checkpoint.tensor(weight))) continue;
    fail(
        "cannot use the adapter of {}: tensor {} would replace the model's {}, which has other values; merge "
        "it with PEFT first (merge_and_unload) and give the merged model",
        copy.tensor.file, shown(copy.tensor.name), copy.weight);
  }
}

std::optional<std::string> copied_weight(const std::string& key) {
  constexpr std::string_view kPrefix = "base_model.model.";
  if (!key.starts_with(kPrefix)) return std::nullopt;
  std::string name = canonical_name(key.substr(kPrefix.size()));
  constexpr std::string_view kBase = ".base_layer.weight";
  if (name.ends_with(kBase)) name.replace(name.size() - kBase.size(), kBase.size(), kWeight);
  if (name != "lm_head.weight" && name != "model.embed_tokens.weight") return std::nullopt;
  return name;
}

std::uint64_t digest_of(const FrozenPart& part) {
  std::vector<std::uint64_t> words{hash_text(part.module.name), static_cast<std::uint64_t>(part.rank),
                                   std::bit_cast<std::uint32_t>(part.scale)};
  for (const std::int64_t size : part.module.shape) words.push_back(static_cast<std::uint64_t>(size));
  for (const char half : {'A', 'B'})
    words.push_back(digest_of_bytes(std::as_bytes(std::span(part.values(half)))));
  return digest_of_bytes(std::as_bytes(std::span(words)));
}

std::uint64_t digest_of(const FrozenParts* parts) {
  if (parts == nullptr || parts->parts.empty()) return 0;
  std::vector<std::uint64_t> words;
  words.reserve(parts->parts.size());
  for (const FrozenPart& part : parts->parts) words.push_back(digest_of(part));
  return digest_of_bytes(std::as_bytes(std::span(words)));
}

std::string peft_key(const FrozenModule& module, char part, bool old_names) {
  CHECK(part == 'A' || part == 'B') << part;
  const bool nested = module.name.starts_with(kVision) && !old_names;
  return fmt::format("base_model.model.{}{}.lora_{}.weight", nested ? "model." : "", module.name, part);
}

}  // namespace biqa
