// SPDX-License-Identifier: Apache-2.0
#include "learner/frozen_store.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
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

}  // namespace

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
  const auto refuse = [&](const std::string& name, const std::string& why) {
    fail("adapter {}: tensor {} {}; the adapter is for another model or damaged", file.path().string(),
         place_in(group, name), why);
  };
  const auto parts = std::make_shared<FrozenParts>();
  for (FrozenModule& module : frozen_modules(config)) {
    const std::string a = peft_key(module, 'A'), b = peft_key(module, 'B');
    const std::size_t halves = names.erase(a) + names.erase(b);
    if (halves == 0) continue;
    if (halves == 1) refuse(file.exists(place_in(group, a)) ? b : a, "is missing");
    FrozenPart part;
    part.module = std::move(module);
    const std::string place = place_in(group, a);
    const std::vector<std::int64_t> shape = file.shape(place);
    part.rank = shape.empty() ? 0 : shape[0];
    if (part.rank < 1 || part.rank > kMaxLoraRank) refuse(a, "has no rank");
    if (!file.has_attribute(place, "scale")) refuse(a, "has no attribute scale");
    part.scale = static_cast<float>(file.attribute_f64(place, "scale"));
    if (!std::isfinite(part.scale)) refuse(a, "has a scale that is not finite");
    for (const char half : {'A', 'B'}) {
      const std::string& name = half == 'A' ? a : b;
      const std::vector<std::int64_t> stored = file.shape(place_in(group, name));
      if (stored != part.shape(half)) {
        refuse(name, fmt::format("has shape [{}], the model wants [{}]", fmt::join(stored, ", "),
                                 fmt::join(part.shape(half), ", ")));
      }
      std::vector<float>& values = half == 'A' ? part.a : part.b;
      values = file.read_f32(place_in(group, name));
      if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }))
        refuse(name, "holds values that are not finite");
    }
    parts->parts.push_back(std::move(part));
  }
  if (!names.empty()) refuse(*names.begin(), "belongs to no module of the model");
  return parts;
}

}  // namespace biqa
