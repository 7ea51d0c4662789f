// SPDX-License-Identifier: Apache-2.0
#include "data/byte_pair.h"

#include <glog/logging.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <queue>
#include <utility>

namespace biqa {
namespace {

/// Words up to this many bytes are merged in an array and cached. Longer ones use a queue and are not cached.
constexpr std::size_t kShortWord = 48;
/// Words in one shard of the cache; all shards take about 10 MB.
constexpr std::size_t kShardWords = 1024;
constexpr std::int32_t kNoRank = std::numeric_limits<std::int32_t>::max();

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

}  // namespace

MergeTable::MergeTable(std::size_t count) : slots_(std::bit_ceil(std::max<std::size_t>(2 * count, 2))) {}

std::size_t MergeTable::slot_of(std::uint64_t pair) const {
  const std::size_t mask = slots_.size() - 1;
  std::uint64_t mixed = pair * 0x9E3779B97F4A7C15U;
  mixed ^= mixed >> 32;
  std::size_t slot = static_cast<std::size_t>(mixed) & mask;
  while (slots_[slot].pair != kEmpty && slots_[slot].pair != pair) slot = (slot + 1) & mask;
  return slot;
}

bool MergeTable::add(std::int32_t left, std::int32_t right, Merge merge) {
  CHECK(left >= 0 && right >= 0);
  const std::uint64_t pair = pair_key(left, right);
  Slot& slot = slots_[slot_of(pair)];
  if (slot.pair == pair) return false;
  slot = {pair, merge};
  return true;
}

const MergeTable::Merge* MergeTable::find(std::int32_t left, std::int32_t right) const {
  const Slot& slot = slots_[slot_of(pair_key(left, right))];
  return slot.pair == kEmpty ? nullptr : &slot.merge;
}

BytePairEncoder::BytePairEncoder(const std::array<std::int32_t, 256>& byte_ids, MergeTable merges)
    : byte_ids_(byte_ids), merges_(std::move(merges)) {}

void BytePairEncoder::append(std::string_view word, std::vector<std::int64_t>& ids) const {
  if (word.size() > kShortWord) {
    const std::vector<std::int32_t> tokens = merge_long(word);
    ids.insert(ids.end(), tokens.begin(), tokens.end());
    return;
  }
  // The high bits choose the shard, as the map inside uses the low ones.
  Shard& shard = cache_[StringHash{}(word) >> 58];
  {
    const std::lock_guard lock(shard.mutex);
    if (const auto found = shard.words.find(word); found != shard.words.end()) {
      ids.insert(ids.end(), found->second.begin(), found->second.end());
      return;
    }
  }
  std::vector<std::int32_t> tokens = merge_short(word);
  ids.insert(ids.end(), tokens.begin(), tokens.end());
  const std::lock_guard lock(shard.mutex);
  if (shard.words.size() == kShardWords) shard.words.clear();
  shard.words.emplace(word, std::move(tokens));
}

std::vector<std::int32_t> BytePairEncoder::merge_short(std::string_view word) const {
  std::array<std::int32_t, kShortWord> tokens;
  std::array<MergeTable::Merge, kShortWord> joins;  // joins[i]: of tokens i and i + 1
  std::size_t count = word.size();
  const auto join_at = [&](std::size_t i) {
    const MergeTable::Merge* merge = i + 1 < count ? merges_.find(tokens[i], tokens[i + 1]) : nullptr;
    joins[i] = merge != nullptr ? *merge : MergeTable::Merge{kNoRank, 0};
  };
  for (std::size_t i = 0; i < count; ++i) tokens[i] = byte_ids_[static_cast<unsigned char>(word[i])];
  for (std::size_t i = 0; i < count; ++i) join_at(i);
  while (count > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < count; ++i) {
      if (joins[i].rank < joins[best].rank) best = i;
    }
    if (joins[best].rank == kNoRank) break;
    tokens[best] = joins[best].merged;
    const auto from = static_cast<std::ptrdiff_t>(best) + 2;
    const auto end = static_cast<std::ptrdiff_t>(count);
    std::move(tokens.begin() + from, tokens.begin() + end, tokens.begin() + from - 1);
    std::move(joins.begin() + from, joins.begin() + end, joins.begin() + from - 1);
    --count;
    join_at(best);
    if (best > 0) join_at(best - 1);
  }
  return {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(count)};
}

std::vector<std::int32_t> BytePairEncoder::merge_long(std::string_view word) const {
  constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();
  constexpr std::int32_t kGone = -1;
  struct Node {
    std::int32_t token;  // kGone: merged into the one before
    std::size_t before, after;
  };
  struct Candidate {
    std::int32_t rank;
    std::size_t position;
    std::int32_t left, right, merged;
    bool operator>(const Candidate& other) const {
      return std::pair(rank, position) > std::pair(other.rank, other.position);
    }
  };
  std::vector<Node> nodes(word.size());
  for (std::size_t i = 0; i < word.size(); ++i) {
    nodes[i] = {byte_ids_[static_cast<unsigned char>(word[i])], i == 0 ? kNone : i - 1,
                i + 1 == word.size() ? kNone : i + 1};
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto offer = [&](std::size_t position) {
    if (position == kNone || nodes[position].after == kNone) return;
    const std::int32_t left = nodes[position].token;
    const std::int32_t right = nodes[nodes[position].after].token;
    if (const MergeTable::Merge* merge = merges_.find(left, right)) {
      queue.push({merge->rank, position, left, right, merge->merged});
    }
  };
  for (std::size_t i = 0; i < nodes.size(); ++i) offer(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Node& node = nodes[best.position];
    // A candidate is stale when an earlier merge took one of its sides.
    if (node.token != best.left || node.after == kNone || nodes[node.after].token != best.right) continue;
    Node& taken = nodes[node.after];
    node.token = best.merged;
    node.after = taken.after;
    taken.token = kGone;
    if (node.after != kNone) nodes[node.after].before = best.position;
    offer(node.before);
    offer(best.position);
  }
  std::vector<std::int32_t> tokens;
  for (const Node& node : nodes) {
    if (node.token != kGone) tokens.push_back(node.token);
  }
  return tokens;
}

}  // namespace biqa
