// SPDX-License-Identifier: Apache-2.0
// Loads a checkpoint on many learners. One learner verifies and reads each file, once in the whole job, and sends the
// others their ranges. Ranks that are not learners read nothing.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "learner/checkpoint_store.h"
#include "model/config.h"

namespace biqa {

/// A checkpoint that all learners have found undamaged.
struct FoundCheckpoint {
  std::filesystem::path path;
  std::int64_t step = 0, version = 0, data_cursor = 0, updates = 0;
  bool frozen = false;  ///< its adapter has parts on frozen modules, which must be merged into the weights
  std::vector<ShardFacts> shards;  ///< in order of their ranges, without gaps
  // Set on the first learner only.
  CheckpointInfo info;
  Lora adapter;  ///< with the values of adapter.h5
};

struct CheckedFiles;

/// One learner's part of the loading.
class CheckpointReader {
 public:
  explicit CheckpointReader(Communicator& learners) : learners_(learners) {}

  /// Returns the first of `candidates` that every learner finds undamaged; the list of the first learner applies. The
  /// first learner warns of every damaged candidate. With `only`, a damaged candidate is an Error on the first learner,
  /// and the others return nothing. Only the first learner calls `model`, and only if there is an adapter to read.
  /// Collective.
  std::optional<FoundCheckpoint> find(std::vector<std::filesystem::path> candidates, bool only,
                                      const std::function<ModelConfig()>& model);

  /// Reads the files that this learner has verified. Not collective. Throws Error naming the file.
  void read_files(const FoundCheckpoint& found);

  /// Adapter values and moments of one range.
  struct State {
    std::vector<float> values, m, v;
  };
  /// Returns the state on [begin, end) of the flat vector and frees what was read. Collective; call it after all
  /// learners have returned from read_files().
  State exchange(const FoundCheckpoint& found, std::size_t begin, std::size_t end);

 private:
  int reader_of(std::size_t shard) const {
    return static_cast<int>(shard % static_cast<std::size_t>(learners_.size()));
  }
  CheckedFiles check_part(const std::filesystem::path& folder) const;
  std::string judge(const std::filesystem::path& folder, const std::vector<std::vector<std::byte>>& parts,
                    const std::function<ModelConfig()>& model, FoundCheckpoint& found) const;

  Communicator& learners_;
  std::vector<State> files_;  // by shard; filled for the files of this learner
};

}  // namespace biqa
