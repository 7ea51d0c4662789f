// SPDX-License-Identifier: Apache-2.0
#include "tensor/tensor.h"

#include <malloc.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <limits>
#include <map>
#include <mutex>
#include <unordered_map>

#include "core/error.h"
#include "tensor/device_use.h"

namespace biqa {
namespace {

constexpr std::size_t kAlignment = 64;

struct Account {
  std::map<std::string, MemoryUse> by_label;
  MemoryUse total;
};
struct Ledger {
  std::mutex mutex;
  Account all, device;  // device memory is in both
  /// Bytes and label of device memory by address, for messages.
  std::map<const void*, std::pair<std::size_t, std::string>> device_addresses;
};

Ledger& ledger() {
  static auto* instance = new Ledger;  // never destroyed: buffers may outlive static destructors
  return *instance;
}

template <typename Part>
Part copy_of(const Account& account, Part Account::*part) {
  const std::lock_guard lock(ledger().mutex);
  return account.*part;
}

void account(const std::string& label, std::size_t bytes, bool take, Memory memory) {
  const auto add = [bytes, take](MemoryUse& use) {
    if (take)
      use.now += bytes;
    else
      use.now -= bytes;
    use.peak = std::max(use.peak, use.now);
  };
  Ledger& books = ledger();
  const std::lock_guard lock(books.mutex);
  for (Account* account : {&books.all, &books.device}) {
    if (account == &books.device && memory != Memory::device) continue;
    add(account->by_label[label]);
    add(account->total);
  }
}

/// Reuses large blocks. Every step frees and allocates the same buffers, and the system takes time to clear new pages.
/// A heap that keeps them wastes half its size in gaps (docs/measurements.md). So large blocks are mapped one by one
/// and kept when freed, as long as all blocks together are little more than the maximum in use.
class Blocks {
 public:
  static constexpr std::size_t kLeast = std::size_t{256} << 10;  // smaller buffers come from the heap

  /// nullptr if the system has no memory left.
  void* take(std::size_t bytes) {
    bytes = rounded(bytes);
    const std::lock_guard lock(mutex_);
    // A slightly larger block is also used.
    const auto found = kept_.lower_bound(bytes);
    if (found != kept_.end() && found->first <= bytes + bytes / 2) {
      bytes = found->first;
      void* block = found->second;
      kept_bytes_ -= bytes;
      kept_.erase(found);
      note_use(bytes);
      taken_[block] = bytes;
      return block;
    }
    std::size_t most = std::max(most_in_use_, in_use_ + bytes);
    most += most / 16;
    while (!kept_.empty() && kept_bytes_ + in_use_ + bytes > most) unmap(std::prev(kept_.end()));
    void* block = map(bytes);
    while (block == nullptr && !kept_.empty()) {
      unmap(std::prev(kept_.end()));
      block = map(bytes);
    }
    if (block == nullptr) return nullptr;
    note_use(bytes);
    taken_[block] = bytes;
    return block;
  }
  void give(void* block) {
    const std::lock_guard lock(mutex_);
    const auto entry = taken_.find(block);
    const std::size_t bytes = entry->second;
    taken_.erase(entry);
    in_use_ -= bytes;
    kept_bytes_ += bytes;
    kept_.emplace(bytes, block);
  }

 private:
  using Kept = std::multimap<std::size_t, void*>;
  static constexpr std::size_t kLargeBlock = std::size_t{4} << 20;

  /// Rounds up to one of eight sizes between powers of two, so that blocks can be reused.
  static std::size_t rounded(std::size_t bytes) {
    const std::size_t step = std::max(std::bit_floor(bytes) / 8, std::size_t{4096});
    return (bytes + step - 1) / step * step;
  }
  static void* map(std::size_t bytes) {
    void* block = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) return nullptr;
    // Large pages need fewer faults on first use, and products that read them need fewer address translations. A failure
    // only means ordinary pages.
    if (bytes >= kLargeBlock) ::madvise(block, bytes, MADV_HUGEPAGE);
    return block;
  }
  void note_use(std::size_t bytes) {
    in_use_ += bytes;
    most_in_use_ = std::max(most_in_use_, in_use_);
  }
  void unmap(Kept::iterator block) {
    ::munmap(block->second, block->first);
    kept_bytes_ -= block->first;
    kept_.erase(block);
  }

  std::mutex mutex_;
  Kept kept_;
  std::unordered_map<void*, std::size_t> taken_;
  std::size_t kept_bytes_ = 0, in_use_ = 0, most_in_use_ = 0;
};

/// Makes the heap keep the memory of freed smaller buffers.
[[maybe_unused]] const bool kHeapKeepsMemory = [] {
  constexpr int kNever = std::numeric_limits<int>::max();
  return mallopt(M_MMAP_MAX, 0) == 1 && mallopt(M_TRIM_THRESHOLD, kNever) == 1;
}();

Blocks& blocks() {
  static auto* instance = new Blocks;  // never destroyed: buffers may outlive static destructors
  return *instance;
}

bool has_own_block([[maybe_unused]] std::size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  return false;  // the sanitizer can watch only memory of the heap
#else
  return bytes >= Blocks::kLeast;
#endif
}

}  // namespace

Buffer::Buffer(std::size_t bytes, std::string label) : bytes_(bytes), label_(std::move(label)) {
  if (bytes == 0) return;
  data_ = has_own_block(bytes)
              ? blocks().take(bytes)
              : std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  if (data_ == nullptr) {
    fail(
        "cannot allocate {} bytes for {}: out of memory; lower micro_batch_tokens, kv_memory or "
        "images_per_step",
        bytes, label_);
  }
  account(label_, bytes, true, memory_);
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (counted_) account(label_, bytes_, false, memory_);
  if (memory_ == Memory::device) {
    const std::lock_guard lock(ledger().mutex);
    ledger().device_addresses.erase(data_);
  }
  if (owner_ != nullptr) return;
  if (has_own_block(bytes_))
    blocks().give(data_);
  else
    std::free(data_);
}

Buffer Buffer::borrow(void* data, std::size_t bytes, std::string label, std::shared_ptr<const void> owner,
                      bool counted, Memory memory) {
  CHECK(data == nullptr || owner != nullptr);
  Buffer buffer;
  buffer.data_ = data;
  buffer.bytes_ = bytes;
  buffer.label_ = std::move(label);
  buffer.owner_ = std::move(owner);
  buffer.counted_ = counted;
  buffer.memory_ = memory;
  if (data != nullptr && counted) account(buffer.label_, bytes, true, memory);
  if (data != nullptr && memory == Memory::device) {
    const std::lock_guard lock(ledger().mutex);
    ledger().device_addresses[data] = {bytes, buffer.label_};
  }
  return buffer;
}

void detail::refuse_host_access(const void* data) {
  std::string label = "an unknown buffer";
  {
    const std::lock_guard lock(ledger().mutex);
    const auto& device = ledger().device_addresses;
    auto after = device.upper_bound(data);
    if (after != device.begin()) {
      const auto& [start, block] = *std::prev(after);
      if (static_cast<const std::byte*>(data) < static_cast<const std::byte*>(start) + block.first)
        label = block.second;
    }
  }
  LOG(FATAL) << "the host touched device memory: " << label
             << "; copy it through DeviceMemory (backends take its address())";
  std::abort();
}

std::map<std::string, MemoryUse> memory_report() {
  return copy_of(ledger().all, &Account::by_label);
}
MemoryUse memory_total() {
  return copy_of(ledger().all, &Account::total);
}
std::map<std::string, MemoryUse> device_memory_report() {
  return copy_of(ledger().device, &Account::by_label);
}
MemoryUse device_memory_total() {
  return copy_of(ledger().device, &Account::total);
}

void restart_memory_peaks() {
  Ledger& books = ledger();
  const std::lock_guard lock(books.mutex);
  const auto restart = [](MemoryUse& use) { use.peak = use.now; };
  for (Account* account : {&books.all, &books.device}) {
    restart(account->total);
    for (auto& [label, use] : account->by_label) restart(use);
  }
}

Tensor Tensor::clone() const {
  CHECK(memory() != Memory::device) << label();
  Tensor copy(type_, rows_, columns_, buffer_.label());
  if (bytes() != 0) std::memcpy(copy.buffer_.data(), buffer_.data(), bytes());
  return copy;
}

void Tensor::zero() {
  CHECK(memory() != Memory::device) << label();
  if (bytes() != 0) std::memset(buffer_.data(), 0, bytes());
}

}  // namespace biqa
