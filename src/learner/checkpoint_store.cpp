// SPDX-License-Identifier: Apache-2.0
#include "learner/checkpoint_store.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <system_error>

#include "core/error.h"
#include "io/files.h"
#include "io/hdf5.h"
#include "io/json.h"
#include "model/peft.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFormat = "biqa-checkpoint-1";
constexpr std::size_t kManifestLimit = std::size_t{16} << 20;

Lora read_adapter_h5(const fs::path& path, const ModelConfig& config) {
  const Hdf5File file(path);
  LoraSpec spec;
  spec.rank = file.attribute_i64("/", "rank");
  spec.alpha = file.attribute_f64("/", "alpha");
  if (file.has_attribute("/", "rslora")) spec.rslora = file.attribute_bool("/", "rslora");
  spec.targets.clear();
  std::vector<LoraModule> modules;
  std::size_t found = 0;
  for (std::int64_t layer = 0; layer < config.text.layers; ++layer) {
    for (const Projection projection : kProjections) {
      LoraModule module;
      module.layer = layer;
      module.projection = projection;
      module.in = input_width(config.text, projection);
      module.out = output_width(config.text, projection);
      const std::string key = peft_key(module, 'A');
      if (!file.exists(key)) continue;
      const std::vector<std::int64_t> a = file.shape(key);
      const std::vector<std::int64_t> b = file.exists(peft_key(module, 'B'))
                                              ? file.shape(peft_key(module, 'B'))
                                              : std::vector<std::int64_t>{};
      if (a.size() != 2 || a[0] < 1 || a[1] != module.in ||
          b != std::vector<std::int64_t>{module.out, a[0]}) {
        fail(
            "adapter {}: tensor {} has shape [{}], the model wants [rank, {}] and [{}, rank]; the adapter is "
            "for another model",
            path.string(), key, fmt::join(a, ", "), module.in, module.out);
      }
      module.rank = a[0];
      module.scale = static_cast<float>(file.has_attribute(key, "scale")
                                            ? file.attribute_f64(key, "scale")
                                            : spec.alpha / static_cast<double>(module.rank));
      if (std::find(spec.targets.begin(), spec.targets.end(), projection) == spec.targets.end())
        spec.targets.push_back(projection);
      modules.push_back(module);
      found += 2;
    }
  }
  const std::vector<std::string> names = file.children();
  const auto stored = static_cast<std::size_t>(std::count_if(
      names.begin(), names.end(), [](const std::string& name) { return name.starts_with("base_model"); }));
  if (modules.empty() || stored != found) {
    fail("adapter {}: {} of its {} tensors belong to this model; the adapter is for another model",
         path.string(), found, stored);
  }
  Lora lora{std::make_shared<LoraLayout>(config, spec, std::move(modules)), {}};
  lora.values.resize(lora.layout->size());
  for (const LoraModule& m : lora.layout->modules()) {
    for (const char part : {'A', 'B'}) {
      const std::vector<float> values = file.read_f32(peft_key(m, part));
      for (const float value : values) {
        if (!std::isfinite(value))
          fail("adapter {}: tensor {} holds {}; use another checkpoint", path.string(), peft_key(m, part),
               value);
      }
      std::copy(values.begin(), values.end(),
                lora.values.begin() + static_cast<std::ptrdiff_t>(part == 'A' ? m.a_offset : m.b_offset));
    }
  }
  return lora;
}

nlohmann::json read_manifest_file(const fs::path& folder) {
  const fs::path path = folder / "manifest.json";
  if (!fs::exists(path))
    fail("checkpoint {}: manifest.json is missing, so it was never completed; use another", folder.string());
  nlohmann::json manifest = parse_json(read_file(path, kManifestLimit), path.string());
  if (!manifest.is_object() || manifest.value("format", "") != kFormat || !manifest.contains("files") ||
      !manifest["files"].is_array()) {
    fail("checkpoint {}: manifest.json is not of format {}; use a checkpoint of this version",
         folder.string(), kFormat);
  }
  return manifest;
}

/// A relative link appears with its new target at once.
void replace_link(const fs::path& link, const fs::path& target) {
  const fs::path temporary = temporary_beside(link);
  fs::create_symlink(target, temporary);
  fs::rename(temporary, link);
}

std::vector<fs::path> newest_first(const fs::path& root) {
  std::vector<fs::path> folders;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root, error)) {
    if (entry.is_directory() && !entry.is_symlink() && entry.path().filename().string().starts_with("step-"))
      folders.push_back(entry.path());
  }
  std::sort(folders.rbegin(), folders.rend());
  return folders;
}

}  // namespace

std::string checkpoint_name(std::int64_t step) {
  return fmt::format("step-{:06}", step);
}
std::string shard_name(int shard, int shards) {
  return fmt::format("optimizer-{:05}-of-{:05}.h5", shard, shards);
}

CheckpointFile describe_checkpoint_file(const fs::path& file) {
  return {file.filename().string(), fs::file_size(file), digest_of_file(file)};
}

void write_name_table(Hdf5Writer& out, const LoraLayout& layout) {
  std::vector<std::string> names;
  std::vector<std::int64_t> offsets, lengths;
  for (const LoraModule& m : layout.modules()) {
    names.push_back(peft_key(m, 'A'));
    offsets.push_back(static_cast<std::int64_t>(m.a_offset));
    lengths.push_back(m.rank * m.in);
    names.push_back(peft_key(m, 'B'));
    offsets.push_back(static_cast<std::int64_t>(m.b_offset));
    lengths.push_back(m.out * m.rank);
  }
  out.dataset("names", std::span<const std::string>(names));
  out.dataset("offset", std::span<const std::int64_t>(offsets), {static_cast<std::int64_t>(offsets.size())});
  out.dataset("length", std::span<const std::int64_t>(lengths), {static_cast<std::int64_t>(lengths.size())});
}

void write_adapter_h5(const fs::path& path, const Lora& lora, const CheckpointInfo& info) {
  Hdf5Writer out(path);
  const LoraSpec& spec = lora.layout->spec();
  out.attribute("/", "rank", spec.rank);
  out.attribute("/", "alpha", spec.alpha);
  out.attribute("/", "rslora", spec.rslora);
  std::vector<std::string> targets;
  for (const Projection p : spec.targets) targets.emplace_back(name_of(p));
  out.attribute("/", "targets", targets);
  out.attribute("/", "base_model", info.base_model);
  out.attribute("/", "step", info.step);
  out.attribute("/", "version", info.version);
  for (const LoraModule& m : lora.layout->modules()) {
    out.dataset(peft_key(m, 'A'), std::span(lora.a(m), static_cast<std::size_t>(m.rank * m.in)),
                {m.rank, m.in});
    out.dataset(peft_key(m, 'B'), std::span(lora.b(m), static_cast<std::size_t>(m.out * m.rank)),
                {m.out, m.rank});
    out.attribute(peft_key(m, 'A'), "scale", static_cast<double>(m.scale));
  }
  out.close();
}

Lora read_any_adapter(const fs::path& path, const ModelConfig& config) {
  if (!fs::exists(path))
    fail(
        "cannot read adapter {}: no such file or folder; name a PEFT folder, an adapter.h5, a checkpoint or "
        "a run",
        path.string());
  if (!fs::is_directory(path))
    return path.extension() == ".h5" ? read_adapter_h5(path, config) : read_peft(path, config);
  if (fs::exists(path / "adapter_config.json")) return read_peft(path, config);
  if (fs::exists(path / "adapter.h5")) return read_adapter_h5(path / "adapter.h5", config);
  if (fs::exists(path / "checkpoints")) {
    auto newest = CheckpointStore(path / "checkpoints").load_newest(config);
    if (newest) return std::move(newest->adapter);
  }
  fail("cannot read adapter {}: neither a PEFT folder, an adapter.h5, a checkpoint nor a run lies there",
       path.string());
}

CheckpointStore::CheckpointStore(fs::path root) : root_(std::move(root)) {}

void publish_checkpoint(const fs::path& root, const fs::path& folder, const CheckpointInfo& info,
                        const std::vector<CheckpointFile>& listed) {
  nlohmann::json files = nlohmann::json::array();
  for (const CheckpointFile& file : listed)
    files.push_back({{"name", file.name}, {"bytes", file.bytes}, {"xxh3", file.xxh3}});
  nlohmann::json manifest{{"format", kFormat},
                          {"step", info.step},
                          {"version", info.version},
                          {"data_cursor", info.data_cursor},
                          {"config", info.config},
                          {"build", info.build},
                          {"base_model", info.base_model},
                          {"files", files}};
  manifest["best_value"] =
      std::isfinite(info.best_value) ? nlohmann::json(info.best_value) : nlohmann::json();
  write_file_atomically(folder / "manifest.json", manifest.dump(2) + "\n");

  const fs::path target = root / checkpoint_name(info.step);
  std::error_code error;
  if (fs::exists(target)) {
    try {
      CheckpointStore::verify(target);
      fs::remove_all(folder, error);
      return;
    } catch (const Error& damage) {
      const fs::path aside = temporary_beside(root / ("damaged-" + checkpoint_name(info.step)));
      LOG(WARNING) << damage.what() << "; it is moved to " << aside.string();
      fs::rename(target, aside);
    }
  }
  publish(folder, target);
  replace_link(root / "latest", target.filename());
}

void point_best_checkpoint(const fs::path& root, std::int64_t step) {
  if (best_checkpoint(root) != step && fs::exists(root / checkpoint_name(step)))
    replace_link(root / "best", checkpoint_name(step));
}

std::optional<std::int64_t> best_checkpoint(const fs::path& root) {
  std::error_code absent;
  const std::string name = fs::read_symlink(root / "best", absent).filename().string();
  std::int64_t step = 0;
  constexpr std::string_view kStart = "step-";
  if (absent || !name.starts_with(kStart) ||
      std::from_chars(name.data() + kStart.size(), name.data() + name.size(), step).ec != std::errc())
    return std::nullopt;
  return step;
}

void remove_old_checkpoints(const fs::path& root, std::int64_t keep) {
  if (keep <= 0) return;
  const std::vector<fs::path> folders = newest_first(root);
  const auto best = best_checkpoint(root);
  for (std::size_t i = static_cast<std::size_t>(keep); i < folders.size(); ++i) {
    if (best && folders[i].filename() == checkpoint_name(*best)) continue;
    std::error_code error;
    fs::remove_all(folders[i], error);
    if (error)
      LOG(WARNING) << "cannot remove old checkpoint " << folders[i].string() << ": " << error.message();
  }
}

void CheckpointStore::verify(const fs::path& folder) {
  const nlohmann::json manifest = read_manifest_file(folder);
  for (const auto& file : manifest["files"]) {
    if (!file.is_object() || !file.contains("name") || !file["name"].is_string() || !file.contains("xxh3")) {
      fail("checkpoint {}: manifest.json lists a file without name or digest; use another", folder.string());
    }
    const std::string name = file["name"];
    if (name.find('/') != std::string::npos || name.starts_with("."))
      fail("checkpoint {}: manifest.json names the file '{}' outside its folder; use another",
           folder.string(), name);
    const fs::path path = folder / name;
    if (!fs::exists(path)) fail("checkpoint {}: file {} is missing; use another", folder.string(), name);
    if (file.value("bytes", std::uint64_t{0}) != fs::file_size(path)) {
      fail("checkpoint {}: file {} has {} bytes instead of {}; use another", folder.string(), name,
           fs::file_size(path), file["bytes"].dump());
    }
    if (file["xxh3"] != digest_of_file(path))
      fail("checkpoint {}: file {} is damaged (its digest differs); use another", folder.string(), name);
  }
}

LoadedCheckpoint CheckpointStore::load(const fs::path& folder, const ModelConfig& config) {
  verify(folder);
  const nlohmann::json manifest = read_manifest_file(folder);
  LoadedCheckpoint loaded;
  loaded.path = folder;
  loaded.info = {manifest.value("step", std::int64_t{0}),
                 manifest.value("version", std::int64_t{0}),
                 manifest.value("data_cursor", std::int64_t{0}),
                 manifest.value("config", ""),
                 manifest.value("build", ""),
                 manifest.value("base_model", ""),
                 manifest["best_value"].is_number() ? manifest["best_value"].get<double>() : std::nan("")};
  loaded.adapter = read_adapter_h5(folder / "adapter.h5", config);
  const std::size_t size = loaded.adapter.layout->size();
  loaded.m.resize(size);
  loaded.v.resize(size);
  std::size_t covered = 0;
  for (const auto& file : manifest["files"]) {
    const std::string name = file["name"];
    if (!name.starts_with("optimizer-")) continue;
    const Hdf5File shard(folder / name);
    const std::int64_t begin = shard.attribute_i64("/", "begin");
    const std::int64_t end = shard.attribute_i64("/", "end");
    if (begin != static_cast<std::int64_t>(covered) || end < begin || end > static_cast<std::int64_t>(size)) {
      fail("checkpoint {}: shard {} covers [{}, {}) where {} was to begin, of {}; use another",
           folder.string(), name, begin, end, covered, size);
    }
    const auto put = [&](const char* part, std::vector<float>& target) {
      const std::vector<float> values = shard.read_f32(part);
      if (values.size() != static_cast<std::size_t>(end - begin))
        fail("checkpoint {}: {} of shard {} has {} values instead of {}; use another", folder.string(), part,
             name, values.size(), end - begin);
      std::copy(values.begin(), values.end(), target.begin() + begin);
    };
    put("m", loaded.m);
    put("v", loaded.v);
    put("master", loaded.adapter.values);
    loaded.updates = shard.attribute_i64("/", "updates");
    covered = static_cast<std::size_t>(end);
  }
  if (covered != size)
    fail("checkpoint {}: its shards cover {} of {} values; use another", folder.string(), covered, size);
  return loaded;
}

std::optional<LoadedCheckpoint> CheckpointStore::load_newest(const ModelConfig& config) const {
  for (const fs::path& folder : newest_first(root_)) {
    try {
      return load(folder, config);
    } catch (const Error& error) {
      LOG(WARNING) << error.what() << "; falling back to the one before";
    }
  }
  return std::nullopt;
}

}  // namespace biqa
