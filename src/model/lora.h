// SPDX-License-Identifier: Apache-2.0
// LoRA adapters on the language model's projections: y = W x + b + scale · B A dropout(x), as PEFT defines
// it. All A and B live in one flat f32 vector with a name table, so that optimizer, collectives and
// checkpoints are loops over ranges of it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model/config.h"
#include "ops/adapter.h"

namespace biqa {

/// "q_proj" … "down_proj".
const char* name_of(Projection projection);
/// Input and output width of a projection.
std::int64_t input_width(const TextConfig& text, Projection projection);
std::int64_t output_width(const TextConfig& text, Projection projection);

inline constexpr std::int64_t kMaxLoraRank = 65536;

/// What a configuration asks for.
struct LoraSpec {
  std::int64_t rank = 8;
  double alpha = 16;
  double dropout = 0;
  bool rslora = false;
  std::vector<Projection> targets{kProjections.begin(), kProjections.end()};
};

/// The name table: which projections are adapted and where their values stand. Immutable once made.
class LoraLayout {
 public:
  /// Same rank and scale everywhere, layer by layer in the order of kProjections, A before B.
  LoraLayout(const ModelConfig& config, const LoraSpec& spec);
  /// Any set of modules (rank_pattern, some layers only); offsets are assigned here, in the order given.
  LoraLayout(const ModelConfig& config, LoraSpec spec, std::vector<LoraModule> modules);

  const std::vector<LoraModule>& modules() const { return modules_; }
  /// nullptr where a projection is not adapted.
  const LoraModule* find(std::int64_t layer, Projection projection) const;
  std::size_t size() const { return size_; }
  /// Layers of the model, adapted or not.
  std::int64_t layers() const { return static_cast<std::int64_t>(index_.size() / kProjections.size()); }
  const LoraSpec& spec() const { return spec_; }
  /// The same modules with the same ranks and scales, in the same order.
  bool operator==(const LoraLayout& other) const;

 private:
  LoraSpec spec_;
  std::vector<LoraModule> modules_;
  std::vector<std::int64_t> index_;  // [layers, 7] → module or -1
  std::size_t size_ = 0;
};

struct FrozenParts;

/// An adapter: a layout and its values, and parts on modules that are not trained (model/frozen_parts.h).
struct Lora {
  std::shared_ptr<const LoraLayout> layout;
  std::vector<float> values;
  /// Merged into the weights of the model that the adapter is used with, and part of every file it is written to; nullptr:
  /// none.
  std::shared_ptr<const FrozenParts> frozen = nullptr;

  const float* a(const LoraModule& module) const { return values.data() + module.a_offset; }
  const float* b(const LoraModule& module) const { return values.data() + module.b_offset; }
};

/// PEFT's default start: A uniform in ±1/sqrt(in), B zero; a function of (seed, layer, projection, element) alone.
Lora initial_lora(std::shared_ptr<const LoraLayout> layout, std::uint64_t seed);

/// `base_model.model.model.language_model.layers.{i}.self_attn.q_proj.lora_A.weight` and so on;
/// old: `base_model.model.model.layers.{i}.…` (before transformers 4.52).
std::string peft_key(const LoraModule& module, char part, bool old_names = false);

/// XXH3-64 over values and layout, as 16 hex digits: what actors acknowledge.
std::string digest_of(const Lora& lora);

}  // namespace biqa
