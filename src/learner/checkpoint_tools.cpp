// SPDX-License-Identifier: Apache-2.0
#include "learner/checkpoint_tools.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <glog/logging.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <map>
#include <set>
#include <sstream>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "io/hdf5.h"
#include "io/safetensors.h"
#include "model/frozen_parts.h"
#include "model/peft.h"

namespace biqa {
namespace fs = std::filesystem;
namespace {

constexpr const char* kAdapterFile = "adapter.h5";
constexpr const char* kPeftWeights = "adapter_model.safetensors";

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}
bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

// PEFT stores the head together with an adapter of it. biqa's files do not.
void warn_of_copies(const Lora& lora) {
  if (lora.frozen == nullptr) return;
  for (const BaseCopy& copy : lora.frozen->copies) {
    LOG(WARNING) << "tensor " << one_line(copy.tensor.name) << " of " << one_line(copy.tensor.file)
                 << " is left out: it should equal the model's own " << copy.weight
                 << ", but this was not checked";
  }
}

// The checkpoints/ of a run, also if `path` is that folder itself. Nothing if it is neither.
std::optional<fs::path> checkpoints_of(const fs::path& path) {
  if (is_folder(path / "checkpoints")) return path / "checkpoints";
  if (!CheckpointStore(path).newest_first().empty()) return path;
  return std::nullopt;
}

bool is_checkpoint(const fs::path& folder) {
  // A path that ends in a slash, such as `latest/`, has no file name.
  const fs::path clean = folder.has_filename() ? folder : folder.parent_path();
  return is_there(folder / "manifest.json") ||
         (clean.filename().string().starts_with("step-") && !is_there(folder / "checkpoints"));
}

// The current target of a link, because `latest` may point to another checkpoint later.
fs::path behind_link(const fs::path& path) {
  const fs::path clean = path.has_filename() ? path : path.parent_path();
  std::error_code error;
  const fs::path target = fs::read_symlink(clean, error);
  return error ? clean : clean.parent_path() / target;
}

std::map<std::string, std::vector<std::int64_t>> shapes_of_file(const fs::path& path) {
  const Hdf5File file(path);
  std::map<std::string, std::vector<std::int64_t>> shapes;
  for (const std::string& name : file.children()) shapes.emplace(name, file.shape(name));
  return shapes;
}

fs::path adapter_file_of(const AdapterPlace& place) {
  return place.kind == AdapterKind::checkpoint ? place.path / kAdapterFile : place.path;
}

ModelConfig config_for(const AdapterPlace& place, const std::optional<fs::path>& model) {
  if (model) return ModelConfig::load(*model);
  if (place.kind == AdapterKind::peft)
    return config_of_adapter(read_peft_shapes(place.path), place.path.string());
  const fs::path file = adapter_file_of(place);
  return config_of_adapter(shapes_of_file(file), file.string());
}

TensorDifference compare_values(std::string name, std::span<const float> a, std::span<const float> b) {
  TensorDifference difference;
  difference.name = std::move(name);
  difference.shape_a = {static_cast<std::int64_t>(a.size())};
  difference.shape_b = {static_cast<std::int64_t>(b.size())};
  if (a.size() != b.size()) return difference;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<std::uint32_t>(a[i]) == std::bit_cast<std::uint32_t>(b[i])) continue;
    ++difference.differing;
    const double left = a[i], right = b[i], apart = std::abs(left - right);
    difference.largest = std::max(difference.largest, apart);
    // Zeros of different sign differ only in their bits.
    if (apart > 0) {
      difference.largest_relative =
          std::max(difference.largest_relative, apart / std::max(std::abs(left), std::abs(right)));
    }
  }
  difference.equal = difference.differing == 0;
  return difference;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// Lines of `a` that `b` lacks, in their order. A line that occurs twice in `a` must also occur twice in `b`.
std::vector<std::string> lines_only_in(const std::string& a, const std::string& b) {
  std::multiset<std::string> others;
  for (std::string& line : lines_of(b)) others.insert(std::move(line));
  std::vector<std::string> only;
  for (const std::string& line : lines_of(a)) {
    if (const auto found = others.find(line); found != others.end())
      others.erase(found);
    else
      only.push_back(line);
  }
  return only;
}

std::string targets_text(const LoraSpec& spec) {
  std::vector<Projection> targets = spec.targets;
  std::sort(targets.begin(), targets.end());
  std::vector<std::string> names;
  names.reserve(targets.size());
  for (const Projection projection : targets) names.emplace_back(name_of(projection));
  return fmt::format("{}", fmt::join(names, " "));
}

Verdict verdict_of_adapter(const AdapterPlace& place) {
  Verdict verdict{place.path, {}};
  try {
    static_cast<void>(read_placed_adapter(place));
  } catch (const Error& error) {
    verdict.damage.emplace_back(error.what());
  }
  return verdict;
}

void refuse_existing(const fs::path& target) {
  std::error_code ignored;
  if (is_there(target) && !(is_folder(target) && fs::is_empty(target, ignored)))
    fail("cannot write {}: it already exists; choose another name or remove it", target.string());
}

}  // namespace

const char* name_of(AdapterKind kind) {
  switch (kind) {
    case AdapterKind::checkpoint:
      return "checkpoint";
    case AdapterKind::file:
      return "adapter.h5";
    case AdapterKind::peft:
      return "PEFT";
  }
  return "";
}

namespace {

AdapterPlace find_adapter(const fs::path& path,
                          const std::function<std::string(const fs::path&)>& damage_of) {
  if (!is_there(path))
    fail("cannot read {}: no such file or folder; name a checkpoint or a run", path.string());
  if (!is_folder(path)) {
    if (path.extension() == ".safetensors") return {AdapterKind::peft, path.parent_path()};
    if (path.filename().string().starts_with("optimizer-"))
      fail("cannot read {}: it is an optimizer shard without an adapter; name its checkpoint, {}",
           path.string(), path.has_parent_path() ? path.parent_path().string() : ".");
    return {AdapterKind::file, path};
  }
  if (is_checkpoint(path)) return {AdapterKind::checkpoint, behind_link(path)};
  if (is_there(path / "adapter_config.json")) return {AdapterKind::peft, path};
  if (const auto root = checkpoints_of(path)) {
    for (const fs::path& folder : CheckpointStore(*root).newest_first()) {
      const std::string damage = damage_of(folder);
      if (damage.empty()) return {AdapterKind::checkpoint, folder};
      LOG(WARNING) << one_line(damage) << "; trying the checkpoint before it";
    }
    if (!is_there(path / kAdapterFile))
      fail("cannot read {}: it has no undamaged checkpoint; name another", path.string());
  }
  if (is_there(path / kAdapterFile)) return {AdapterKind::file, path / kAdapterFile};
  fail(
      "cannot read {}: it is neither a checkpoint, a run, a PEFT folder nor an adapter.h5; name one of these",
      path.string());
}

}  // namespace

AdapterPlace find_adapter(const fs::path& path) {
  return find_adapter(path, [](const fs::path& folder) {
    const std::vector<std::string> damage = CheckpointStore::find_damage(folder);
    return damage.empty() ? std::string() : damage.front();
  });
}

AdapterPlace find_adapter_alone(const fs::path& path) {
  return find_adapter(path, damage_of_adapter);
}

Lora read_placed_adapter(const AdapterPlace& place, const std::optional<fs::path>& model) {
  const ModelConfig config = config_for(place, model);
  // The kind is known here, so the file name may have any ending.
  if (place.kind == AdapterKind::peft) return read_peft(place.path, config);
  return read_any_adapter(place.path, config);
}

AdapterState read_adapter_state(const AdapterPlace& place, const std::optional<fs::path>& model) {
  AdapterState state;
  state.place = place;
  std::map<std::string, std::string> types;
  if (place.kind == AdapterKind::peft) {
    state.content.adapter = read_placed_adapter(place, model);
    state.content.info.base_model = read_peft_base_model(place.path);
    state.content.info.best_value = std::nan("");
    const Safetensors weights = Safetensors::open(place.path / kPeftWeights);
    for (const StoredTensor& tensor : weights.tensors()) {
      const auto parsed = parse_peft_key(tensor.name);
      if (!parsed) continue;  // a copy of a weight of the model
      LoraModule module;
      module.layer = parsed->layer;
      module.projection = parsed->projection;
      types.emplace(parsed->frozen.empty() ? peft_key(module, parsed->part)
                                           : peft_key(FrozenModule{parsed->frozen, {}}, parsed->part),
                    name_of(tensor.type));
    }
  } else {
    if (place.kind == AdapterKind::checkpoint) {
      state.content = CheckpointStore::load(place.path, config_for(place, model));
      for (const CheckpointManifest::File& file : read_checkpoint_manifest(place.path).files) {
        if (!file.name.starts_with("optimizer-")) continue;
        const Hdf5File shard(place.path / file.name);
        state.shards.push_back({file.name, shard.attribute_i64("/", "begin"), shard.attribute_i64("/", "end"),
                                shard.attribute_i64("/", "updates"), file.bytes});
      }
    } else {
      state.content.adapter = read_placed_adapter(place, model);
    }
    const Hdf5File file(adapter_file_of(place));
    for (const std::string& name : file.children()) types.emplace(name, file.type_name(name));
    if (place.kind == AdapterKind::file) {
      CheckpointInfo& info = state.content.info;
      info.best_value = std::nan("");
      if (file.has_attribute("/", "step")) info.step = file.attribute_i64("/", "step");
      if (file.has_attribute("/", "version")) info.version = file.attribute_i64("/", "version");
      if (file.has_attribute("/", "base_model")) info.base_model = file.attribute_text("/", "base_model");
    }
  }
  for (const LoraModule& m : state.content.adapter.layout->modules()) {
    for (const char part : {'A', 'B'}) {
      AdapterState::Tensor tensor;
      tensor.name = peft_key(m, part);
      tensor.type = types[tensor.name];
      tensor.shape = part == 'A' ? std::vector{m.rank, m.in} : std::vector{m.out, m.rank};
      tensor.scale = m.scale;
      tensor.offset = part == 'A' ? m.a_offset : m.b_offset;
      tensor.count = static_cast<std::size_t>(tensor.shape[0] * tensor.shape[1]);
      state.tensors.push_back(std::move(tensor));
    }
  }
  if (const FrozenParts* frozen = state.content.adapter.frozen.get(); frozen != nullptr) {
    for (const FrozenPart& part : frozen->parts) {
      for (const char half : {'A', 'B'}) {
        const std::vector<float>& values = part.values(half);
        const std::string name = peft_key(part.module, half);
        state.tensors.push_back({name, types[name], part.shape(half), part.scale, 0, values.size(), &values});
      }
    }
  }
  return state;
}

ValueStatistics statistics_of(std::span<const float> values) {
  ValueStatistics statistics;
  statistics.count = values.size();
  if (values.empty()) return statistics;
  double sum = 0, squares = 0;
  for (const float value : values) {
    sum += value;
    squares += static_cast<double>(value) * value;
    if (value == 0) ++statistics.zeros;
  }
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  const auto count = static_cast<double>(values.size());
  statistics.mean = sum / count;
  double apart = 0;
  for (const float value : values) apart += (value - statistics.mean) * (value - statistics.mean);
  statistics.deviation = std::sqrt(apart / count);
  statistics.norm = std::sqrt(squares);
  statistics.least = *least;
  statistics.most = *most;
  return statistics;
}

std::vector<std::size_t> histogram_of(std::span<const float> values, double least, double most,
                                      std::size_t bins) {
  CHECK_GT(bins, 0U);
  std::vector<std::size_t> counts(bins, 0);
  for (const float value : values) {
    const double part = most > least ? (value - least) / (most - least) : 0;
    ++counts[std::min(bins - 1, static_cast<std::size_t>(std::max(0.0, part) * static_cast<double>(bins)))];
  }
  return counts;
}

std::size_t AdapterDifference::different_tensors() const {
  return static_cast<std::size_t>(
      std::count_if(tensors.begin(), tensors.end(), [](const TensorDifference& one) { return !one.equal; }));
}

AdapterDifference compare_adapters(const AdapterState& a, const AdapterState& b) {
  AdapterDifference result;
  std::map<std::string, const AdapterState::Tensor*> of_b;
  for (const AdapterState::Tensor& tensor : b.tensors) of_b.emplace(tensor.name, &tensor);
  std::size_t other_scales = 0;
  for (const AdapterState::Tensor& tensor : a.tensors) {
    const auto found = of_b.find(tensor.name);
    TensorDifference difference;
    if (found != of_b.end() && found->second->shape == tensor.shape)
      difference = compare_values(tensor.name, a.values(tensor), b.values(*found->second));
    difference.name = tensor.name;
    difference.shape_a = tensor.shape;
    difference.shape_b = found == of_b.end() ? std::vector<std::int64_t>{} : found->second->shape;
    if (found != of_b.end()) {
      if (found->second->scale != tensor.scale) ++other_scales;
      of_b.erase(found);
    }
    result.tensors.push_back(std::move(difference));
  }
  for (const AdapterState::Tensor& tensor : b.tensors) {
    if (of_b.count(tensor.name) == 0) continue;
    TensorDifference difference;
    difference.name = tensor.name;
    difference.shape_b = tensor.shape;
    result.tensors.push_back(std::move(difference));
  }
  const LoadedCheckpoint& left = a.content;
  const LoadedCheckpoint& right = b.content;
  const bool checkpoints = a.place.kind == AdapterKind::checkpoint && b.place.kind == AdapterKind::checkpoint;
  if (checkpoints) {
    result.tensors.push_back(compare_values("m", left.m, right.m));
    result.tensors.push_back(compare_values("v", left.v, right.v));
  }
  const auto field = [&](const char* name, std::string x, std::string y) {
    if (x != y) result.fields.push_back({name, std::move(x), std::move(y)});
  };
  const auto number = [&](const char* name, auto x, auto y) {
    field(name, fmt::format("{}", x), fmt::format("{}", y));
  };
  const LoraSpec& spec_a = left.adapter.layout->spec();
  const LoraSpec& spec_b = right.adapter.layout->spec();
  number("rank", spec_a.rank, spec_b.rank);
  number("alpha", spec_a.alpha, spec_b.alpha);
  number("rslora", spec_a.rslora, spec_b.rslora);
  field("targets", targets_text(spec_a), targets_text(spec_b));
  if (other_scales > 0) field("scales", "", fmt::format("different in {} tensors", other_scales));
  field("base_model", left.info.base_model, right.info.base_model);
  // A PEFT folder has neither step nor version. An adapter.h5 has both, but none of the values below.
  if (a.place.kind != AdapterKind::peft && b.place.kind != AdapterKind::peft) {
    number("step", left.info.step, right.info.step);
    number("version", left.info.version, right.info.version);
  }
  if (checkpoints) {
    number("data_cursor", left.info.data_cursor, right.info.data_cursor);
    number("updates", left.updates, right.updates);
    number("shards", a.shards.size(), b.shards.size());
    number("best_value", left.info.best_value, right.info.best_value);
    field("build", left.info.build, right.info.build);
    result.config_a = lines_only_in(left.info.config, right.info.config);
    result.config_b = lines_only_in(right.info.config, left.info.config);
    if (left.info.config != right.info.config) {
      result.fields.push_back({"config", fmt::format("{} lines of its own", result.config_a.size()),
                               fmt::format("{} lines of its own", result.config_b.size())});
    }
  }
  return result;
}

std::vector<Verdict> verify_path(const fs::path& path) {
  if (!is_there(path))
    fail("cannot verify {}: no such file or folder; name a checkpoint or a run", path.string());
  if (!is_folder(path) || (!is_checkpoint(path) && is_there(path / "adapter_config.json")))
    return {verdict_of_adapter(find_adapter(path))};
  if (is_checkpoint(path)) return {{behind_link(path), CheckpointStore::find_damage(path)}};
  std::vector<Verdict> verdicts;
  if (const auto root = checkpoints_of(path)) {
    for (const fs::path& folder : CheckpointStore(*root).newest_first())
      verdicts.push_back({folder, CheckpointStore::find_damage(folder)});
    std::error_code ignored;
    for (const char* name : {"latest", "best"}) {
      const fs::path link = *root / name;
      if (!fs::is_symlink(link, ignored) || is_there(link)) continue;
      verdicts.push_back(
          {link,
           {fmt::format("link {} leads to {}, which does not exist; link it to an undamaged checkpoint",
                        link.string(), fs::read_symlink(link, ignored).string())}});
    }
  }
  if (is_there(path / kAdapterFile))
    verdicts.push_back(verdict_of_adapter({AdapterKind::file, path / kAdapterFile}));
  if (verdicts.empty())
    fail(
        "cannot verify {}: it is neither a checkpoint, a run, a PEFT folder nor an adapter.h5; name one of "
        "these",
        path.string());
  return verdicts;
}

void export_peft(const AdapterPlace& place, Lora lora, const std::optional<fs::path>& model,
                 const fs::path& peft, const std::map<std::string, std::string>& beside) {
  refuse_existing(peft);
  warn_of_copies(lora);
  std::string base_model;
  if (model) {
    base_model = model->string();
  } else {
    if (place.kind == AdapterKind::peft)
      base_model = read_peft_base_model(place.path);
    else if (const Hdf5File file(adapter_file_of(place)); file.has_attribute("/", "base_model"))
      base_model = file.attribute_text("/", "base_model");
    // The model may have more layers than the adapter. With one more layer, write_peft names every module.
    ModelConfig config = config_for(place, model);
    ++config.text.layers;
    lora.layout =
        std::make_shared<const LoraLayout>(config, lora.layout->spec(), std::vector(lora.layout->modules()));
  }
  write_peft(peft, lora, base_model, false, beside);
}

void import_peft(const fs::path& peft, const std::optional<fs::path>& model, const fs::path& target,
                 const std::string& build) {
  const AdapterPlace place = find_adapter(peft);
  if (place.kind != AdapterKind::peft)
    fail("cannot import {}: it is not a PEFT folder; name a folder with an adapter_config.json",
         peft.string());
  refuse_existing(target);
  LoadedCheckpoint state;
  state.adapter = read_placed_adapter(place, model);
  warn_of_copies(state.adapter);
  state.info.base_model = model ? model->string() : read_peft_base_model(place.path);
  state.info.build = build;
  state.info.best_value = std::nan("");
  if (target.extension() == ".h5") {
    write_adapter_h5(target, state.adapter, state.info);
    return;
  }
  state.m.assign(state.adapter.layout->size(), 0.0F);
  state.v.assign(state.adapter.layout->size(), 0.0F);
  write_checkpoint(target, state);
}

}  // namespace biqa
