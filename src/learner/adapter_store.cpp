// SPDX-License-Identifier: Apache-2.0
#include "learner/adapter_store.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "core/error.h"
#include "model/peft.h"

namespace biqa {
namespace {

std::string place_in(const std::string& group, const std::string& name) {
  return group.empty() ? name : group + "/" + name;
}

std::vector<std::int64_t> shape_of(const LoraModule& module, char half) {
  return half == 'A' ? std::vector{module.rank, module.in} : std::vector{module.out, module.rank};
}

void write_module(Hdf5Writer& out, const std::string& group, const LoraModule& module,
                  std::span<const float> values) {
  for (const char half : {'A', 'B'}) {
    const std::vector<std::int64_t> shape = shape_of(module, half);
    out.dataset(place_in(group, peft_key(module, half)),
                values.subspan(half == 'A' ? module.a_offset : module.b_offset,
                               static_cast<std::size_t>(shape[0] * shape[1])),
                shape);
  }
}

[[noreturn]] void refuse(const Hdf5File& file, const std::string& tensor, const std::string& why) {
  fail("adapter {}: tensor {} {}; the adapter is for another model or damaged", file.path().string(), tensor,
       why);
}

/// The module with the rank and scale of its tensors; nothing if there is no A.
std::optional<LoraModule> read_module(const Hdf5File& file, const std::string& group,
                                      const ModelConfig& config, const LoraSpec& spec, LoraModule module) {
  const std::string a = place_in(group, peft_key(module, 'A'));
  if (!file.exists(a)) return std::nullopt;
  module.in = input_width(config.text, module.projection);
  module.out = output_width(config.text, module.projection);
  const std::vector<std::int64_t> shape = file.shape(a);
  if (shape.size() != 2 || shape[0] < 1 || shape[0] > kMaxLoraRank || shape[1] != module.in) {
    refuse(file, a,
           fmt::format("has shape [{}], but the model needs [rank, {}] with a rank in 1 … {}",
                       fmt::join(shape, ", "), module.in, kMaxLoraRank));
  }
  module.rank = shape[0];
  const auto rank = static_cast<double>(module.rank);
  module.scale = static_cast<float>(file.has_attribute(a, "scale")
                                        ? file.attribute_f64(a, "scale")
                                        : spec.alpha / (spec.rslora ? std::sqrt(rank) : rank));
  if (!std::isfinite(module.scale)) refuse(file, a, "has a scale that is not finite");
  return module;
}

}  // namespace

void write_factors(Hdf5Writer& out, const std::string& group, const LoraLayout& layout,
                   std::span<const float> values) {
  CHECK_EQ(values.size(), layout.size());
  for (const LoraModule& m : layout.modules()) write_module(out, group, m, values);
}

std::vector<float> read_factors(const Hdf5File& file, const std::string& group, const LoraLayout& layout) {
  // Grows while tensors are read, in the layout's order. So a shape alone cannot claim memory.
  std::vector<float> values;
  for (const LoraModule& m : layout.modules()) {
    for (const char half : {'A', 'B'}) {
      const std::string tensor = place_in(group, peft_key(m, half));
      if (!file.exists(tensor)) refuse(file, tensor, "is missing");
      const std::vector<std::int64_t> stored = file.shape(tensor);
      if (stored != shape_of(m, half)) {
        refuse(file, tensor,
               fmt::format("has shape [{}], but the model needs [{}]", fmt::join(stored, ", "),
                           fmt::join(shape_of(m, half), ", ")));
      }
      const std::vector<float> read = file.read_f32(tensor);
      if (!std::all_of(read.begin(), read.end(), [](float value) { return std::isfinite(value); }))
        refuse(file, tensor, "has a value that is not finite");
      CHECK_EQ(values.size(), half == 'A' ? m.a_offset : m.b_offset);
      values.insert(values.end(), read.begin(), read.end());
    }
  }
  CHECK_EQ(values.size(), layout.size());
  return values;
}

void write_adapter(Hdf5Writer& out, const std::string& group, const Lora& lora) {
  CHECK_EQ(lora.values.size(), lora.layout->size());
  for (const LoraModule& m : lora.layout->modules()) {
    write_module(out, group, m, lora.values);
    out.attribute(place_in(group, peft_key(m, 'A')), "scale", static_cast<double>(m.scale));
  }
}

Lora read_adapter(const Hdf5File& file, const std::string& group, const ModelConfig& config, LoraSpec spec) {
  std::vector<LoraModule> modules;
  std::set<std::string> known;
  spec.targets.clear();
  for (std::int64_t layer = 0; layer < config.text.layers; ++layer) {
    for (const Projection projection : kProjections) {
      LoraModule named;
      named.layer = layer;
      named.projection = projection;
      const std::optional<LoraModule> module = read_module(file, group, config, spec, named);
      if (!module) continue;
      for (const char half : {'A', 'B'}) known.insert(peft_key(*module, half));
      if (std::find(spec.targets.begin(), spec.targets.end(), projection) == spec.targets.end())
        spec.targets.push_back(projection);
      modules.push_back(*module);
    }
  }
  std::vector<std::string> foreign;
  for (const std::string& name : file.children(group.empty() ? "/" : group)) {
    if (is_frozen_key(name) || known.contains(name)) continue;
    if (!group.empty() || name.starts_with("base_model"))
      refuse(file, place_in(group, name), "belongs to no module of the model");
    foreign.push_back(name);
  }
  // The root may contain notes of other programs. They are reported, because they may also be tensors with wrong names.
  if (!foreign.empty()) {
    const std::string more = foreign.size() > 1 ? fmt::format(" (and {} more)", foreign.size() - 1) : "";
    LOG(WARNING) << one_line(fmt::format("adapter {}: {}{} is not part of an adapter and is ignored",
                                         file.path().string(), foreign.front(), more));
  }
  Lora lora{std::make_shared<LoraLayout>(config, std::move(spec), std::move(modules)), {}};
  lora.values = read_factors(file, group, *lora.layout);
  return lora;
}

bool is_frozen_key(const std::string& name) {
  const auto parsed = parse_peft_key(name);
  return parsed && !parsed->frozen.empty();
}

void write_frozen_parts(Hdf5Writer& out, const std::string& group, const Lora& lora) {
  if (lora.frozen == nullptr) return;
  for (const FrozenPart& part : lora.frozen->parts) {
    for (const char half : {'A', 'B'})
      out.dataset(place_in(group, peft_key(part.module, half)), std::span<const float>(part.values(half)),
                  part.shape(half));
    out.attribute(place_in(group, peft_key(part.module, 'A')), "scale", static_cast<double>(part.scale));
  }
}

std::shared_ptr<const FrozenParts> read_frozen_parts(const Hdf5File& file, const std::string& group,
                                                     const ModelConfig& config) {
  std::set<std::string> names;
  for (const std::string& name : file.children(group.empty() ? "/" : group)) {
    if (is_frozen_key(name)) names.insert(name);
  }
  if (names.empty()) return nullptr;
  const auto refuse_part = [&](const std::string& name, const std::string& why) {
    refuse(file, place_in(group, name), why);
  };
  const auto parts = std::make_shared<FrozenParts>();
  for (FrozenModule& module : frozen_modules(config)) {
    const std::string a = peft_key(module, 'A'), b = peft_key(module, 'B');
    const std::size_t halves = names.erase(a) + names.erase(b);
    if (halves == 0) continue;
    if (halves == 1) refuse_part(file.exists(place_in(group, a)) ? b : a, "is missing");
    FrozenPart part;
    part.module = std::move(module);
    const std::string place = place_in(group, a);
    const std::vector<std::int64_t> shape = file.shape(place);
    part.rank = shape.empty() ? 0 : shape[0];
    if (part.rank < 1 || part.rank > kMaxLoraRank) refuse_part(a, "has no rank");
    if (!file.has_attribute(place, "scale")) refuse_part(a, "has no attribute scale");
    part.scale = static_cast<float>(file.attribute_f64(place, "scale"));
    if (!std::isfinite(part.scale)) refuse_part(a, "has a scale that is not finite");
    for (const char half : {'A', 'B'}) {
      const std::string& name = half == 'A' ? a : b;
      const std::vector<std::int64_t> stored = file.shape(place_in(group, name));
      if (stored != part.shape(half)) {
        refuse_part(name, fmt::format("has shape [{}], but the model needs [{}]", fmt::join(stored, ", "),
                                      fmt::join(part.shape(half), ", ")));
      }
      std::vector<float>& values = half == 'A' ? part.a : part.b;
      values = file.read_f32(place_in(group, name));
      if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }))
        refuse_part(name, "has values that are not finite");
    }
    parts->parts.push_back(std::move(part));
  }
  if (!names.empty()) refuse_part(*names.begin(), "belongs to no module of the model");
  return parts;
}

}  // namespace biqa
