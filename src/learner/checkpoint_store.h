// SPDX-License-Identifier: Apache-2.0
// Checkpoints: a folder per saved step with the adapter, one optimizer shard per learner and a manifest that
// is written last. A folder appears whole (temporary name, fsync, rename) and is never touched again.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "learner/learner.h"
#include "model/config.h"
#include "model/lora.h"

namespace biqa {

/// What a checkpoint knows besides tensors.
struct CheckpointInfo {
  std::int64_t step = 0, version = 0;
  std::int64_t data_cursor = 0;  ///< groups consumed since the run began
  std::string config;            ///< resolved YAML
  std::string build;             ///< version text
  std::string base_model;        ///< path of the checkpoint folder trained on
  double best_value = 0;         ///< of the figure that chooses the best; NaN: not evaluated
};

/// A checkpoint read back: flat vectors of the layout's size.
struct LoadedCheckpoint {
  CheckpointInfo info;
  std::filesystem::path path;
  Lora adapter;
  std::vector<float> m, v;
  std::int64_t updates = 0;
};

/// manifest.json, the file that makes a folder a checkpoint.
struct CheckpointManifest {
  struct File {
    std::string name;
    std::uint64_t bytes = 0;
    std::string digest;  ///< XXH3-128, 32 hex digits
  };
  CheckpointInfo info;
  std::vector<File> files;  ///< by name
};

/// Reads manifest.json of a checkpoint folder. Throws Error naming it when it is missing, of another format or damaged:
/// since format 2 it carries a digest of its own bytes.
CheckpointManifest read_checkpoint_manifest(const std::filesystem::path& folder);

/// adapter.h5: f32 datasets by PEFT key, attributes rank, alpha, rslora, targets, base_model, step and version. Sealed
/// (see Hdf5Writer::close), since outside a checkpoint it has no manifest.
void write_adapter_h5(const std::filesystem::path& file, const Lora& lora, const CheckpointInfo& info);

/// An adapter from whatever people have: a PEFT folder or its safetensors, an adapter.h5, a checkpoint folder, or a run
/// folder (its final adapter, else its newest checkpoint). Throws Error naming what is wrong, also for another model.
Lora read_any_adapter(const std::filesystem::path& path, const ModelConfig& config);

/// A whole checkpoint folder from state held in one place, with one shard; it appears whole or not at all, and a folder
/// with something in it is refused. `state.path` does not matter.
void write_checkpoint(const std::filesystem::path& folder, const LoadedCheckpoint& state);

class CheckpointStore {
 public:
  /// `root`: RUN/checkpoints. `keep`: newest so many stay (0: all), besides the best.
  CheckpointStore(std::filesystem::path root, std::int64_t keep);

  /// Called by every learner (collective over `learners`); each writes its own shard. Returns when the
  /// checkpoint is published, `latest` points to it and old ones are removed. Throws Error on every learner
  /// when one of them could not write; then nothing was published and older checkpoints are untouched.
  void save(const Learner& learner, Communicator& learners, const CheckpointInfo& info);

  /// The newest checkpoint that passes every check, with a warning for each newer one that does not; nothing
  /// if there is none. Reads any number of shards.
  std::optional<LoadedCheckpoint> load_newest(const ModelConfig& config) const;
  /// Exactly this one. Throws Error naming what is damaged.
  static LoadedCheckpoint load(const std::filesystem::path& folder, const ModelConfig& config);
  /// Throws Error naming the first damage.
  static void verify(const std::filesystem::path& folder);
  /// Every damage, a line each, without needing the model: manifest, missing files, sizes, digests, gaps between
  /// shards. Empty: the checkpoint is whole.
  static std::vector<std::string> find_damage(const std::filesystem::path& folder);

  /// The folders step-… that there are, whole or not.
  std::vector<std::filesystem::path> newest_first() const;

 private:
  void remove_old() const;
  std::filesystem::path root_;
  std::int64_t keep_;
};

}  // namespace biqa
