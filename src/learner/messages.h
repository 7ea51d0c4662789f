// SPDX-License-Identifier: Apache-2.0
// Messages between learners, and texts that describe checkpoints to other ranks. This file has all tags and layouts of
// this layer. All ranks run the same build, so a struct is sent as its bytes.
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

/// Tag of messages between learners. The learner that has read a range of a checkpoint sends its values to the owner of
/// the range.
inline constexpr int kTagRange = 0;

void send_values(Communicator& learners, int to, std::span<const float> values);
/// Fills `values` with the next message of rank `from`, which must have the same number of values.
void receive_values(Communicator& learners, int from, std::span<float> values);

/// [begin, end) of the flat vector.
struct ValueRange {
  std::uint64_t begin = 0, end = 0;
};
/// The ranges of all learners, by rank. Collective.
std::vector<ValueRange> share_ranges(Communicator& learners, const ValueRange& own);

/// Returns the text of rank `root` on every rank. Collective.
std::string share_text(Communicator& ranks, const std::string& text, int root);
/// The first learner chooses a random text; every learner returns it. Collective.
std::string share_token(Communicator& learners);

std::string text_of(std::span<const std::filesystem::path> paths);
std::vector<std::filesystem::path> paths_of(const std::string& text);

/// The result of a learner's check of some files of a checkpoint.
struct CheckedFiles {
  std::string damage;  ///< empty: none
  std::vector<ShardFacts> shards;
};
std::string text_of(const CheckedFiles& checked);
CheckedFiles checked_files_of(const std::string& text);

/// The text leaves out `info` and `adapter`. It is empty if no checkpoint was found.
std::string text_of(const std::optional<FoundCheckpoint>& found);
std::optional<FoundCheckpoint> found_checkpoint_of(const std::string& text);

}  // namespace biqa
