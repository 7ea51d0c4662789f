// SPDX-License-Identifier: Apache-2.0
// Messages between learners, and the texts that others get of a checkpoint: all tags and layouts of this layer. All ranks
// run the same build, so a struct is sent as its bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "learner/checkpoint_reader.h"
#include "learner/checkpoint_store.h"

namespace biqa {

/// Tag of messages between learners: one part of the state on a range, from who has read it to who owns it.
inline constexpr int kTagRange = 0;

void send_values(Communicator& learners, int to, std::span<const float> values);
/// Fills `values` with the next ones of rank `from`, which must be as many.
void receive_values(Communicator& learners, int from, std::span<float> values);

/// [begin, end) of the flat vector.
struct ValueRange {
  std::uint64_t begin = 0, end = 0;
};
/// The ranges of all learners, by rank. Collective.
std::vector<ValueRange> share_ranges(Communicator& learners, const ValueRange& own);

/// The text of rank `root`, on every rank. Collective.
std::string share_text(Communicator& ranks, const std::string& text, int root);
/// A random text of the first learner, on all. Collective.
std::string share_token(Communicator& learners);

std::string text_of(std::span<const std::filesystem::path> paths);
std::vector<std::filesystem::path> paths_of(const std::string& text);

/// What a learner has found in the files of a checkpoint that it has verified.
struct CheckedFiles {
  std::string damage;  ///< empty: none
  std::vector<ShardFacts> shards;
};
std::string text_of(const CheckedFiles& checked);
CheckedFiles checked_files_of(const std::string& text);

/// Without `info` and `adapter`. Empty text: no checkpoint found.
std::string text_of(const std::optional<FoundCheckpoint>& found);
std::optional<FoundCheckpoint> found_checkpoint_of(const std::string& text);

}  // namespace biqa
