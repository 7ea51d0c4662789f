// SPDX-License-Identifier: Apache-2.0
// Going on from a checkpoint with many learners: each of its files is verified and read once in the whole job, by one
// learner, who hands the others their ranges. Ranks that don't learn read nothing.
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

/// A checkpoint that all learners have found whole.
struct FoundCheckpoint {
  std::filesystem::path path;
  std::int64_t step = 0, version = 0, data_cursor = 0, updates = 0;
  bool frozen = false;             ///< its adapter has parts on frozen modules, which the weights need
  std::vector<ShardFacts> shards;  ///< end to end
  // The first learner's alone.
  CheckpointInfo info;
  Lora adapter;  ///< its values as adapter.h5 has them

  /// For ranks that were not asked; without what the first learner keeps. Nothing there: empty text.
  static std::string to_text(const std::optional<FoundCheckpoint>& found);
  static std::optional<FoundCheckpoint> from_text(const std::string& text);
};

/// One learner's part; all learners call its methods alike.
class CheckpointReader {
 public:
  explicit CheckpointReader(Communicator& learners) : learners_(learners) {}

  /// Collective: the first of `candidates` (the first learner's count) that every learner finds whole in its part, with
  /// a warning on the first learner for each that is not; with `only`, that is an Error on the first learner and nothing
  /// is found on the others. `model` is asked on the first learner when there is something to read.
  std::optional<FoundCheckpoint> find(std::vector<std::filesystem::path> candidates, bool only,
                                      const std::function<ModelConfig()>& model);

  /// Reads the files that this learner has verified. Not collective. Throws Error naming the file.
  void read_files(const FoundCheckpoint& found);

  /// One range of the state.
  struct State {
    std::vector<float> values, m, v;
  };
  /// Collective, when all have read: the state on [begin, end) of the flat vector, and what was read is forgotten.
  State exchange(const FoundCheckpoint& found, std::size_t begin, std::size_t end);

 private:
  int reader_of(std::size_t shard) const {
    return static_cast<int>(shard % static_cast<std::size_t>(learners_.size()));
  }
  std::string check_part(const std::filesystem::path& folder) const;
  std::string judge(const std::filesystem::path& folder, const std::vector<std::vector<std::byte>>& parts,
                    const std::function<ModelConfig()>& model, FoundCheckpoint& found) const;

  Communicator& learners_;
  std::vector<State> files_;  // by shard, those of this learner filled
};

}  // namespace biqa
