// SPDX-License-Identifier: Apache-2.0
#include "tensor/arena.h"

#include <algorithm>
#include <cstddef>

namespace biqa {

View Arena::take(DType type, std::int64_t rows, std::int64_t columns) {
  const std::size_t alignment =
      memory_->kind() == Memory::device ? 256 : 64;  // cuBLASLt's fastest kernels want 256
  const std::size_t wanted = static_cast<std::size_t>(rows * columns) * size_of(type);
  const std::size_t bytes = std::max((wanted + alignment - 1) / alignment, std::size_t{1}) * alignment;
  while (block_ < blocks_.size() && offset_ + bytes > blocks_[block_].bytes()) {
    ++block_;
    offset_ = 0;
  }
  if (block_ == blocks_.size()) {
    blocks_.push_back(memory_->allocate(DType::u8, 1, static_cast<std::int64_t>(bytes), label_));
    offset_ = 0;
  }
  const View block = blocks_[block_].view();
  std::byte* data = static_cast<std::byte*>(block.address()) + offset_;
  offset_ += bytes;
  return {data, type, rows, columns, columns, block.memory()};
}

}  // namespace biqa
