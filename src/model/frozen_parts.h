// SPDX-License-Identifier: Apache-2.0
// Parts of an adapter on modules that biqa never trains: vision tower, merger and head. PEFT creates them for every
// module whose name matches a target. They are merged into the weights during loading. They are also kept, so that an
// exported adapter still has them (docs/decisions/0013-frozen-parts.md).
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

/// A frozen module on which an adapter may have a part.
struct FrozenModule {
  std::string name;  ///< as in the model's files: "visual.blocks.3.mlp.up_proj", "lm_head"
  std::vector<std::int64_t>
      shape;  ///< of its weight; the patch embedding is a convolution and has five dimensions
};
/// All frozen modules in the order of the network: patch embedding, blocks, merger, head.
std::vector<FrozenModule> frozen_modules(const ModelConfig& config);
/// Whether some model has a frozen module of this name.
bool is_frozen_module(const std::string& name);
/// The block of the vision tower that contains this module.
std::optional<std::int64_t> block_of_module(const std::string& name);

/// A and B are row-major; a convolution's are [rank, channels, frames, rows, columns] and [out, rank, 1, 1, 1].
struct FrozenPart {
  FrozenModule module;
  std::int64_t rank = 0;
  float scale = 0;  ///< alpha / rank, or alpha / sqrt(rank) with rslora
  std::vector<float> a, b;

  /// Shape of 'A' or 'B' as PEFT stores it.
  std::vector<std::int64_t> shape(char part) const;
  const std::vector<float>& values(char part) const { return part == 'A' ? a : b; }
  /// Borrows the values.
  LowRank change() const;
};

/// A copy of a model's weight that PEFT stored with the adapter. PEFT does this if the head is adapted.
struct BaseCopy {
  std::string weight;  ///< in the model: "lm_head.weight"
  StoredTensor tensor;
};

struct FrozenParts {
  std::vector<FrozenPart> parts;  ///< in the order of frozen_modules()
  /// When the model's weights are read, they are compared with these copies. The copies are never written to a file.
  std::vector<BaseCopy> copies;
  std::optional<Safetensors> copies_file;  ///< the file that contains them

  /// The part on a module; nullptr if it has none.
  const FrozenPart* find(const std::string& module) const;
};

/// Throws Error naming a copy that differs from the model's weight (rounded to the copy's dtype), because PEFT would
/// use the copy instead.
void check_copies(const FrozenParts& parts, const Checkpoint& checkpoint);
/// The weight whose copy has this PEFT key: "lm_head.weight" for "base_model.model.lm_head.base_layer.weight".
std::optional<std::string> copied_weight(const std::string& key);

/// Digest of module, rank, scale and values.
std::uint64_t digest_of(const FrozenPart& part);
/// Digest of all parts; 0 if there are none.
std::uint64_t digest_of(const FrozenParts* parts);
/// Whether both have no parts, or parts with the same modules, ranks, scales and values.
inline bool same_parts(const Lora& a, const Lora& b) {
  return digest_of(a.frozen.get()) == digest_of(b.frozen.get());
}

/// `base_model.model.model.visual.blocks.{i}.mlp.up_proj.lora_A.weight`, `base_model.model.lm_head.lora_A.weight`;
/// old: `base_model.model.visual.…` (before transformers 4.52).
std::string peft_key(const FrozenModule& module, char part, bool old_names = false);

}  // namespace biqa
