// SPDX-License-Identifier: Apache-2.0
#include "model/lora.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <span>
#include <utility>

#include "core/error.h"
#include "core/random.h"
#include "io/files.h"
#include "model/frozen_parts.h"

namespace biqa {
namespace {

constexpr std::size_t kProjectionCount = kProjections.size();

// "self_attn.q_proj", "mlp.gate_proj"
std::string path_in_layer(Projection projection) {
  const bool attention = projection <= Projection::o;
  return fmt::format("{}.{}", attention ? "self_attn" : "mlp", name_of(projection));
}

// The configuration is checked elsewhere, so a value that fails here comes from a file.
void validate(const LoraSpec& spec) {
  if (spec.rank < 1 || spec.rank > kMaxLoraRank) {
    fail("cannot use an adapter: its rank is {}; it must be in 1 … {}", spec.rank, kMaxLoraRank);
  }
  if (!std::isfinite(spec.alpha))
    fail("cannot use an adapter: its alpha is {}; it must be a number", spec.alpha);
  if (!(spec.dropout >= 0 && spec.dropout < 1)) {
    fail("cannot use an adapter: its dropout is {}; it must be at least 0 and below 1", spec.dropout);
  }
}

std::vector<LoraModule> uniform_modules(const TextConfig& text, const LoraSpec& spec) {
  validate(spec);
  if (spec.targets.empty())
    fail("cannot use an adapter: it has no targets; it must name at least one projection");
  const double divisor =
      spec.rslora ? std::sqrt(static_cast<double>(spec.rank)) : static_cast<double>(spec.rank);
  std::vector<LoraModule> modules;
  for (std::int64_t layer = 0; layer < text.layers; ++layer) {
    for (const Projection projection : kProjections) {
      if (std::find(spec.targets.begin(), spec.targets.end(), projection) == spec.targets.end()) continue;
      LoraModule module;
      module.layer = layer;
      module.projection = projection;
      module.rank = spec.rank;
      module.scale = static_cast<float>(spec.alpha / divisor);
      modules.push_back(module);
    }
  }
  return modules;
}

}  // namespace

const char* name_of(Projection projection) {
  return row_of(kProjectionNames, projection).name;
}

std::int64_t input_width(const TextConfig& text, Projection projection) {
  switch (projection) {
    case Projection::o:
      return text.heads * text.head_dim;
    case Projection::down:
      return text.intermediate;
    default:
      return text.hidden;
  }
}

std::int64_t output_width(const TextConfig& text, Projection projection) {
  switch (projection) {
    case Projection::q:
      return text.heads * text.head_dim;
    case Projection::k:
    case Projection::v:
      return text.kv_heads * text.head_dim;
    case Projection::gate:
    case Projection::up:
      return text.intermediate;
    default:
      return text.hidden;
  }
}

LoraLayout::LoraLayout(const ModelConfig& config, const LoraSpec& spec)
    : LoraLayout(config, spec, uniform_modules(config.text, spec)) {}

LoraLayout::LoraLayout(const ModelConfig& config, LoraSpec spec, std::vector<LoraModule> modules)
    : spec_(std::move(spec)),
      modules_(std::move(modules)),
      index_(static_cast<std::size_t>(config.text.layers) * kProjectionCount, -1) {
  validate(spec_);
  for (std::size_t i = 0; i < modules_.size(); ++i) {
    LoraModule& module = modules_[i];
    CHECK(module.layer >= 0 && module.layer < config.text.layers) << module.layer;
    if (module.rank < 1 || module.rank > kMaxLoraRank) {
      fail("cannot use an adapter: layer {} {} has rank {}; it must be in 1 … {}", module.layer,
           name_of(module.projection), module.rank, kMaxLoraRank);
    }
    module.in = input_width(config.text, module.projection);
    module.out = output_width(config.text, module.projection);
    module.a_offset = size_;
    module.b_offset = module.a_offset + static_cast<std::size_t>(module.rank * module.in);
    size_ = module.b_offset + static_cast<std::size_t>(module.out * module.rank);
    std::int64_t& slot = index_[static_cast<std::size_t>(module.layer) * kProjectionCount +
                                static_cast<std::size_t>(module.projection)];
    CHECK_EQ(slot, -1) << "layer " << module.layer << " " << name_of(module.projection)
                       << " is adapted twice";
    slot = static_cast<std::int64_t>(i);
  }
}

const LoraModule* LoraLayout::find(std::int64_t layer, Projection projection) const {
  const std::size_t slot =
      static_cast<std::size_t>(layer) * kProjectionCount + static_cast<std::size_t>(projection);
  CHECK(layer >= 0 && slot < index_.size()) << layer;
  return index_[slot] < 0 ? nullptr : &modules_[static_cast<std::size_t>(index_[slot])];
}

bool LoraLayout::operator==(const LoraLayout& other) const {
  return std::equal(modules_.begin(), modules_.end(), other.modules_.begin(), other.modules_.end(),
                    [](const LoraModule& a, const LoraModule& b) {
                      return a.layer == b.layer && a.projection == b.projection && a.rank == b.rank &&
                             a.in == b.in && a.out == b.out && a.scale == b.scale;
                    });
}

Lora initial_lora(std::shared_ptr<const LoraLayout> layout, std::uint64_t seed) {
  Lora lora{std::move(layout), {}, nullptr};
  lora.values.assign(lora.layout->size(), 0.0F);
  for (const LoraModule& module : lora.layout->modules()) {
    const RandomStream stream({hash_text("lora A"), seed, static_cast<std::uint64_t>(module.layer),
                               static_cast<std::uint64_t>(module.projection)});
    const double bound = 1.0 / std::sqrt(static_cast<double>(module.in));
    const auto count = static_cast<std::size_t>(module.rank * module.in);
    for (std::size_t i = 0; i < count; ++i) {
      lora.values[module.a_offset + i] = static_cast<float>((2.0 * stream.uniform(i) - 1.0) * bound);
    }
  }
  return lora;
}

std::string peft_key(const LoraModule& module, char part, bool old_names) {
  CHECK(part == 'A' || part == 'B') << part;
  return fmt::format("base_model.model.model.{}layers.{}.{}.lora_{}.weight",
                     old_names ? "" : "language_model.", module.layer, path_in_layer(module.projection),
                     part);
}

std::string digest_of(const Lora& lora) {
  std::vector<std::uint64_t> words;
  for (const LoraModule& module : lora.layout->modules()) {
    for (const std::int64_t number :
         {module.layer, static_cast<std::int64_t>(module.projection), module.rank, module.in, module.out}) {
      words.push_back(static_cast<std::uint64_t>(number));
    }
    words.push_back(std::bit_cast<std::uint32_t>(module.scale));
  }
  words.push_back(digest_of_bytes(std::as_bytes(std::span(lora.values))));
  if (const std::uint64_t frozen = digest_of(lora.frozen.get()); frozen != 0) words.push_back(frozen);
  return fmt::format("{:016x}", digest_of_bytes(std::as_bytes(std::span(words))));
}

}  // namespace biqa
