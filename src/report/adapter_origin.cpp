// SPDX-License-Identifier: Apache-2.0
#include "report/adapter_origin.h"

#include <glog/logging.h>

#include <algorithm>
#include <iterator>
#include <string_view>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "io/files.h"
#include "io/hdf5.h"
#include "io/yaml.h"
#include "model/peft.h"
#include "run/run_folder.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

constexpr const char* kAdapterFile = "adapter.h5";

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

bool is_run(const fs::path& folder) {
  return is_there(folder / "metrics.jsonl") || is_there(folder / "config.yaml");
}

void take_manifest(const CheckpointManifest& manifest, AdapterOrigin& origin) {
  const CheckpointInfo& info = manifest.info;
  origin.step = info.step;
  origin.version = info.version;
  origin.config = info.config;
  origin.build = info.build;
  origin.base_model = info.base_model;
  origin.base_weights = info.base_weights;
  origin.training_data = info.training_data;
  for (const CheckpointManifest::File& file : manifest.files)
    if (file.name == kAdapterFile) origin.file_digest = file.digest;
}

/// Returns the run folder; empty: none.
fs::path read_checkpoint(const fs::path& folder, AdapterOrigin& origin) {
  take_manifest(read_checkpoint_manifest(folder), origin);
  origin.source = "checkpoint " + folder.filename().string();
  const fs::path checkpoints = folder.parent_path(), run = checkpoints.parent_path();
  // A checkpoint that was set aside (replaced-step-…) is not the one whose figures the run has.
  const bool in_run = folder.filename() == checkpoint_name(*origin.step) &&
                      checkpoints.filename() == "checkpoints" && is_run(run);
  return in_run ? run : fs::path();
}

/// The manifest of the checkpoint whose adapter.h5 is this very file.
std::optional<CheckpointManifest> manifest_of_same_adapter(const fs::path& run, const AdapterOrigin& origin) {
  if (!origin.step) return std::nullopt;
  try {
    CheckpointManifest manifest =
        read_checkpoint_manifest(run / "checkpoints" / checkpoint_name(*origin.step));
    const bool same =
        std::any_of(manifest.files.begin(), manifest.files.end(), [&](const CheckpointManifest::File& file) {
          return file.name == kAdapterFile && file.digest == origin.file_digest;
        });
    return same ? std::optional(std::move(manifest)) : std::nullopt;
  } catch (const Error&) {
    return std::nullopt;  // it is not needed: `checkpoint.keep` may have removed it
  }
}

/// Returns the run folder; empty: none.
fs::path read_adapter_file(const fs::path& path, AdapterOrigin& origin) {
  origin.source = path.filename().string();
  origin.file_digest = digest_of_file(path);
  const Hdf5File file(path);
  if (file.has_attribute("/", "step")) origin.step = file.attribute_i64("/", "step");
  if (file.has_attribute("/", "version")) origin.version = file.attribute_i64("/", "version");
  if (file.has_attribute("/", "base_model")) origin.base_model = file.attribute_text("/", "base_model");
  fs::path run = path.parent_path();
  if (path.filename() != kAdapterFile || !is_run(run)) return {};
  if (const auto manifest = manifest_of_same_adapter(run, origin))
    take_manifest(*manifest, origin);
  else if (is_finished(run))  // otherwise the configuration may be that of a later start
    origin.config = read_file(run / "config.yaml");
  return run;
}

std::vector<EvalMetrics> of_step(const std::vector<EvalMetrics>& evaluations, std::int64_t step) {
  std::vector<EvalMetrics> own;
  std::copy_if(evaluations.begin(), evaluations.end(), std::back_inserter(own),
               [&](const EvalMetrics& evaluation) { return evaluation.step == step; });
  return own;
}

void read_figures(const fs::path& run, AdapterOrigin& origin) {
  if (!is_there(run / "metrics.jsonl") || !origin.step) return;
  std::vector<EvalMetrics> evaluations;
  try {
    evaluations = read_metrics(run / "metrics.jsonl").evaluations;
  } catch (const Error& error) {
    LOG(WARNING) << "the model card has no figures: " << error.what();
    origin.metrics_unreadable = true;
    return;
  }
  std::int64_t last = -1;
  for (const EvalMetrics& evaluation : evaluations)
    if (evaluation.step <= *origin.step) last = std::max(last, evaluation.step);
  origin.last = of_step(evaluations, last);
  if (const std::optional<std::int64_t> best = best_checkpoint(run / "checkpoints"))
    origin.best = of_step(evaluations, *best);
}

/// The licence in the front matter of a model's README.md. A card that cannot be read names none.
std::vector<std::pair<std::string, std::string>> read_licence(const fs::path& model) {
  constexpr std::size_t kMostBytes = std::size_t{64} << 10;
  constexpr std::string_view kMark = "---\n";
  std::vector<std::pair<std::string, std::string>> licence;
  try {
    const std::string card = read_beginning(model / "README.md", kMostBytes);
    const std::size_t end = card.find("\n---", kMark.size() - 1);
    if (!card.starts_with(kMark) || end == std::string::npos) return {};
    const YamlNode front = parse_yaml(card.substr(kMark.size(), end + 1 - kMark.size()), "README.md");
    for (const char* key : {"license", "license_name", "license_link"}) {
      const YamlNode* value = front.find(key);
      if (value != nullptr && value->kind == YamlKind::scalar) licence.emplace_back(key, value->text);
    }
  } catch (const Error&) {
    return {};
  }
  return licence;
}

}  // namespace

AdapterOrigin read_adapter_origin(const AdapterPlace& place, const std::optional<fs::path>& model) {
  const fs::path path = fs::weakly_canonical(place.path);
  AdapterOrigin origin;
  fs::path run;
  switch (place.kind) {
    case AdapterKind::checkpoint:
      run = read_checkpoint(path, origin);
      break;
    case AdapterKind::file:
      run = read_adapter_file(path, origin);
      break;
    case AdapterKind::peft:
      origin.source = "PEFT folder";
      origin.base_model = read_peft_base_model(path);
      break;
  }
  if (model) origin.base_model = model->string();
  if (!origin.base_model.empty()) origin.licence = read_licence(origin.base_model);
  if (run.empty()) return origin;
  origin.run = run.filename().string();
  read_figures(run, origin);
  return origin;
}

}  // namespace biqa
