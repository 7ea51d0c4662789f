// SPDX-License-Identifier: Apache-2.0
#include "tensor/tensor.h"

#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>

#include "core/error.h"

namespace biqa {
namespace {

constexpr std::size_t kAlignment = 64;

struct Ledger {
  std::mutex mutex;
  std::map<std::string, MemoryUse> by_label;
  MemoryUse total;
};

Ledger& ledger() {
  static auto* instance = new Ledger;  // never destroyed: buffers may outlive static destructors
  return *instance;
}

void account(const std::string& label, std::size_t bytes, bool take) {
  Ledger& books = ledger();
  const std::lock_guard lock(books.mutex);
  for (MemoryUse* use : {&books.by_label[label], &books.total}) {
    if (take)
      use->now += bytes;
    else
      use->now -= bytes;
    use->peak = std::max(use->peak, use->now);
  }
}

}  // namespace

/// Steps free and claim the same large buffers again and again: the heap keeps them, so that the system need
/// not clear their pages each time.
[[maybe_unused]] const bool kHeapKeepsMemory = [] {
  constexpr int kNever = std::numeric_limits<int>::max();
  return mallopt(M_MMAP_MAX, 0) == 1 && mallopt(M_TRIM_THRESHOLD, kNever) == 1;
}();

Buffer::Buffer(std::size_t bytes, std::string label) : bytes_(bytes), label_(std::move(label)) {
  if (bytes == 0) return;
  const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  data_ = std::aligned_alloc(kAlignment, rounded);
  if (data_ == nullptr) {
    fail(
        "cannot allocate {} bytes for {}: out of memory; lower micro_batch_tokens, kv_memory or "
        "images_per_step",
        bytes, label_);
  }
  account(label_, bytes, true);
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (counted_) account(label_, bytes_, false);
  if (owner_ == nullptr) std::free(data_);
}

Buffer Buffer::borrow(void* data, std::size_t bytes, std::string label, std::shared_ptr<const void> owner,
                      bool counted) {
  CHECK(data == nullptr || owner != nullptr);
  Buffer buffer;
  buffer.data_ = data;
  buffer.bytes_ = bytes;
  buffer.label_ = std::move(label);
  buffer.owner_ = std::move(owner);
  buffer.counted_ = counted;
  if (data != nullptr && counted) account(buffer.label_, bytes, true);
  return buffer;
}

std::map<std::string, MemoryUse> memory_report() {
  Ledger& books = ledger();
  const std::lock_guard lock(books.mutex);
  return books.by_label;
}

MemoryUse memory_total() {
  Ledger& books = ledger();
  const std::lock_guard lock(books.mutex);
  return books.total;
}

Tensor Tensor::clone() const {
  Tensor copy(type_, rows_, columns_, buffer_.label());
  if (bytes() != 0) std::memcpy(copy.buffer_.data(), buffer_.data(), bytes());
  return copy;
}

void Tensor::zero() {
  if (bytes() != 0) std::memset(buffer_.data(), 0, bytes());
}

}  // namespace biqa
