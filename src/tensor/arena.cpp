// SPDX-License-Identifier: Apache-2.0
#include "tensor/arena.h"

#include <algorithm>
#include <cstddef>

namespace biqa {

std::size_t Arena::free_from(std::size_t first) {
  std::size_t bytes = 0;
  while (blocks_.size() > first) {
    bytes += blocks_.back().bytes();
    blocks_.pop_back();
  }
  return bytes;
}

View Arena::take(DType type, std::int64_t rows, std::int64_t columns) {
  const std::size_t alignment =
      memory_->kind() == Memory::device ? 256 : 64;  // cuBLASLt's fastest kernels want 256
  const std::size_t wanted = static_cast<std::size_t>(rows * columns) * size_of(type);
  const std::size_t bytes = std::max((wanted + alignment - 1) / alignment, std::size_t{1}) * alignment;
  std::size_t merged = 0;
  while (block_ < blocks_.size() && offset_ + bytes > blocks_[block_].bytes()) {
    // Nothing is taken from this block and the later ones, and this one is too small. One block takes the place of all, so
    // that layers of other sizes leave no gaps. A device may still use the memory for earlier work, so its blocks stay.
    if (offset_ == 0 && memory_->kind() == Memory::host) {
      merged = free_from(block_);
      break;
    }
    ++block_;
    offset_ = 0;
  }
  if (block_ == blocks_.size()) {
    const auto size = static_cast<std::int64_t>(std::max(bytes, merged));
    blocks_.push_back(memory_->allocate(DType::u8, 1, size, label_));
    offset_ = 0;
  }
  const View block = blocks_[block_].view();
  std::byte* data = static_cast<std::byte*>(block.address()) + offset_;
  offset_ += bytes;
  return {data, type, rows, columns, columns, block.memory()};
}

}  // namespace biqa
