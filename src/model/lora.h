// SPDX-License-Identifier: Apache-2.0
// LoRA adapters on the language model's projections: y = W x + b + scale · B A dropout(x), as in PEFT. All A and B are
// in one flat f32 vector with a name table, so optimizer, collectives and checkpoints work on ranges of it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/names.h"
#include "model/config.h"
#include "ops/adapter.h"

namespace biqa {

inline constexpr std::array kProjectionNames{
    Named<Projection>{"q_proj", Projection::q},       Named<Projection>{"k_proj", Projection::k},
    Named<Projection>{"v_proj", Projection::v},       Named<Projection>{"o_proj", Projection::o},
    Named<Projection>{"gate_proj", Projection::gate}, Named<Projection>{"up_proj", Projection::up},
    Named<Projection>{"down_proj", Projection::down}};
/// "q_proj" … "down_proj".
const char* name_of(Projection projection);
/// Input and output width of a projection.
std::int64_t input_width(const TextConfig& text, Projection projection);
std::int64_t output_width(const TextConfig& text, Projection projection);

inline constexpr std::int64_t kMaxLoraRank = 65536;

/// Settings of an adapter.
struct LoraSpec {
  std::int64_t rank = 8;
  double alpha = 16;
  double dropout = 0;
  bool rslora = false;
  std::vector<Projection> targets{kProjections.begin(), kProjections.end()};
};

/// The name table: the adapted projections and the offsets of their values. Immutable.
class LoraLayout {
 public:
  /// All modules have the same rank and scale. Order: by layer, then as in kProjections; A before B.
  LoraLayout(const ModelConfig& config, const LoraSpec& spec);
  /// Any set of modules (for rank_pattern or only some layers). Assigns the offsets in the given order.
  LoraLayout(const ModelConfig& config, LoraSpec spec, std::vector<LoraModule> modules);

  const std::vector<LoraModule>& modules() const { return modules_; }
  /// nullptr if the projection is not adapted.
  const LoraModule* find(std::int64_t layer, Projection projection) const;
  std::size_t size() const { return size_; }
  /// Number of the model's layers, adapted or not.
  std::int64_t layers() const { return static_cast<std::int64_t>(index_.size() / kProjections.size()); }
  const LoraSpec& spec() const { return spec_; }
  /// Whether both have the same modules with the same ranks and scales, in the same order.
  bool operator==(const LoraLayout& other) const;

 private:
  LoraSpec spec_;
  std::vector<LoraModule> modules_;
  std::vector<std::int64_t> index_;  // [layers, 7] → module or -1
  std::size_t size_ = 0;
};

struct FrozenParts;

/// An adapter: a layout with its values, and parts on frozen modules (model/frozen_parts.h).
struct Lora {
  std::shared_ptr<const LoraLayout> layout;
  std::vector<float> values;
  /// They are merged into the model's weights and written to every adapter file. nullptr: none.
  std::shared_ptr<const FrozenParts> frozen = nullptr;

  const float* a(const LoraModule& module) const { return values.data() + module.a_offset; }
  const float* b(const LoraModule& module) const { return values.data() + module.b_offset; }
};

/// PEFT's default initial values: A uniform in ±1/sqrt(in), B zero. They depend only on (seed, layer, projection,
/// element).
Lora initial_lora(std::shared_ptr<const LoraLayout> layout, std::uint64_t seed);

/// `base_model.model.model.language_model.layers.{i}.self_attn.q_proj.lora_A.weight` and so on;
/// old: `base_model.model.model.layers.{i}.…` (before transformers 4.52).
std::string peft_key(const LoraModule& module, char part, bool old_names = false);

/// XXH3-64 over values and layout, as 16 hex digits.
std::string digest_of(const Lora& lora);

}  // namespace biqa
