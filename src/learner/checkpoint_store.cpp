// SPDX-License-Identifier: Apache-2.0
#include "learner/checkpoint_store.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <glog/logging.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <system_error>

#include "core/error.h"
#include "io/files.h"
#include "io/hdf5.h"
#include "io/json.h"
#include "learner/adapter_store.h"
#include "model/peft.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFormat = "biqa-checkpoint-2";
// Format of manifests without a digest of their own bytes.
constexpr const char* kOldFormat = "biqa-checkpoint-1";
constexpr const char* kManifest = "manifest.json";
constexpr const char* kManifestDigest = "manifest_digest";
constexpr std::size_t kDigestDigits = 16;
constexpr std::size_t kManifestLimit = std::size_t{16} << 20;

/// Writes one entry per stored tensor: its offset and length in the flat vector.
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

/// The position of the manifest's own digest; npos if there is none. Inside texts the quotes of this pattern are
/// escaped, so it is found only as a field.
std::size_t find_manifest_digest(const std::string& text) {
  const std::string field = fmt::format("\"{}\": \"", kManifestDigest);
  const std::size_t place = text.find(field);
  if (place == std::string::npos || place + field.size() + kDigestDigits > text.size())
    return std::string::npos;
  return place + field.size();
}
/// XXH3-64 of the manifest's bytes, with zeros as the digits of its own digest. It covers bytes, because JSON can spell
/// a value in several ways.
std::string digest_of_manifest(std::string text, std::size_t place) {
  text.replace(place, kDigestDigits, kDigestDigits, '0');
  return fmt::format("{:016x}", digest_of_bytes(std::as_bytes(std::span(text))));
}

std::string compose_manifest(const CheckpointManifest& contents) {
  const CheckpointInfo& info = contents.info;
  nlohmann::json files = nlohmann::json::array();
  for (const CheckpointManifest::File& file : contents.files)
    files.push_back({{"name", file.name}, {"bytes", file.bytes}, {"xxh3", file.digest}});
  nlohmann::json manifest{{"format", kFormat},
                          {"step", info.step},
                          {"version", info.version},
                          {"data_cursor", info.data_cursor},
                          {"config", info.config},
                          {"build", info.build},
                          {"base_model", info.base_model},
                          {"base_weights", info.base_weights},
                          {"training_data", info.training_data},
                          {kManifestDigest, std::string(kDigestDigits, '0')},
                          {"files", files}};
  manifest["best_value"] =
      std::isfinite(info.best_value) ? nlohmann::json(info.best_value) : nlohmann::json();
  std::string text = json_text(manifest, 2) + "\n";
  const std::size_t place = find_manifest_digest(text);
  CHECK(place != std::string::npos);
  return text.replace(place, kDigestDigits, digest_of_manifest(text, place));
}

void check_manifest_digest(const fs::path& folder, const std::string& text, const std::string& claimed) {
  const std::size_t place = find_manifest_digest(text);
  if (place == std::string::npos || claimed.size() != kDigestDigits ||
      text.compare(place, kDigestDigits, digest_of_manifest(text, place)) != 0) {
    fail("checkpoint {}: {} is damaged (its digest differs); use another", folder.string(), kManifest);
  }
}

std::optional<std::int64_t> step_of_name(const std::string& name) {
  constexpr std::string_view kStart = "step-";
  if (!name.starts_with(kStart)) return std::nullopt;
  std::int64_t step = -1;
  const char* const end = name.data() + name.size();
  const auto parsed = std::from_chars(name.data() + kStart.size(), end, step);
  if (parsed.ec != std::errc() || step < 0 || checkpoint_name(step) != name) return std::nullopt;
  return step;
}

/// Whether `folder` is an undamaged checkpoint that lists the same files.
bool holds_same_files(const fs::path& folder, const CheckpointManifest& manifest) {
  try {
    CheckpointStore::verify(folder);
    const auto sorted = [](std::vector<CheckpointManifest::File> files) {
      std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
      return files;
    };
    return sorted(read_checkpoint_manifest(folder).files) == sorted(manifest.files);
  } catch (const Error&) {
    return false;
  }
}

/// Renames a checkpoint so that it no longer counts as a checkpoint of the run.
void set_aside(const fs::path& folder) {
  const std::string name = "replaced-" + folder.filename().string();
  fs::path target = folder.parent_path() / name;
  for (int i = 2; fs::exists(target); ++i) target = folder.parent_path() / fmt::format("{}-{}", name, i);
  fs::rename(folder, target);
  LOG(WARNING) << one_line(folder.string()) << " is now " << one_line(target.string());
}

/// The target of a link, or the name in the file that replaces it. Empty if neither exists.
fs::path target_of(const fs::path& link) {
  constexpr std::size_t kLongestName = 255;
  std::error_code no_link, ignored;
  fs::path target = fs::read_symlink(link, no_link);
  if (!no_link) return target;
  if (!fs::is_regular_file(link, ignored)) return {};
  try {
    const std::string name = read_beginning(link, kLongestName);
    return name.substr(0, name.find('\n'));
  } catch (const Error&) {
    return {};
  }
}

/// Replaces a relative link in one operation. On a file system without links, writes a file with the target's name.
void replace_link(const fs::path& link, const fs::path& target) {
  const fs::path temporary = temporary_beside(link);
  std::error_code error, ignored;
  fs::create_symlink(target, temporary, error);
  if (!error) fs::rename(temporary, link, error);
  if (!error) return;
  fs::remove(temporary, ignored);
  try {
    write_file_atomically(link, target.string() + "\n");
    LOG_FIRST_N(WARNING, 1) << "cannot link " << link.string() << " to " << target.string() << ": "
                            << error.message()
                            << "; instead, a file of that name holds the name of the "
                               "checkpoint";
  } catch (const Error& problem) {
    LOG(WARNING) << "cannot link " << one_line(link.string()) << " to " << one_line(target.string()) << ": "
                 << error.message() << "; " << problem.what()
                 << "; the checkpoint is complete without the link";
  }
}

}  // namespace

std::string checkpoint_name(std::int64_t step) {
  return fmt::format("step-{:06}", step);
}
std::string shard_name(int shard, int shards) {
  return fmt::format("optimizer-{:05}-of-{:05}.h5", shard, shards);
}

CheckpointManifest::File describe_checkpoint_file(const fs::path& file) {
  return {file.filename().string(), fs::file_size(file), digest_of_file(file)};
}

std::string damage_of_file(const fs::path& folder, const CheckpointManifest::File& file) {
  const fs::path path = folder / file.name;
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored))
    return fmt::format("checkpoint {}: file {} is missing; use another", folder.string(), file.name);
  try {
    if (const std::uintmax_t bytes = fs::file_size(path); bytes != file.bytes) {
      return fmt::format("checkpoint {}: file {} has {} bytes instead of {}; use another", folder.string(),
                         file.name, bytes, file.bytes);
    }
    if (digest_of_file(path) != file.digest) {
      return fmt::format("checkpoint {}: file {} is damaged (its digest differs); use another",
                         folder.string(), file.name);
    }
  } catch (const std::exception& error) {
    return fmt::format("checkpoint {}: file {} cannot be read ({}); use another", folder.string(), file.name,
                       error.what());
  }
  return "";
}

std::string damage_of_adapter(const fs::path& folder) {
  try {
    for (const CheckpointManifest::File& file : read_checkpoint_manifest(folder).files) {
      if (file.name == "adapter.h5") return damage_of_file(folder, file);
    }
    return fmt::format("checkpoint {}: its manifest lists no adapter.h5; use another", folder.string());
  } catch (const Error& error) {
    return error.what();
  }
}

ShardFacts read_shard_facts(const fs::path& folder, const std::string& name) {
  const Hdf5File file(folder / name);
  ShardFacts facts{name, file.attribute_i64("/", "begin"), file.attribute_i64("/", "end"),
                   file.attribute_i64("/", "updates")};
  if (facts.begin < 0 || facts.end < facts.begin) {
    fail("checkpoint {}: shard {} covers the impossible range [{}, {}); use another", folder.string(), name,
         facts.begin, facts.end);
  }
  for (const char* part : {"m", "v", "master"}) {
    if (file.shape(part) != std::vector<std::int64_t>{facts.end - facts.begin}) {
      fail("checkpoint {}: {} of shard {} has the shape [{}] instead of [{}]; use another", folder.string(),
           part, name, fmt::join(file.shape(part), ", "), facts.end - facts.begin);
    }
  }
  return facts;
}

void check_parts(const fs::path& folder, const CheckpointManifest& manifest,
                 std::span<const ShardFacts> shards) {
  const std::string where = folder.string();
  const bool has_adapter =
      std::any_of(manifest.files.begin(), manifest.files.end(),
                  [](const CheckpointManifest::File& file) { return file.name == "adapter.h5"; });
  if (!has_adapter) fail("checkpoint {}: {} does not list adapter.h5; use another", where, kManifest);
  if (shards.empty()) fail("checkpoint {}: {} lists no optimizer shard; use another", where, kManifest);

  const Hdf5File adapter(folder / "adapter.h5");
  if (const std::int64_t step = adapter.attribute_i64("/", "step"); step != manifest.info.step) {
    fail("checkpoint {}: adapter.h5 is from step {}, but {} is from step {}; use another", where, step,
         kManifest, manifest.info.step);
  }
  if (const auto named = step_of_name(folder.filename().string()); named && *named != manifest.info.step) {
    fail("checkpoint {}: {} is from step {}; rename the folder to its original name", where, kManifest,
         manifest.info.step);
  }
  std::int64_t size = 0;
  for (const std::string& name : adapter.children()) {
    if (is_frozen_key(name)) continue;  // no shard has these
    const std::vector<std::int64_t> shape = adapter.shape(name);
    size += std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  }
  const auto count = static_cast<int>(shards.size());
  std::int64_t covered = 0;
  for (int i = 0; i < count; ++i) {
    const std::string name = shard_name(i, count);
    const auto found = std::find_if(shards.begin(), shards.end(),
                                    [&](const ShardFacts& shard) { return shard.name == name; });
    if (found == shards.end()) {
      fail("checkpoint {}: {} lists {} shards, but {} is not among them; use another", where, kManifest,
           count, name);
    }
    if (found->begin != covered || found->end < found->begin || found->end > size) {
      fail("checkpoint {}: shard {} covers [{}, {}), but must begin at {} (of {}); use another", where, name,
           found->begin, found->end, covered, size);
    }
    if (found->updates != shards.front().updates) {
      fail("checkpoint {}: shard {} is from update {}, but another shard is from update {}; use another",
           where, name, found->updates, shards.front().updates);
    }
    covered = found->end;
  }
  if (covered != size)
    fail("checkpoint {}: its shards cover only {} of {} values; use another", where, covered, size);
}

void write_shard_h5(const fs::path& file, const CheckpointShard& shard, const LoraLayout& layout) {
  Hdf5Writer out(file);
  const std::vector<std::int64_t> shape{static_cast<std::int64_t>(shard.end - shard.begin)};
  out.attribute("/", "begin", static_cast<std::int64_t>(shard.begin));
  out.attribute("/", "end", static_cast<std::int64_t>(shard.end));
  out.attribute("/", "updates", shard.updates);
  out.dataset("m", shard.m, shape);
  out.dataset("v", shard.v, shape);
  out.dataset("master", shard.values, shape);
  write_name_table(out, layout);
  out.close(true);
}

CheckpointManifest read_checkpoint_manifest(const fs::path& folder) {
  const fs::path path = folder / kManifest;
  std::error_code ignored;
  if (!fs::exists(path, ignored))
    fail("checkpoint {}: {} is missing, so it was never completed; use another", folder.string(), kManifest);
  const std::string text = read_file(path, kManifestLimit);
  const nlohmann::json json = parse_json(text, path.string());
  const JsonFields fields(json, path.string());
  const std::string format = fields.text("format").value_or("");
  if (format != kFormat && format != kOldFormat) {
    fail("checkpoint {}: {} has the format '{}', not {}; use a checkpoint of this version", folder.string(),
         kManifest, format, kFormat);
  }
  // An old manifest has no digest. A manifest with the old format and a digest is a new one with a damaged format.
  if (format == kFormat || json.contains(kManifestDigest))
    check_manifest_digest(folder, text, fields.text(kManifestDigest).value_or(""));
  CheckpointManifest manifest;
  constexpr std::int64_t kMostSteps = 1'000'000'000'000;
  const auto count = [&](const char* key) {
    if (!fields.has(key)) fields.missing(key);
    return fields.integer(key, 0, kMostSteps).value_or(0);
  };
  manifest.info = {count("step"),
                   count("version"),
                   count("data_cursor"),
                   fields.text("config").value_or(""),
                   fields.text("build").value_or(""),
                   fields.text("base_model").value_or(""),
                   fields.number("best_value").value_or(std::nan("")),
                   fields.text("base_weights").value_or(""),
                   fields.text("training_data").value_or("")};
  const nlohmann::json* files = fields.find("files");
  if (files == nullptr) fields.missing("files");
  if (!files->is_array()) fields.refuse("files", "a list");
  for (std::size_t i = 0; i < files->size(); ++i) {
    const JsonFields entry((*files)[i], path.string(), fmt::format("files[{}].", i));
    CheckpointManifest::File file{entry.text("name").value_or(""),
                                  static_cast<std::uint64_t>(entry.integer("bytes", 0).value_or(0)),
                                  entry.text("xxh3").value_or("")};
    for (const char* key : {"name", "bytes", "xxh3"}) {
      if (!entry.has(key)) entry.missing(key);
    }
    if (file.name.empty() || file.name.starts_with(".") || file.name.find('/') != std::string::npos ||
        file.name.find('\0') != std::string::npos)
      entry.refuse("name", "a file of the folder");
    manifest.files.push_back(std::move(file));
  }
  std::sort(manifest.files.begin(), manifest.files.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  return manifest;
}

void write_adapter_h5(const fs::path& path, const Lora& lora, const CheckpointInfo& info) {
  Hdf5Writer out(path);
  const LoraSpec& spec = lora.layout->spec();
  out.attribute("/", "rank", spec.rank);
  out.attribute("/", "alpha", spec.alpha);
  out.attribute("/", "rslora", spec.rslora);
  std::vector<std::string> targets;
  for (const Projection p : spec.targets) targets.emplace_back(name_of(p));
  if (!targets.empty()) out.attribute("/", "targets", targets);  // HDF5 has no empty attributes
  out.attribute("/", "base_model", info.base_model);
  out.attribute("/", "step", info.step);
  out.attribute("/", "version", info.version);
  write_adapter(out, "", lora);
  write_frozen_parts(out, "", lora);
  out.close(true);
}

Lora read_adapter_h5(const fs::path& path, const ModelConfig& config) {
  const Hdf5File file(path);
  LoraSpec spec;
  spec.rank = file.attribute_i64("/", "rank");
  spec.alpha = file.attribute_f64("/", "alpha");
  if (spec.rank < 1 || !std::isfinite(spec.alpha))
    fail("adapter {}: rank {} and alpha {} are impossible; use another", path.string(), spec.rank,
         spec.alpha);
  if (file.has_attribute("/", "rslora")) spec.rslora = file.attribute_bool("/", "rslora");
  Lora lora = read_adapter(file, "", config, std::move(spec));
  lora.frozen = read_frozen_parts(file, "", config);
  if (lora.layout->modules().empty() && lora.frozen == nullptr)
    fail("adapter {}: it holds no tensors of this model; the adapter is for another model", path.string());
  return lora;
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
  if (fs::exists(path / kManifest)) {
    // Of a checkpoint, only the adapter must be undamaged.
    if (const std::string damage = damage_of_adapter(path); !damage.empty()) throw Error(damage);
  }
  if (fs::exists(path / "adapter.h5")) return read_adapter_h5(path / "adapter.h5", config);
  const CheckpointStore store(fs::exists(path / "checkpoints") ? path / "checkpoints" : path);
  for (const fs::path& folder : store.newest_first()) {
    const std::string damage = damage_of_adapter(folder);
    if (damage.empty()) return read_adapter_h5(folder / "adapter.h5", config);
    LOG(WARNING) << one_line(damage) << "; trying the checkpoint before it";
  }
  if (!store.newest_first().empty())
    fail("cannot read adapter {}: all of its checkpoints have a damaged adapter.h5; name another adapter",
         path.string());
  fail(
      "cannot read adapter {}: it is neither a PEFT folder, an adapter.h5, a checkpoint nor a run; name one "
      "of these",
      path.string());
}

void write_checkpoint(const fs::path& folder, const LoadedCheckpoint& state) {
  const std::size_t size = state.adapter.layout->size();
  CHECK(state.m.size() == size && state.v.size() == size && state.adapter.values.size() == size);
  if (const auto named = step_of_name(folder.filename().string()); named && *named != state.info.step) {
    fail("cannot write checkpoint {}: it is from step {}; name it {}, or use a name without a step",
         folder.string(), state.info.step, checkpoint_name(state.info.step));
  }
  AtomicFolder target(folder);
  const fs::path shard = target.path() / shard_name(0, 1);
  write_shard_h5(shard, {0, size, state.adapter.values, state.m, state.v, state.updates},
                 *state.adapter.layout);
  write_adapter_h5(target.path() / "adapter.h5", state.adapter, state.info);
  const CheckpointManifest manifest{
      state.info, {describe_checkpoint_file(target.path() / "adapter.h5"), describe_checkpoint_file(shard)}};
  write_file_atomically(target.path() / kManifest, compose_manifest(manifest));
  target.commit();
}

CheckpointStore::CheckpointStore(fs::path root) : root_(std::move(root)) {}

void publish_checkpoint(const fs::path& root, const fs::path& folder, const CheckpointManifest& manifest) {
  write_file_atomically(folder / kManifest, compose_manifest(manifest));

  const fs::path target = root / checkpoint_name(manifest.info.step);
  if (fs::exists(target)) {
    if (holds_same_files(target, manifest)) {
      std::error_code ignored;
      fs::remove_all(folder, ignored);
      replace_link(root / "latest", target.filename());
      return;
    }
    set_aside(target);
  }
  publish(folder, target);
  replace_link(root / "latest", target.filename());
}

void point_best_checkpoint(const fs::path& root, std::int64_t step) {
  if (best_checkpoint(root) != step && fs::exists(root / checkpoint_name(step)))
    replace_link(root / "best", checkpoint_name(step));
}

std::optional<std::int64_t> best_checkpoint(const fs::path& root) {
  return step_of_name(target_of(root / "best").filename().string());
}

void take_over_checkpoints(const fs::path& root, std::int64_t step) {
  std::error_code ignored;
  remove_leftovers(root);
  for (const fs::path& folder : CheckpointStore(root).newest_first()) {
    if (step_of_name(folder.filename().string()).value_or(0) > step) set_aside(folder);
  }
  if (best_checkpoint(root).value_or(0) > step) fs::remove(root / "best", ignored);
  const fs::path own = checkpoint_name(step);
  if (fs::is_directory(root / own, ignored)) {
    if (target_of(root / "latest").filename() != own) replace_link(root / "latest", own);
  } else {
    fs::remove(root / "latest", ignored);
  }
}

void remove_checkpoint(const fs::path& folder) {
  // First hides the folder. So a process that is killed meanwhile leaves no half of a checkpoint.
  fs::path removed = temporary_beside(folder);
  std::error_code error;
  fs::rename(folder, removed, error);
  if (!error) fs::remove_all(removed, error);
  if (error)
    LOG(WARNING) << "cannot remove old checkpoint " << one_line(folder.string()) << ": " << error.message();
}

void remove_old_checkpoints(const fs::path& root, std::int64_t keep) {
  if (keep <= 0) return;
  const std::vector<fs::path> folders = CheckpointStore(root).newest_first();
  const auto best = best_checkpoint(root);
  for (std::size_t i = static_cast<std::size_t>(keep); i < folders.size(); ++i) {
    if (best && folders[i].filename() == checkpoint_name(*best)) continue;
    remove_checkpoint(folders[i]);
  }
}

std::vector<fs::path> CheckpointStore::newest_first() const {
  std::map<std::int64_t, fs::path, std::greater<>> by_step;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root_, error)) {
    const auto step = step_of_name(entry.path().filename().string());
    if (step && entry.is_directory() && !entry.is_symlink()) by_step[*step] = entry.path();
  }
  std::vector<fs::path> folders;
  folders.reserve(by_step.size());
  for (auto& [step, folder] : by_step) folders.push_back(std::move(folder));
  return folders;
}

void CheckpointStore::verify(const fs::path& folder) {
  const std::vector<std::string> damage = find_damage(folder);
  if (!damage.empty()) throw Error(damage.front());
}

std::vector<std::string> CheckpointStore::find_damage(const fs::path& folder) {
  std::vector<std::string> damage;
  try {
    const CheckpointManifest manifest = read_checkpoint_manifest(folder);
    for (const CheckpointManifest::File& file : manifest.files) {
      if (std::string one = damage_of_file(folder, file); !one.empty()) damage.push_back(std::move(one));
    }
    // If files are damaged, their contents are not read.
    if (!damage.empty()) return damage;
    std::vector<ShardFacts> shards;
    for (const CheckpointManifest::File& file : manifest.files) {
      if (file.name.starts_with("optimizer-")) shards.push_back(read_shard_facts(folder, file.name));
    }
    check_parts(folder, manifest, shards);
  } catch (const Error& error) {
    damage.emplace_back(error.what());
  }
  return damage;
}

LoadedCheckpoint CheckpointStore::load(const fs::path& folder, const ModelConfig& config) {
  verify(folder);
  const CheckpointManifest manifest = read_checkpoint_manifest(folder);
  LoadedCheckpoint loaded;
  loaded.path = folder;
  loaded.info = manifest.info;
  loaded.adapter = read_adapter_h5(folder / "adapter.h5", config);
  const std::size_t size = loaded.adapter.layout->size();
  loaded.m.resize(size);
  loaded.v.resize(size);
  std::size_t covered = 0;
  for (const CheckpointManifest::File& file : manifest.files) {
    const std::string& name = file.name;
    if (!name.starts_with("optimizer-")) continue;
    const Hdf5File shard(folder / name);
    const std::int64_t begin = shard.attribute_i64("/", "begin");
    const std::int64_t end = shard.attribute_i64("/", "end");
    if (begin != static_cast<std::int64_t>(covered) || end < begin || end > static_cast<std::int64_t>(size)) {
      fail("checkpoint {}: shard {} covers [{}, {}), but must begin at {} (of {}); use another",
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
  for (const fs::path& folder : newest_first()) {
    try {
      return load(folder, config);
    } catch (const Error& error) {
      LOG(WARNING) << error.what() << "; trying the checkpoint before it";
    }
  }
  return std::nullopt;
}

}  // namespace biqa
