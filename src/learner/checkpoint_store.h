// SPDX-License-Identifier: Apache-2.0
// Checkpoints: a folder per saved step with the adapter, one optimizer shard per learner and a manifest that
// is written last. A folder appears whole (temporary name, fsync, rename) and is never touched again.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
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
  std::int64_t data_cursor = 0;  ///< place in the training data: rows of all epochs, one behind the other
  std::string config;            ///< resolved YAML
  std::string build;             ///< version text
  std::string base_model;        ///< path of the checkpoint folder trained on
  double best_value = 0;         ///< of the figure that chooses the best; NaN: not evaluated
  std::string base_weights;      ///< Checkpoint::fingerprint() of the model trained on; empty: unknown
  std::string training_data;     ///< TrainingData::fingerprint(); empty: unknown
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
    bool operator==(const File&) const = default;
  };
  CheckpointInfo info;
  std::vector<File> files;  ///< by name
};

/// Reads manifest.json of a checkpoint folder. Throws Error naming it when it is missing, of another format, without or
/// with an impossible step, version or cursor, or damaged: since format 2 it carries a digest of its own bytes.
CheckpointManifest read_checkpoint_manifest(const std::filesystem::path& folder);

/// adapter.h5: f32 datasets by PEFT key, those on frozen modules too, attributes rank, alpha, rslora, targets, base_model, step and version. Sealed
/// (see Hdf5Writer::close), since outside a checkpoint it has no manifest.
void write_adapter_h5(const std::filesystem::path& file, const Lora& lora, const CheckpointInfo& info);

/// Throws Error naming what is wrong, also for another model and for values that are not finite.
Lora read_adapter_h5(const std::filesystem::path& file, const ModelConfig& config);

/// An adapter from whatever people have: a PEFT folder or its safetensors, an adapter.h5, a checkpoint folder, or a run
/// folder or its checkpoints (the final adapter, else that of the newest checkpoint where it is whole, with a warning for
/// each newer one). Throws Error naming what is wrong, also for another model.
Lora read_any_adapter(const std::filesystem::path& path, const ModelConfig& config);

/// A whole checkpoint folder from state held in one place, with one shard; it appears whole or not at all, and a folder
/// with something in it is refused. `state.path` does not matter.
void write_checkpoint(const std::filesystem::path& folder, const LoadedCheckpoint& state);

/// "step-000120"; "optimizer-00003-of-00016.h5".
std::string checkpoint_name(std::int64_t step);
std::string shard_name(int shard, int shards);

/// One learner's range of the flat vectors.
struct CheckpointShard {
  std::size_t begin = 0, end = 0;
  std::span<const float> values, m, v;  ///< end - begin each
  std::int64_t updates = 0;
};
void write_shard_h5(const std::filesystem::path& file, const CheckpointShard& shard,
                    const LoraLayout& layout);

/// What a shard's file says of itself.
struct ShardFacts {
  std::string name;
  std::int64_t begin = 0, end = 0, updates = 0;
};
/// Throws Error where its tensors don't have that range.
ShardFacts read_shard_facts(const std::filesystem::path& folder, const std::string& name);
/// The listed files are an adapter of this step and all shards of one number of learners, whose ranges lie end to end.
/// `shards`: those of the listed files. Reads adapter.h5; throws Error.
void check_parts(const std::filesystem::path& folder, const CheckpointManifest& manifest,
                 std::span<const ShardFacts> shards);
/// What is wrong with one file that the manifest lists (missing, size, digest); empty: nothing.
std::string damage_of_file(const std::filesystem::path& folder, const CheckpointManifest::File& file);
/// What keeps the adapter of a checkpoint from being read, whatever became of its other files; empty: nothing.
std::string damage_of_adapter(const std::filesystem::path& folder);

/// A file as the manifest lists it.
CheckpointManifest::File describe_checkpoint_file(const std::filesystem::path& file);

/// Writes the manifest into `folder`, renames it to its place below `root` and points `latest` to it. A whole checkpoint
/// of this step with the same files that is already there is left as it is and `folder` removed; any other is set aside.
void publish_checkpoint(const std::filesystem::path& root, const std::filesystem::path& folder,
                        const CheckpointManifest& manifest);
/// Points `best` below `root` to the checkpoint of this step, if it is there.
void point_best_checkpoint(const std::filesystem::path& root, std::int64_t step);
/// The step that `best` points to. (`latest` and `best` are files with the checkpoint's name where there are no links.)
std::optional<std::int64_t> best_checkpoint(const std::filesystem::path& root);
/// Warns where it cannot.
void remove_checkpoint(const std::filesystem::path& folder);
/// Keeps the newest `keep` (0: all) and the one that `best` points to.
void remove_old_checkpoints(const std::filesystem::path& root, std::int64_t keep);
/// A run goes on below `root` from this step: checkpoints of later ones, damaged or of a past that is run again, are
/// renamed to replaced-step-…, so that none is taken for its future; `latest` and `best` follow; half-written folders and
/// links of killed runs are removed. Nobody else may write there.
void take_over_checkpoints(const std::filesystem::path& root, std::int64_t step);

class CheckpointStore {
 public:
  /// `root`: RUN/checkpoints.
  explicit CheckpointStore(std::filesystem::path root);

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

  /// The folders step-000120 that there are, whole or not; other names are somebody's own.
  std::vector<std::filesystem::path> newest_first() const;

 private:
  std::filesystem::path root_;
};

}  // namespace biqa
