// SPDX-License-Identifier: Apache-2.0
// The parts of an adapter on modules that are never trained here: the vision tower, its merger, the head. PEFT makes them
// wherever a target's name fits. They are merged into the weights while loading, and kept, so that an adapter leaves as it
// came (docs/decisions/0013-frozen-parts.md).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/lora.h"
#include "model/low_rank.h"

namespace biqa {

/// A frozen module that an adapter may have a part on.
struct FrozenModule {
  std::string name;  ///< as in the model's files: "visual.blocks.3.mlp.up_proj", "lm_head"
  std::vector<std::int64_t>
      shape;  ///< of its weight; the patch embedding is a convolution and has five dimensions
};
/// All of them, in the order of the network: patch embedding, blocks, merger, head.
std::vector<FrozenModule> frozen_modules(const ModelConfig& config);
/// Whether a name is that of such a module in some model.
bool is_frozen_module(const std::string& name);
/// The block of the vision tower that a module of it lies in.
std::optional<std::int64_t> block_of_module(const std::string& name);

/// A and B are row-major; a convolution's are [rank, channels, frames, rows, columns] and [out, rank, 1, 1, 1].
struct FrozenPart {
  FrozenModule module;
  std::int64_t rank = 0;
  float scale = 0;  ///< alpha / rank, or alpha / sqrt(rank) with rslora
  std::vector<float> a, b;

  /// Of part 'A' or 'B' as PEFT stores it.
  std::vector<std::int64_t> shape(char part) const;
  const std::vector<float>& values(char part) const { return part == 'A' ? a : b; }
  /// Borrows the values.
  LowRank change() const;
};

/// A weight of the model that PEFT stored beside the adapter, as it does where the head is adapted.
struct BaseCopy {
  std::string weight;  ///< in the model: "lm_head.weight"
  StoredTensor tensor;
};

struct FrozenParts {
  std::vector<FrozenPart> parts;  ///< in the order of frozen_modules()
  /// Compared with the model's weights while these are read, and not written to any file.
  std::vector<BaseCopy> copies;
  std::optional<Safetensors> copies_file;  ///< that they lie in

  /// nullptr where a module has none.
  const FrozenPart* find(const std::string& module) const;
};

/// Throws Error naming a copy that is not the model's weight (rounded to the copy's dtype): PEFT would take it instead.
void check_copies(const FrozenParts& parts, const Checkpoint& checkpoint);
/// The weight that a key of PEFT holds a copy of: "lm_head.weight" of "base_model.model.lm_head.base_layer.weight".
std::optional<std::string> copied_weight(const std::string& key);

/// Tells a part from others: module, rank, scale and values.
std::uint64_t digest_of(const FrozenPart& part);
/// Of all parts; 0 for none.
std::uint64_t digest_of(const FrozenParts* parts);
/// Both none, or the same modules, scales and values.
inline bool same_parts(const Lora& a, const Lora& b) {
  return digest_of(a.frozen.get()) == digest_of(b.frozen.get());
}

/// `base_model.model.model.visual.blocks.{i}.mlp.up_proj.lora_A.weight`, `base_model.model.lm_head.lora_A.weight`;
/// old: `base_model.model.visual.…` (before transformers 4.52).
std::string peft_key(const FrozenModule& module, char part, bool old_names = false);

}  // namespace biqa
