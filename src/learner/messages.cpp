// SPDX-License-Identifier: Apache-2.0
#include "learner/messages.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>

namespace biqa {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

Json json_of(const ShardFacts& shard) {
  return Json::array({shard.name, shard.begin, shard.end, shard.updates});
}
ShardFacts shard_from(const Json& json) {
  return {json.at(0).get<std::string>(), json.at(1).get<std::int64_t>(), json.at(2).get<std::int64_t>(),
          json.at(3).get<std::int64_t>()};
}

}  // namespace

void send_values(Communicator& learners, int to, std::span<const float> values) {
  learners.send(to, kTagRange, std::as_bytes(values));
}

void receive_values(Communicator& learners, int from, std::span<float> values) {
  const Message message = learners.receive(from, kTagRange, "a part of the checkpoint");
  CHECK_EQ(message.bytes.size(), values.size_bytes());
  std::memcpy(values.data(), message.bytes.data(), message.bytes.size());
}

std::vector<ValueRange> share_ranges(Communicator& learners, const ValueRange& own) {
  std::vector<std::byte> all;
  for (const auto& one : learners.gather_bytes(std::as_bytes(std::span(&own, 1)), 0))
    all.insert(all.end(), one.begin(), one.end());
  learners.broadcast_bytes(all, 0);
  std::vector<ValueRange> ranges(static_cast<std::size_t>(learners.size()));
  CHECK_EQ(all.size(), ranges.size() * sizeof ranges.front());
  std::memcpy(ranges.data(), all.data(), all.size());
  return ranges;
}

std::string share_text(Communicator& ranks, const std::string& text, int root) {
  const auto letters = std::as_bytes(std::span(text));
  std::vector<std::byte> bytes(letters.begin(), letters.end());
  ranks.broadcast_bytes(bytes, root);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string share_token(Communicator& learners) {
  std::random_device device;
  const std::uint64_t drawn = static_cast<std::uint64_t>(device()) << 32 | device();
  std::vector<std::byte> bytes(sizeof drawn);
  std::memcpy(bytes.data(), &drawn, sizeof drawn);
  learners.broadcast_bytes(bytes, 0);
  std::uint64_t common = 0;
  std::memcpy(&common, bytes.data(), sizeof common);
  return fmt::format("{:016x}", common);
}

// A NUL precedes each path, because no path contains one.
std::string text_of(std::span<const fs::path> paths) {
  std::string text;
  for (const fs::path& path : paths) text += '\0' + path.native();
  return text;
}

std::vector<fs::path> paths_of(const std::string& text) {
  std::vector<fs::path> paths;
  for (std::size_t start = 0; start < text.size();) {
    const std::size_t end = std::min(text.find('\0', start + 1), text.size());
    paths.emplace_back(text.substr(start + 1, end - start - 1));
    start = end;
  }
  return paths;
}

std::string text_of(const CheckedFiles& checked) {
  Json shards = Json::array();
  for (const ShardFacts& shard : checked.shards) shards.push_back(json_of(shard));
  const Json answer{{"damage", checked.damage}, {"shards", std::move(shards)}};
  return answer.dump(-1, ' ', true, Json::error_handler_t::replace);
}

CheckedFiles checked_files_of(const std::string& text) {
  const Json answer = Json::parse(text);
  CheckedFiles checked{answer.at("damage").get<std::string>(), {}};
  for (const Json& shard : answer.at("shards")) checked.shards.push_back(shard_from(shard));
  return checked;
}

std::string text_of(const std::optional<FoundCheckpoint>& found) {
  if (!found) return "";
  Json shards = Json::array();
  for (const ShardFacts& shard : found->shards) shards.push_back(json_of(shard));
  const Json numbers{found->step,    found->version, found->data_cursor,
                     found->updates, found->frozen,  std::move(shards)};
  return numbers.dump() + '\0' + found->path.native();  // a path need not be UTF-8
}

std::optional<FoundCheckpoint> found_checkpoint_of(const std::string& text) {
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

}  // namespace biqa
