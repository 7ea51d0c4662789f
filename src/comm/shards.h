// SPDX-License-Identifier: Apache-2.0
// How a flat vector is divided among ranks.
#pragma once

#include <glog/logging.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace biqa {

/// One shard per rank, in rank order. Every rank has the same description.
class Shards {
 public:
  /// `sizes`: elements of each rank's shard, which may differ and may be 0.
  explicit Shards(std::vector<std::int64_t> sizes) : sizes_(std::move(sizes)) {
    for (const std::int64_t size : sizes_) CHECK_GE(size, 0);
  }
  static Shards even(int ranks, std::int64_t size) {
    return Shards(std::vector<std::int64_t>(static_cast<std::size_t>(ranks), size));
  }

  int ranks() const { return static_cast<int>(sizes_.size()); }
  std::int64_t size(int rank) const { return sizes_.at(static_cast<std::size_t>(rank)); }
  /// Elements before the rank's shard.
  std::int64_t begin(int rank) const {
    CHECK(rank >= 0 && rank < ranks()) << rank << " of " << ranks();
    return std::accumulate(sizes_.begin(), sizes_.begin() + rank, std::int64_t{0});
  }
  std::int64_t total() const { return std::accumulate(sizes_.begin(), sizes_.end(), std::int64_t{0}); }
  std::int64_t largest() const {
    return sizes_.empty() ? 0 : *std::max_element(sizes_.begin(), sizes_.end());
  }
  bool are_even() const { return total() == largest() * ranks(); }

  /// CHECKs that `whole` and this rank's `shard` are dense [1, n] f32 of these sizes.
  void check(int rank, ConstView whole, ConstView shard) const {
    CHECK(whole.type() == DType::f32 && shard.type() == DType::f32);
    CHECK(whole.dense() && shard.dense());
    CHECK_EQ(whole.size(), total());
    CHECK_EQ(shard.size(), size(rank)) << "rank " << rank;
  }

 private:
  std::vector<std::int64_t> sizes_;
};

}  // namespace biqa
