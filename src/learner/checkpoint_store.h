// SPDX-License-Identifier: Apache-2.0
// Checkpoints: one folder per saved step, with the adapter, one optimizer shard per learner and a manifest. The
// manifest is written last. A folder appears whole (temporary name, fsync, rename) and is never changed again.
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

/// The data of a checkpoint besides its tensors.
struct CheckpointInfo {
  std::int64_t step = 0, version = 0;
  std::int64_t data_cursor = 0;  ///< place in the training data: rows used so far, over all epochs
  std::string config;            ///< resolved YAML
  std::string build;             ///< version text
  std::string base_model;        ///< path of the base model's folder
  double best_value = 0;         ///< of the metric that `checkpoint.best` names; NaN: not evaluated
  std::string base_weights;      ///< Checkpoint::fingerprint() of the base model; empty: unknown
  std::string training_data;     ///< TrainingData::fingerprint(); empty: unknown
};

/// A checkpoint in memory. Vectors have the layout's size.
struct LoadedCheckpoint {
  CheckpointInfo info;
  std::filesystem::path path;
  Lora adapter;
  std::vector<float> m, v;
  std::int64_t updates = 0;
};

/// manifest.json. A folder without it is no checkpoint.
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

/// Reads manifest.json of a checkpoint folder. Throws Error naming the file if it is missing, damaged or of another
/// format. Also throws Error if its step, version or cursor is missing or impossible. Since format 2 it contains a
/// digest of its own bytes.
CheckpointManifest read_checkpoint_manifest(const std::filesystem::path& folder);

/// Writes adapter.h5: f32 datasets named by PEFT key, including those on frozen modules, and the attributes rank,
/// alpha, rslora, targets, base_model, step and version. The file is sealed (see Hdf5Writer::close), because outside a
/// checkpoint it has no manifest.
void write_adapter_h5(const std::filesystem::path& file, const Lora& lora, const CheckpointInfo& info);

/// Throws Error naming what is wrong, also if the adapter belongs to another model or a value is not finite.
Lora read_adapter_h5(const std::filesystem::path& file, const ModelConfig& config);

/// Reads an adapter in any form: a PEFT folder or its safetensors file, an adapter.h5, a checkpoint folder, or a run
/// folder or its checkpoints/. From a run it takes the final adapter. Without a final adapter, it takes the newest
/// checkpoint with an undamaged adapter, even if shards are damaged. It warns of each newer checkpoint. Throws Error as
/// read_adapter_h5 does.
Lora read_any_adapter(const std::filesystem::path& path, const ModelConfig& config);

/// Writes a checkpoint folder with a single shard. It appears whole or not at all. Throws Error if `folder` exists and
/// is not empty. `state.path` is ignored.
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

/// The range and counter that a shard's file records.
struct ShardFacts {
  std::string name;
  std::int64_t begin = 0, end = 0, updates = 0;
};
/// Reads the facts of a shard. Throws Error if the shard's tensors do not have the recorded range.
ShardFacts read_shard_facts(const std::filesystem::path& folder, const std::string& name);
/// Throws Error unless the listed files are an adapter of this step and a complete set of shards. The ranges of the
/// shards must join without gaps. `shards`: the facts of the listed shards. Reads adapter.h5.
void check_parts(const std::filesystem::path& folder, const CheckpointManifest& manifest,
                 std::span<const ShardFacts> shards);
/// Describes the damage of a file that the manifest lists (missing, size, digest). Empty if it is undamaged.
std::string damage_of_file(const std::filesystem::path& folder, const CheckpointManifest::File& file);
/// The reason why the adapter of a checkpoint cannot be read; empty if it can. Ignores the checkpoint's other files.
std::string damage_of_adapter(const std::filesystem::path& folder);

/// Name, size and digest of a file, as the manifest lists them.
CheckpointManifest::File describe_checkpoint_file(const std::filesystem::path& file);

/// Writes the manifest into `folder`, renames the folder to its place below `root` and points `latest` to it. If the
/// same checkpoint is already there undamaged, it stays and `folder` is removed. A different checkpoint of this step is
/// renamed to replaced-step-….
void publish_checkpoint(const std::filesystem::path& root, const std::filesystem::path& folder,
                        const CheckpointManifest& manifest);
/// Points `best` below `root` to the checkpoint of this step, if it exists.
void point_best_checkpoint(const std::filesystem::path& root, std::int64_t step);
/// The step that `best` points to. On file systems without links, `latest` and `best` are files with the checkpoint's
/// name.
std::optional<std::int64_t> best_checkpoint(const std::filesystem::path& root);
/// Removes a checkpoint. Prints a warning if that fails.
void remove_checkpoint(const std::filesystem::path& folder);
/// Keeps the newest `keep` checkpoints (0: all) and the one that `best` points to.
void remove_old_checkpoints(const std::filesystem::path& root, std::int64_t keep);
/// Prepares `root` for a run that resumes from this step. Checkpoints of later steps are renamed to replaced-step-…, so
/// that none is mistaken for a result of this run. `latest` and `best` are adjusted. Half-written folders and links of
/// killed runs are removed. No other process may write there.
void take_over_checkpoints(const std::filesystem::path& root, std::int64_t step);

class CheckpointStore {
 public:
  /// `root`: RUN/checkpoints.
  explicit CheckpointStore(std::filesystem::path root);

  /// Loads the newest checkpoint that passes every check, and warns of each newer one that does not. Returns nothing if
  /// there is none. The number of shards may differ from the number of learners.
  std::optional<LoadedCheckpoint> load_newest(const ModelConfig& config) const;
  /// Loads this checkpoint. Throws Error naming what is damaged.
  static LoadedCheckpoint load(const std::filesystem::path& folder, const ModelConfig& config);
  /// Throws Error naming the first damage.
  static void verify(const std::filesystem::path& folder);
  /// Lists every damage, one line each: manifest, missing files, sizes, digests, gaps between shards. Empty: the
  /// checkpoint is undamaged. Does not need the model.
  static std::vector<std::string> find_damage(const std::filesystem::path& folder);

  /// All folders with a name like step-000120, damaged or not. Other names are ignored.
  std::vector<std::filesystem::path> newest_first() const;

 private:
  std::filesystem::path root_;
};

}  // namespace biqa
