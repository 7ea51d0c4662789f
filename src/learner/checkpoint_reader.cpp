// SPDX-License-Identifier: Apache-2.0
#include "learner/checkpoint_reader.h"

#include <glog/logging.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include "core/error.h"
#include "core/finite.h"
#include "io/hdf5.h"
#include "learner/messages.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

std::vector<float> read_part(const Hdf5File& file, const char* part, const ShardFacts& shard) {
  std::vector<float> values = file.read_f32(part);
  if (values.size() != static_cast<std::size_t>(shard.end - shard.begin) || !all_finite(values)) {
    fail("checkpoint file {}: {} does not have the required {} finite values; use another checkpoint",
         file.path().string(), part, shard.end - shard.begin);
  }
  return values;
}

}  // namespace

/// Verifies this learner's files.
CheckedFiles CheckpointReader::check_part(const fs::path& folder) const {
  CheckedFiles checked;
  try {
    const CheckpointManifest manifest = read_checkpoint_manifest(folder);
    std::size_t shard = 0;
    for (const CheckpointManifest::File& file : manifest.files) {
      const bool is_shard = file.name.starts_with("optimizer-");
      const bool own = (is_shard ? reader_of(shard++) : 0) == learners_.rank();
      if (!own) continue;
      if (const std::string damage = damage_of_file(folder, file); !damage.empty()) throw Error(damage);
      if (is_shard) checked.shards.push_back(read_shard_facts(folder, file.name));
    }
  } catch (const std::exception& error) {
    checked.damage = error.what();
  }
  return checked;
}

/// For the first learner. Returns the damage of the checkpoint as a whole. If there is none, fills `found` and returns
/// an empty text.
std::string CheckpointReader::judge(const fs::path& folder, const std::vector<std::vector<std::byte>>& parts,
                                    const std::function<ModelConfig()>& model, FoundCheckpoint& found) const {
  try {
    found = {};
    for (const std::vector<std::byte>& part : parts) {
      CheckedFiles checked = checked_files_of({reinterpret_cast<const char*>(part.data()), part.size()});
      if (!checked.damage.empty()) return checked.damage;
      std::move(checked.shards.begin(), checked.shards.end(), std::back_inserter(found.shards));
    }
    std::sort(found.shards.begin(), found.shards.end(),
              [](const ShardFacts& a, const ShardFacts& b) { return a.name < b.name; });
    const CheckpointManifest manifest = read_checkpoint_manifest(folder);
    check_parts(folder, manifest, found.shards);
    found.path = folder;
    found.info = manifest.info;
    found.step = found.info.step;
    found.version = found.info.version;
    found.data_cursor = found.info.data_cursor;
    found.updates = found.shards.front().updates;
    found.adapter = read_adapter_h5(folder / "adapter.h5", model());
    found.frozen = found.adapter.frozen != nullptr;
    if (static_cast<std::int64_t>(found.adapter.layout->size()) != found.shards.back().end) {
      fail("checkpoint {}: its shards end at value {}, but its adapter has {} values; use another",
           folder.string(), found.shards.back().end, found.adapter.layout->size());
    }
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

std::optional<FoundCheckpoint> CheckpointReader::find(std::vector<fs::path> candidates, bool only,
                                                      const std::function<ModelConfig()>& model) {
  const bool first = learners_.rank() == 0;
  candidates = paths_of(share_text(learners_, text_of(candidates), 0));
  for (const fs::path& folder : candidates) {
    const std::string own = text_of(check_part(folder));
    const auto parts = learners_.gather_bytes(std::as_bytes(std::span(own)), 0);
    FoundCheckpoint found;
    std::string damage;
    if (first) damage = judge(folder, parts, model, found);
    const std::string verdict =
        share_text(learners_, first && damage.empty() ? text_of(std::optional(found)) : std::string(), 0);
    if (!verdict.empty()) return first ? std::move(found) : *found_checkpoint_of(verdict);
    if (first && only) throw Error(damage);
    if (first) LOG(WARNING) << one_line(damage) << "; trying the checkpoint before it";
  }
  return std::nullopt;
}

void CheckpointReader::read_files(const FoundCheckpoint& found) {
  files_.assign(found.shards.size(), {});
  for (std::size_t shard = 0; shard < found.shards.size(); ++shard) {
    if (reader_of(shard) != learners_.rank()) continue;
    const ShardFacts& facts = found.shards[shard];
    const Hdf5File file(found.path / facts.name);
    files_[shard] = {read_part(file, "master", facts), read_part(file, "m", facts),
                     read_part(file, "v", facts)};
  }
}

CheckpointReader::State CheckpointReader::exchange(const FoundCheckpoint& found, std::size_t begin,
                                                   std::size_t end) {
  // Each learner gets the ranges of all. So the reader of a file knows the receivers of its parts.
  const std::vector<ValueRange> ranges = share_ranges(learners_, {begin, end});
  const auto overlap = [&](std::size_t shard, int learner) {
    const ValueRange& range = ranges[static_cast<std::size_t>(learner)];
    const ShardFacts& facts = found.shards[shard];
    return std::pair{std::max<std::size_t>(range.begin, static_cast<std::size_t>(facts.begin)),
                     std::min<std::size_t>(range.end, static_cast<std::size_t>(facts.end))};
  };
  const auto parts = [](State& state) { return std::array{&state.values, &state.m, &state.v}; };
  for (std::size_t shard = 0; shard < files_.size(); ++shard) {
    if (reader_of(shard) != learners_.rank()) continue;
    const auto first_of_file = static_cast<std::size_t>(found.shards[shard].begin);
    for (int learner = 0; learner < learners_.size(); ++learner) {
      const auto [from, to] = overlap(shard, learner);
      if (from >= to || learner == learners_.rank()) continue;
      for (const std::vector<float>* part : parts(files_[shard]))
        send_values(learners_, learner, std::span(*part).subspan(from - first_of_file, to - from));
    }
  }
  State state;
  for (std::vector<float>* part : parts(state)) part->resize(end - begin);
  for (std::size_t shard = 0; shard < files_.size(); ++shard) {
    const auto [from, to] = overlap(shard, learners_.rank());
    if (from >= to) continue;
    for (std::size_t i = 0; i < parts(state).size(); ++i) {
      float* const target = parts(state)[i]->data() + (from - begin);
      if (reader_of(shard) == learners_.rank()) {
        const std::size_t skipped = from - static_cast<std::size_t>(found.shards[shard].begin);
        std::copy_n(parts(files_[shard])[i]->begin() + static_cast<std::ptrdiff_t>(skipped), to - from,
                    target);
        continue;
      }
      receive_values(learners_, reader_of(shard), {target, to - from});
    }
  }
  learners_.flush();
  files_.clear();
  return state;
}

}  // namespace biqa
