// SPDX-License-Identifier: Apache-2.0
// What every communicator must do, whatever carries it. Each check is called by all ranks of a communicator at once.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "core/random.h"

namespace biqa::testing {

inline std::vector<std::byte> some_bytes(std::size_t count, std::uint64_t name) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; i += 8) {
    const std::uint64_t word = mix64(name * 0x10001 + i);
    std::memcpy(bytes.data() + i, &word, std::min<std::size_t>(8, count - i));
  }
  return bytes;
}

/// Rank r's input: magnitudes differ, so that another order of summation gives other bits.
template <typename T>
std::vector<T> some_values(std::size_t count, int rank) {
  const RandomStream stream({7, static_cast<std::uint64_t>(rank)});
  std::vector<T> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto scale = static_cast<T>(1 << (3 * ((static_cast<std::size_t>(rank) + i) % 7)));
    values[i] = static_cast<T>(stream.uniform(i) - 0.5) * scale;
  }
  return values;
}

template <typename T>
std::vector<T> expected_sum(std::size_t count, int ranks) {
  std::vector<T> sum = some_values<T>(count, 0);
  for (int rank = 1; rank < ranks; ++rank) {
    const std::vector<T> theirs = some_values<T>(count, rank);
    for (std::size_t i = 0; i < count; ++i) sum[i] += theirs[i];
  }
  return sum;
}

template <typename T>
bool same_bits(std::span<const T> a, std::span<const T> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return same_bits(std::span<const T>(a), std::span<const T>(b));
}

inline void barrier_waits_for_the_last(Communicator& comm) {
  const int last = comm.size() - 1;
  std::int64_t arrived = 0;
  if (comm.rank() == last) {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    arrived = std::chrono::steady_clock::now().time_since_epoch().count();
  }
  comm.barrier("a test");
  const std::int64_t left = std::chrono::steady_clock::now().time_since_epoch().count();
  comm.broadcast(View(&arrived, 1, 1), last);
  EXPECT_GE(left, arrived);
}

inline void broadcast_gives_all_the_bits_of_any_root(Communicator& comm) {
  for (int root = 0; root < comm.size(); ++root)
    for (const DType type : {DType::f32, DType::bf16, DType::i32, DType::i64, DType::u8})
      for (const std::int64_t columns : {0, 1, 7, 5000}) {
        Tensor tensor(type, 3, columns, "test");
        const auto bytes = some_bytes(tensor.bytes(), static_cast<std::uint64_t>(root) + 1);
        tensor.zero();
        if (comm.rank() == root && columns > 0) std::memcpy(tensor.view().data(), bytes.data(), bytes.size());
        comm.broadcast(tensor.view(), root);
        if (columns == 0) continue;
        EXPECT_EQ(std::memcmp(tensor.view().data(), bytes.data(), bytes.size()), 0)
            << columns << name_of(type);
      }
}

inline void large_broadcast_arrives_whole(Communicator& comm) {
  const int root = comm.size() / 2;
  const auto bytes = some_bytes((std::size_t{13} << 20) + 5, 3);
  std::vector<std::byte> buffer = comm.rank() == root ? bytes : std::vector<std::byte>(11);
  comm.broadcast_bytes(buffer, root);
  EXPECT_EQ(buffer, bytes);
  buffer = comm.rank() == 0 ? std::vector<std::byte>() : bytes;
  comm.broadcast_bytes(buffer, 0);
  EXPECT_TRUE(buffer.empty());
}

template <typename T>
void check_all_reduce(Communicator& comm) {
  for (const std::size_t count : {0, 1, 1000, 4096, 4097, 20011}) {
    std::vector<T> values = some_values<T>(count, comm.rank());
    comm.all_reduce_sum(std::span(values));
    EXPECT_TRUE(same_bits(values, expected_sum<T>(count, comm.size()))) << count;
  }
}

inline void all_reduce_sums_in_rank_order(Communicator& comm) {
  check_all_reduce<float>(comm);
  check_all_reduce<double>(comm);
}

inline void reduce_scatter_and_all_gather_agree_with_one_sum(Communicator& comm) {
  const auto ranks = static_cast<std::size_t>(comm.size()), own = static_cast<std::size_t>(comm.rank());
  for (const std::size_t shard : {std::size_t{0}, std::size_t{1}, std::size_t{1000}, std::size_t{9001}}) {
    const std::vector<float> all = some_values<float>(ranks * shard, comm.rank());
    const std::vector<float> sum = expected_sum<float>(ranks * shard, comm.size());
    std::vector<float> own_shard(shard);
    comm.reduce_scatter_sum(all, own_shard);
    EXPECT_TRUE(same_bits(std::span<const float>(own_shard), std::span(sum).subspan(own * shard, shard)))
        << shard;

    std::vector<float> gathered(ranks * shard);
    comm.all_gather(own_shard, gathered);
    EXPECT_TRUE(same_bits(gathered, sum)) << shard;

    // Both with the shard inside the whole.
    std::vector<float> in_place = all;
    const auto inside = std::span(in_place).subspan(own * shard, shard);
    comm.reduce_scatter_sum(in_place, inside);
    comm.all_gather(inside, in_place);
    EXPECT_TRUE(same_bits(in_place, sum)) << shard;
  }
}

inline void reduce_scatter_of_several_blocks_is_exact(Communicator& comm) {
  if (comm.size() > 3) return;  // time and memory
  // More than a block; integers, so any order gives these bits.
  const auto ranks = static_cast<std::size_t>(comm.size());
  const std::size_t shard = (std::size_t{1} << 20) + 77;
  std::vector<float> all(ranks * shard);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<float>((i + 3) % 1021);
  std::vector<float> own_shard(shard);
  comm.reduce_scatter_sum(all, own_shard);
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < shard; ++i) {
    const std::size_t at = static_cast<std::size_t>(comm.rank()) * shard + i;
    if (own_shard[i] != static_cast<float>(ranks * ((at + 3) % 1021))) ++wrong;
  }
  EXPECT_EQ(wrong, 0U);
}

inline void scalars_reduce_over_all_ranks(Communicator& comm) {
  const int last = comm.size() - 1;
  EXPECT_EQ(comm.all_reduce_max(comm.rank() - 10), last - 10);
  EXPECT_EQ(comm.all_reduce_min(comm.rank() + 0.5), 0.5);
  const double hole = comm.rank() == last ? std::numeric_limits<double>::quiet_NaN() : 1.0;
  EXPECT_TRUE(std::isnan(comm.all_reduce_max(hole)));
  EXPECT_TRUE(std::isnan(comm.all_reduce_min(hole)));
  EXPECT_TRUE(comm.all_and(true));
  EXPECT_FALSE(comm.all_and(comm.rank() != last));
}

inline void gather_keeps_every_ranks_bytes(Communicator& comm) {
  for (int root = 0; root < comm.size(); ++root) {
    const auto size_at = [](int rank) { return static_cast<std::size_t>(rank) * 30000; };
    const auto gathered =
        comm.gather_bytes(some_bytes(size_at(comm.rank()), static_cast<std::uint64_t>(comm.rank())), root);
    ASSERT_EQ(gathered.size(), comm.rank() == root ? static_cast<std::size_t>(comm.size()) : 0U);
    for (int rank = 0; rank < static_cast<int>(gathered.size()); ++rank)
      EXPECT_EQ(gathered[static_cast<std::size_t>(rank)],
                some_bytes(size_at(rank), static_cast<std::uint64_t>(rank)));
  }
}

inline void many_messages_keep_their_order(Communicator& comm) {
  // Every rank sends to every rank, itself included, before anybody receives; every fiftieth is a large one.
  constexpr int kMessages = 200;
  const auto bytes_of = [](int from, int to, int number) {
    const auto name = (static_cast<std::uint64_t>(from) * 64 + static_cast<std::uint64_t>(to)) * kMessages +
                      static_cast<std::uint64_t>(number);
    return some_bytes(number % 50 == 49 ? 100000 : static_cast<std::size_t>(number), name);
  };
  for (int number = 0; number < kMessages; ++number)
    for (int to = 0; to < comm.size(); ++to) comm.send(to, number % 3, bytes_of(comm.rank(), to, number));
  for (int tag = 0; tag < 3; ++tag)
    for (int from = 0; from < comm.size(); ++from)
      for (int number = tag; number < kMessages; number += 3) {
        const Message message = comm.receive(from, tag, "a numbered message");
        EXPECT_EQ(message.from, from);
        EXPECT_EQ(message.tag, tag);
        EXPECT_TRUE(same_bits(message.bytes, bytes_of(from, comm.rank(), number))) << from << " " << number;
      }
  comm.flush();
  comm.barrier("all have received");
  for (int tag = 0; tag < 3; ++tag) EXPECT_FALSE(comm.try_receive(kAnyRank, tag).has_value());
}

inline void any_rank_takes_all_ranks_in_turn(Communicator& comm) {
  if (comm.rank() != 0)
    for (int number = 0; number < 3; ++number)
      comm.send(0, 5, some_bytes(8, static_cast<std::uint64_t>(number)));
  comm.barrier("all have sent");
  if (comm.rank() == 0)
    for (int round = 0; round < 3; ++round) {
      std::vector<int> seen;
      for (int peer = 1; peer < comm.size(); ++peer)
        seen.push_back(comm.receive(kAnyRank, {4, 5}, "a number").from);
      std::sort(seen.begin(), seen.end());
      for (int peer = 1; peer < comm.size(); ++peer)
        EXPECT_EQ(seen[static_cast<std::size_t>(peer - 1)], peer);
    }
}

inline void a_message_of_several_pieces_arrives_whole(Communicator& comm) {
  if (comm.size() != 2) return;  // time and memory: every rank holds two copies
  const auto bytes = some_bytes((std::size_t{130} << 20) + 3, 9);
  const int next = (comm.rank() + 1) % comm.size(), previous = (comm.rank() + comm.size() - 1) % comm.size();
  comm.send(next, kMaxTag, bytes);
  comm.send(next, kMaxTag, std::span(bytes).first(4));
  EXPECT_TRUE(same_bits(comm.receive(previous, kMaxTag, "a large message").bytes, bytes));
  EXPECT_EQ(comm.receive(previous, kMaxTag, "a small message").bytes.size(), 4U);
  comm.flush();
}

inline void splits_are_independent(Communicator& comm) {
  std::vector<int> even, odd, reversed(static_cast<std::size_t>(comm.size()));
  for (int rank = 0; rank < comm.size(); ++rank) (rank % 2 == 0 ? even : odd).push_back(rank);
  std::iota(reversed.rbegin(), reversed.rend(), 0);
  const auto evens = comm.split(even, "evens");
  const auto odds = comm.split(odd, "odds");
  const auto backwards = comm.split(reversed, "all in reverse");
  ASSERT_EQ(evens != nullptr, comm.rank() % 2 == 0);
  ASSERT_EQ(odds != nullptr, comm.rank() % 2 == 1);
  ASSERT_NE(backwards, nullptr);
  EXPECT_EQ(backwards->rank(), comm.size() - 1 - comm.rank());

  Communicator& half = evens != nullptr ? *evens : *odds;
  EXPECT_EQ(half.rank(), comm.rank() / 2);
  EXPECT_EQ(half.size(), static_cast<int>((evens != nullptr ? even : odd).size()));
  // The same tags and collectives on three communicators do not mix.
  backwards->send((backwards->rank() + 1) % comm.size(), 1, some_bytes(3, 0));
  half.send((half.rank() + 1) % half.size(), 1, some_bytes(2, 0));
  comm.send((comm.rank() + 1) % comm.size(), 1, some_bytes(1, 0));
  EXPECT_EQ(half.all_reduce_max(comm.rank()), (evens != nullptr ? even : odd).back());
  EXPECT_EQ(comm.receive(kAnyRank, 1, "one byte").bytes.size(), 1U);
  EXPECT_EQ(half.receive(kAnyRank, 1, "two bytes").bytes.size(), 2U);
  EXPECT_EQ(backwards->receive(kAnyRank, 1, "three bytes").bytes.size(), 3U);
  std::vector<float> values = some_values<float>(9, backwards->rank());
  backwards->all_reduce_sum(std::span(values));
  EXPECT_TRUE(same_bits(values, expected_sum<float>(9, comm.size())));
  // A part of a part.
  const std::vector<int> first{0};
  const auto one = half.split(first, "the first of the half");
  ASSERT_EQ(one != nullptr, half.rank() == 0);
  if (one != nullptr) one->barrier("alone");
  comm.barrier("splits are done");
}

inline void traffic_counts_payload(Communicator& comm) {
  const auto bytes_of = [&](Operation operation) { return comm.traffic(operation).bytes; };
  const auto peers = static_cast<std::uint64_t>(comm.size() - 1);
  const Traffic scatter = comm.traffic(Operation::reduce_scatter), message = comm.traffic(Operation::message);
  const std::uint64_t gathered = bytes_of(Operation::all_gather);
  const std::vector<float> all(static_cast<std::size_t>(comm.size()) * 10);
  std::vector<float> own(10), whole(all.size());
  comm.reduce_scatter_sum(all, own);
  comm.all_gather(own, whole);
  comm.send(comm.rank(), 2, some_bytes(77, 0));
  EXPECT_EQ(comm.receive(comm.rank(), 2, "its own message").bytes.size(), 77U);
  EXPECT_EQ(bytes_of(Operation::reduce_scatter) - scatter.bytes, 40 * peers);
  EXPECT_EQ(comm.traffic(Operation::reduce_scatter).calls - scatter.calls, 1U);
  EXPECT_EQ(bytes_of(Operation::all_gather) - gathered, 40 * peers);
  EXPECT_EQ(bytes_of(Operation::message) - message.bytes, 77U);
  EXPECT_EQ(comm.traffic(Operation::message).calls - message.calls, 1U);
  EXPECT_EQ(bytes_of(Operation::barrier), 0U);
}

struct ContractCheck {
  const char* name;
  std::function<void(Communicator&)> run;
};

inline std::vector<ContractCheck> contract() {
  return {
      {"barrier_waits_for_the_last", barrier_waits_for_the_last},
      {"broadcast_gives_all_the_bits_of_any_root", broadcast_gives_all_the_bits_of_any_root},
      {"large_broadcast_arrives_whole", large_broadcast_arrives_whole},
      {"all_reduce_sums_in_rank_order", all_reduce_sums_in_rank_order},
      {"reduce_scatter_and_all_gather_agree_with_one_sum", reduce_scatter_and_all_gather_agree_with_one_sum},
      {"reduce_scatter_of_several_blocks_is_exact", reduce_scatter_of_several_blocks_is_exact},
      {"scalars_reduce_over_all_ranks", scalars_reduce_over_all_ranks},
      {"gather_keeps_every_ranks_bytes", gather_keeps_every_ranks_bytes},
      {"many_messages_keep_their_order", many_messages_keep_their_order},
      {"any_rank_takes_all_ranks_in_turn", any_rank_takes_all_ranks_in_turn},
      {"a_message_of_several_pieces_arrives_whole", a_message_of_several_pieces_arrives_whole},
      {"splits_are_independent", splits_are_independent},
      {"traffic_counts_payload", traffic_counts_payload},
  };
}

}  // namespace biqa::testing
