// SPDX-License-Identifier: Apache-2.0
#include "tensor/arena.h"

#include <algorithm>
#include <cstddef>

namespace biqa {

View Arena::take(DType type, std::int64_t rows, std::int64_t columns) {
  constexpr std::size_t kAlignment = 64;
  const std::size_t wanted = static_cast<std::size_t>(rows * columns) * size_of(type);
  const std::size_t bytes = std::max((wanted + kAlignment - 1) / kAlignment, std::size_t{1}) * kAlignment;
  while (block_ < blocks_.size() && offset_ + bytes > blocks_[block_].bytes()) {
    ++block_;
    offset_ = 0;
  }
  if (block_ == blocks_.size()) {
    blocks_.emplace_back(bytes, label_);
    offset_ = 0;
  }
  std::byte* data = static_cast<std::byte*>(blocks_[block_].data()) + offset_;
  offset_ += bytes;
  return {data, type, rows, columns, columns};
}

}  // namespace biqa
