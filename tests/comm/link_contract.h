// SPDX-License-Identifier: Apache-2.0
// What every TensorLink must do, whatever carries it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <functional>
#include <limits>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "comm/contract.h"
#include "comm/tensor_link.h"

namespace biqa::testing {

/// Runs `work` on threads as ranks. Returns each rank's error message, "" for none.
inline std::vector<std::string> on_ranks(int ranks, Seconds deadline,
                                         const std::function<void(Communicator&)>& work) {
  const auto world = make_thread_world(ranks, deadline);
  std::vector<std::string> errors(world.size());
  std::vector<std::thread> threads;
  threads.reserve(world.size());
  for (std::size_t rank = 0; rank < world.size(); ++rank) {
    threads.emplace_back([&, rank] {
      try {
        work(*world[rank]);
      } catch (const std::exception& error) {
        errors[rank] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

struct LinkCase {
  std::string name;
  std::vector<std::int64_t> shards;
};

/// Divisions of a vector among so many ranks.
inline std::vector<LinkCase> link_cases(int ranks) {
  const auto count = static_cast<std::size_t>(ranks);
  std::vector<LinkCase> cases;
  for (const std::int64_t size : {0, 1, 1000})
    cases.push_back({"even_" + std::to_string(size), std::vector<std::int64_t>(count, size)});
  std::vector<std::int64_t> rising(count);
  for (std::size_t rank = 0; rank < count; ++rank) rising[rank] = static_cast<std::int64_t>(257 * rank);
  cases.push_back({"rising_from_nothing", rising});
  std::vector<std::int64_t> mixed(count);
  for (std::size_t rank = 0; rank < count; ++rank) mixed[rank] = rank % 3 == 1 ? 0 : 5000 / (1 + 7 * rank);
  cases.push_back({"mixed", mixed});
  std::vector<std::int64_t> single(count, 0);
  single.back() = 300;
  cases.push_back({"only_the_last", single});
  return cases;
}

/// A tensor [1, n] with an element of 7 on each side, which must stay.
class Guarded {
 public:
  Guarded(DeviceMemory& memory, std::int64_t size) : memory_(memory), size_(size) {
    std::vector<float> start(static_cast<std::size_t>(size) + 2, std::numeric_limits<float>::quiet_NaN());
    start.front() = start.back() = 7;
    tensor_ = copied_to(memory, ConstView(start.data(), 1, size + 2), "test");
  }
  View view() { return tensor_.view().column_range(1, size_); }
  std::vector<float> values() {
    const Tensor host = copied_to_host(memory_, tensor_.view(), "test");
    const auto all = host.span<float>();
    EXPECT_EQ(all.front(), 7);
    EXPECT_EQ(all.back(), 7);
    return {all.begin() + 1, all.end() - 1};
  }

 private:
  DeviceMemory& memory_;
  std::int64_t size_;
  Tensor tensor_;
};

/// Every rank calls this. Tensors of every size get the bytes of each root in turn, and their neighbours stay.
inline void check_broadcast(Communicator& comm, DeviceMemory& memory, TensorLink& link) {
  struct Shape {
    DType type;
    std::int64_t rows, columns;
  };
  for (const Shape& shape : {Shape{DType::f32, 3, 1000}, Shape{DType::bf16, 7, 143}, Shape{DType::u8, 1, 5},
                             Shape{DType::f32, 0, 8}}) {
    const auto row_bytes = static_cast<std::size_t>(shape.columns) * size_of(shape.type);
    const auto bytes = row_bytes * static_cast<std::size_t>(shape.rows + 2);
    for (int root = 0; root < comm.size(); ++root) {
      const auto own = some_bytes(bytes, static_cast<std::uint64_t>(comm.rank()));
      auto expected = own;
      const auto sent = some_bytes(bytes, static_cast<std::uint64_t>(root));
      std::copy(sent.begin() + static_cast<std::ptrdiff_t>(row_bytes),
                sent.end() - static_cast<std::ptrdiff_t>(row_bytes),
                expected.begin() + static_cast<std::ptrdiff_t>(row_bytes));
      Tensor values = copied_to(
          memory, ConstView(own.data(), shape.type, shape.rows + 2, shape.columns, shape.columns), "test");
      link.broadcast(values.view().row_range(1, shape.rows), root);
      const Tensor result = copied_to_host(memory, values.view(), "test");
      EXPECT_EQ(std::memcmp(result.view().data(), expected.data(), bytes), 0)
          << name_of(shape.type) << " from " << root << " on rank " << comm.rank();
    }
  }
}

/// Every rank calls this. The sums have the bits of the communicator's, and the gathered shards are the ranks'.
inline void check_link(Communicator& comm, DeviceMemory& memory, TensorLink& link, const Shards& shards) {
  const auto total = static_cast<std::size_t>(shards.total());
  const auto begin = static_cast<std::size_t>(shards.begin(comm.rank()));
  const auto size = static_cast<std::size_t>(shards.size(comm.rank()));
  const std::vector<float> own = some_values<float>(total, comm.rank());
  const std::vector<float> sum = expected_sum<float>(total, comm.size());
  const std::vector<float> own_sum(sum.begin() + static_cast<std::ptrdiff_t>(begin),
                                   sum.begin() + static_cast<std::ptrdiff_t>(begin + size));
  if (shards.are_even()) {
    std::vector<float> communicators(size);
    comm.reduce_scatter_sum(own, communicators);
    EXPECT_TRUE(same_bits(communicators, own_sum));
  }
  for (int repeat = 0; repeat < 2; ++repeat) {
    const Tensor whole =
        copied_to(memory, ConstView(own.data(), 1, static_cast<std::int64_t>(total)), "test");
    Guarded shard(memory, static_cast<std::int64_t>(size));
    link.reduce_scatter_sum(whole.view(), shard.view());
    EXPECT_TRUE(same_bits(shard.values(), own_sum)) << "rank " << comm.rank() << ", repeat " << repeat;
    const Tensor after = copied_to_host(memory, whole.view(), "test");
    EXPECT_TRUE(same_bits(after.span<float>(), std::span<const float>(own)));

    Guarded gathered(memory, static_cast<std::int64_t>(total));
    link.all_gather(shard.view(), gathered.view());
    EXPECT_TRUE(same_bits(gathered.values(), sum)) << "rank " << comm.rank() << ", repeat " << repeat;
    EXPECT_TRUE(same_bits(shard.values(), own_sum));
  }
}

}  // namespace biqa::testing
