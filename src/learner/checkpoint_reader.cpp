// SPDX-License-Identifier: Apache-2.0
#include "learner/checkpoint_reader.h"

#include <glog/logging.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.h"
#include "core/finite.h"
#include "io/hdf5.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr int kTagRange = 0;

std::vector<std::byte> bytes_of(const std::string& text) {
  const auto letters = std::as_bytes(std::span(text));
  return {letters.begin(), letters.end()};
}
std::string text_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
/// The first learner's text to all.
std::string broadcast_text(Communicator& learners, const std::string& text) {
  std::vector<std::byte> bytes = bytes_of(text);
  learners.broadcast_bytes(bytes, 0);
  return text_of(bytes);
}

Json json_of(const ShardFacts& shard) {
  return Json::array({shard.name, shard.begin, shard.end, shard.updates});
}
ShardFacts shard_from(const Json& json) {
  return {json.at(0).get<std::string>(), json.at(1).get<std::int64_t>(), json.at(2).get<std::int64_t>(),
          json.at(3).get<std::int64_t>()};
}

std::vector<float> read_part(const Hdf5File& file, const char* part, const ShardFacts& shard) {
  std::vector<float> values = file.read_f32(part);
  if (values.size() != static_cast<std::size_t>(shard.end - shard.begin) || !all_finite(values)) {
    fail(
        "checkpoint file {}: {} does not have {} finite values, as its manifest says; use another checkpoint",
        file.path().string(), part, shard.end - shard.begin);
  }
  return values;
}

}  // namespace

std::string FoundCheckpoint::to_text(const std::optional<FoundCheckpoint>& found) {
  if (!found) return "";
  Json shards = Json::array();
  for (const ShardFacts& shard : found->shards) shards.push_back(json_of(shard));
  const Json numbers{found->step,    found->version, found->data_cursor,
                     found->updates, found->frozen,  std::move(shards)};
  return numbers.dump() + '\0' + found->path.native();  // which need not be UTF-8
}

std::optional<FoundCheckpoint> FoundCheckpoint::from_text(const std::string& text) {
  if (text.empty()) return std::nullopt;
  const std::size_t end = text.find('\0');
  const Json numbers = Json::parse(text.substr(0, end));
  FoundCheckpoint found;
  found.path = text.substr(end + 1);
  found.step = numbers.at(0).get<std::int64_t>();
  found.version = numbers.at(1).get<std::int64_t>();
  found.data_cursor = numbers.at(2).get<std::int64_t>();
  found.updates = numbers.at(3).get<std::int64_t>();
  found.frozen = numbers.at(4).get<bool>();
  for (const Json& shard : numbers.at(5)) found.shards.push_back(shard_from(shard));
  return found;
}

/// Verifies this learner's files: {"damage": text} or {"shards": [those of its files]}.
std::string CheckpointReader::check_part(const fs::path& folder) const {
  Json answer{{"damage", ""}, {"shards", Json::array()}};
  try {
    const CheckpointManifest manifest = read_checkpoint_manifest(folder);
    std::size_t shard = 0;
    for (const CheckpointManifest::File& file : manifest.files) {
      const bool is_shard = file.name.starts_with("optimizer-");
      const bool own = (is_shard ? reader_of(shard++) : 0) == learners_.rank();
      if (!own) continue;
      if (const std::string damage = damage_of_file(folder, file); !damage.empty()) throw Error(damage);
      if (is_shard) answer["shards"].push_back(json_of(read_shard_facts(folder, file.name)));
    }
  } catch (const std::exception& error) {
    answer["damage"] = error.what();
  }
  return answer.dump(-1, ' ', true, Json::error_handler_t::replace);
}

/// The first learner: what is wrong with the checkpoint as a whole; empty: nothing, and `found` is filled.
std::string CheckpointReader::judge(const fs::path& folder, const std::vector<std::vector<std::byte>>& parts,
                                    const std::function<ModelConfig()>& model, FoundCheckpoint& found) const {
  try {
    found = {};
    for (const std::vector<std::byte>& part : parts) {
      const Json answer = Json::parse(text_of(part));
      if (auto damage = answer.at("damage").get<std::string>(); !damage.empty()) return damage;
      for (const Json& shard : answer.at("shards")) found.shards.push_back(shard_from(shard));
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
  std::string names;  // each behind a NUL, which no path has
  for (const fs::path& candidate : candidates) names += '\0' + candidate.native();
  names = broadcast_text(learners_, names);
  candidates.clear();
  for (std::size_t start = 0; start < names.size();) {
    const std::size_t end = std::min(names.find('\0', start + 1), names.size());
    candidates.emplace_back(names.substr(start + 1, end - start - 1));
    start = end;
  }
  for (const fs::path& folder : candidates) {
    const auto parts = learners_.gather_bytes(bytes_of(check_part(folder)), 0);
    FoundCheckpoint found;
    std::string damage;
    if (first) damage = judge(folder, parts, model, found);
    const std::string verdict =
        broadcast_text(learners_, first && damage.empty() ? FoundCheckpoint::to_text(found) : std::string());
    if (!verdict.empty()) return first ? std::move(found) : *FoundCheckpoint::from_text(verdict);
    if (first && only) throw Error(damage);
    if (first) LOG(WARNING) << damage << "; trying the checkpoint before it";
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
  // Everyone's range, so that who has read a file knows who needs which part of it.
  const std::array<std::uint64_t, 2> own{begin, end};
  const auto gathered = learners_.gather_bytes(std::as_bytes(std::span(own)), 0);
  std::vector<std::byte> all;
  for (const auto& one : gathered) all.insert(all.end(), one.begin(), one.end());
  learners_.broadcast_bytes(all, 0);
  std::vector<std::array<std::uint64_t, 2>> ranges(static_cast<std::size_t>(learners_.size()));
  CHECK_EQ(all.size(), ranges.size() * sizeof ranges.front());
  std::memcpy(ranges.data(), all.data(), all.size());

  const auto overlap = [&](std::size_t shard, int learner) {
    const auto& range = ranges[static_cast<std::size_t>(learner)];
    const ShardFacts& facts = found.shards[shard];
    return std::pair{std::max<std::size_t>(range[0], static_cast<std::size_t>(facts.begin)),
                     std::min<std::size_t>(range[1], static_cast<std::size_t>(facts.end))};
  };
  const auto parts = [](State& state) { return std::array{&state.values, &state.m, &state.v}; };
  for (std::size_t shard = 0; shard < files_.size(); ++shard) {
    if (reader_of(shard) != learners_.rank()) continue;
    const auto first_of_file = static_cast<std::size_t>(found.shards[shard].begin);
    for (int learner = 0; learner < learners_.size(); ++learner) {
      const auto [from, to] = overlap(shard, learner);
      if (from >= to || learner == learners_.rank()) continue;
      for (const std::vector<float>* part : parts(files_[shard]))
        learners_.send(learner, kTagRange,
                       std::as_bytes(std::span(*part).subspan(from - first_of_file, to - from)));
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
      const Message message = learners_.receive(reader_of(shard), kTagRange, "a part of the checkpoint");
      CHECK_EQ(message.bytes.size(), (to - from) * sizeof(float));
      std::memcpy(target, message.bytes.data(), message.bytes.size());
    }
  }
  learners_.flush();
  files_.clear();
  return state;
}

}  // namespace biqa
