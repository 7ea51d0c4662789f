// SPDX-License-Identifier: Apache-2.0
#include "cuda_emulation/device_memory.h"

#include <fmt/core.h>
#include <glog/logging.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <utility>

#include "cuda_emulation/access.h"
#include "cuda_emulation/emulator.h"
#include "cuda_emulation/fault.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) static_cast<void>(bytes)
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) static_cast<void>(bytes)
#endif

namespace biqa::emulation {
namespace {

constexpr std::size_t kReserved = kReservedDeviceBytes;
constexpr std::size_t kNotReused = std::size_t{4} << 20;  // freed bytes whose addresses are kept back
constexpr std::size_t kDefaultDeviceBytes = std::size_t{16} << 30;

struct Allocation {
  std::size_t bytes = 0;
  bool live = true;
  std::string label = "device memory";
  bool free_is_enqueued = false;
};

class Table {
 public:
  Table();
  void open();
  void close();
  unsigned char* allocate(std::size_t bytes);
  void announce_free(void* address);
  void free(void* address);
  void set_label(const void* address, const std::string& label);
  bool contains(const void* address) const {
    const auto* at = static_cast<const unsigned char*>(address);
    return at >= base_ && at < base_ + kReserved;
  }
  void require(const void* address, std::size_t bytes, const std::string& what);
  bool find_live(const void* address, std::size_t bytes, const unsigned char** first,
                 const unsigned char** end);
  const unsigned char* base() const { return base_; }
  std::string describe(const void* address);
  void report_leaks();

  unsigned char* allocate_pinned(std::size_t bytes);
  void free_pinned(void* address);
  bool is_pinned(const void* address);
  void count(const std::string& kind, int change);
  std::size_t in_use() const { return in_use_; }
  std::size_t limit = kDefaultDeviceBytes;

 private:
  /// The allocation with the highest start up to this address; end() if there is none.
  static std::map<const unsigned char*, Allocation>::iterator find(
      std::map<const unsigned char*, Allocation>& allocations, const void* address) {
    auto after = allocations.upper_bound(static_cast<const unsigned char*>(address));
    return after == allocations.begin() ? allocations.end() : std::prev(after);
  }
  std::size_t whole_pages(std::size_t bytes) const { return (bytes + page_ - 1) / page_ * page_; }
  void protect(int protection);

  std::recursive_mutex mutex_;
  std::size_t page_;
  unsigned char* base_ = nullptr;
  std::size_t used_ = 0;    // of the reserved addresses
  std::size_t in_use_ = 0;  // bytes of live allocations
  int open_ = 0;
  std::map<const unsigned char*, Allocation> device_, pinned_;
  std::deque<std::pair<std::size_t, unsigned char*>>
      freed_;  // the last ones: their addresses are not given again yet
  std::size_t freed_bytes_ = 0;
  std::multimap<std::size_t, unsigned char*>
      reusable_;                                    // by size: opening takes time for every address ever used
  std::map<unsigned char*, std::size_t> unfilled_;  // allocated while closed: filled when next opened
  std::map<std::string, int> resources_;
};

Table& table() {
  static Table& table = *new Table;  // never destroyed: objects with static storage may free later
  return table;
}

Table::Table() : page_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))) {
  void* memory = mmap(nullptr, kReserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  PCHECK(memory != MAP_FAILED) << "cannot reserve addresses for emulated device memory";
  base_ = static_cast<unsigned char*>(memory);
  std::atexit([] { table().report_leaks(); });
}

void Table::protect(int protection) {
  if (used_ > 0) PCHECK(mprotect(base_, used_, protection) == 0);
}

void Table::open() {
  const std::lock_guard lock(mutex_);
  if (open_++ == 0) protect(PROT_READ | PROT_WRITE);
  for (const auto& [address, bytes] : unfilled_) std::memset(address, 0xff, bytes);
  unfilled_.clear();
}

void Table::close() {
  const std::lock_guard lock(mutex_);
  if (--open_ == 0) protect(PROT_NONE);
}

unsigned char* Table::allocate(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  const std::size_t reserved = whole_pages(bytes) + page_;  // one page lies between allocations
  if (bytes > limit - std::min(limit, in_use_)) return nullptr;
  unsigned char* address = nullptr;
  const auto again = reusable_.find(reserved);
  if (again != reusable_.end()) {
    address = again->second;
    reusable_.erase(again);
  } else {
    if (reserved > kReserved - used_) return nullptr;
    address = base_ + used_;
    used_ += reserved;
  }
  in_use_ += bytes;
  device_[address] = Allocation{bytes};
  ASAN_UNPOISON_MEMORY_REGION(address, bytes);
  if (open_ > 0) {
    PCHECK(mprotect(address, reserved, PROT_READ | PROT_WRITE) == 0);
    std::memset(address, 0xff, bytes);
  } else {
    unfilled_[address] = bytes;
  }
  ASAN_POISON_MEMORY_REGION(address + bytes, reserved - bytes);
  return address;
}

void Table::announce_free(void* address) {
  const std::lock_guard lock(mutex_);
  const auto found = device_.find(static_cast<const unsigned char*>(address));
  if (found == device_.end() || !found->second.live || found->second.free_is_enqueued)
    fault(fmt::format(
        "cudaFreeAsync of {}, which is not the start of a live allocation or freed by earlier work",
        describe(address)));
  found->second.free_is_enqueued = true;
}

void Table::free(void* address) {
  const std::lock_guard lock(mutex_);
  const auto found = device_.find(static_cast<const unsigned char*>(address));
  if (found == device_.end() || !found->second.live)
    fault(fmt::format("cudaFree of {}, which is not the start of a live allocation", describe(address)));
  found->second.live = false;
  in_use_ -= found->second.bytes;
  unfilled_.erase(static_cast<unsigned char*>(address));
  // Gives the pages back; the addresses stay reserved. The mapping stays one, so that opening and closing stay quick.
  const std::size_t reserved = whole_pages(found->second.bytes) + page_;
  PCHECK(madvise(address, reserved, MADV_DONTNEED) == 0);
  freed_.emplace_back(reserved, static_cast<unsigned char*>(address));
  freed_bytes_ += reserved;
  while (freed_bytes_ > kNotReused) {
    freed_bytes_ -= freed_.front().first;
    reusable_.insert(freed_.front());
    freed_.pop_front();
  }
  ASAN_POISON_MEMORY_REGION(address, reserved);
  access::device_freed(address, found->second.bytes);
}

void Table::set_label(const void* address, const std::string& label) {
  const std::lock_guard lock(mutex_);
  const auto found = device_.find(static_cast<const unsigned char*>(address));
  if (found != device_.end()) found->second.label = label;
}

std::string Table::describe(const void* address) {
  const std::lock_guard lock(mutex_);
  if (address == nullptr) return "a null pointer";
  if (!contains(address)) return "host memory";
  const auto found = find(device_, address);
  if (found == device_.end()) return "no allocation of device memory";
  const auto& [start, allocation] = *found;
  return fmt::format("{}{} + {} (of {} bytes)", allocation.live ? "" : "freed ", allocation.label,
                     static_cast<const unsigned char*>(address) - start, allocation.bytes);
}

bool Table::find_live(const void* address, std::size_t bytes, const unsigned char** first,
                      const unsigned char** end) {
  const std::lock_guard lock(mutex_);
  const auto found = contains(address) ? find(device_, address) : device_.end();
  if (found == device_.end() || !found->second.live) return false;
  const auto offset = static_cast<std::size_t>(static_cast<const unsigned char*>(address) - found->first);
  if (offset > found->second.bytes || bytes > found->second.bytes - offset) return false;
  *first = found->first;
  *end = found->first + found->second.bytes;
  return true;
}

void Table::require(const void* address, std::size_t bytes, const std::string& what) {
  const unsigned char* first = nullptr;
  const unsigned char* end = nullptr;
  if (find_live(address, bytes, &first, &end)) return;
  fault(fmt::format("{}: {} bytes at {} are not within an allocation of device memory", what, bytes,
                    describe(address)));
}

unsigned char* Table::allocate_pinned(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  void* address = nullptr;
  if (posix_memalign(&address, page_, std::max<std::size_t>(bytes, 1)) != 0) return nullptr;
  std::memset(address, 0xff, bytes);
  pinned_[static_cast<unsigned char*>(address)] = {bytes, true, "pinned host memory"};
  return static_cast<unsigned char*>(address);
}

void Table::free_pinned(void* address) {
  const std::lock_guard lock(mutex_);
  if (pinned_.erase(static_cast<const unsigned char*>(address)) == 0)
    fault(fmt::format("cudaFreeHost of {}, which cudaHostAlloc has not given", describe(address)));
  std::free(address);
}

bool Table::is_pinned(const void* address) {
  const std::lock_guard lock(mutex_);
  const auto found = find(pinned_, address);
  return found != pinned_.end() &&
         static_cast<const unsigned char*>(address) < found->first + found->second.bytes;
}

void Table::count(const std::string& kind, int change) {
  const std::lock_guard lock(mutex_);
  resources_[kind] += change;
}

/// At the end of the program.
void Table::report_leaks() {
  const std::lock_guard lock(mutex_);
  std::map<std::string, std::pair<int, std::size_t>> leaks;
  for (const auto* allocations : {&device_, &pinned_}) {
    for (const auto& [start, allocation] : *allocations) {
      // A stream still does its work after the program or its owner has let go of it.
      if (!allocation.live || allocation.free_is_enqueued) continue;
      auto& [count, bytes] = leaks[allocation.label];
      ++count;
      bytes += allocation.bytes;
    }
  }
  for (const auto& [kind, count] : resources_)
    if (count > 0) leaks[kind].first = count;
  if (leaks.empty()) return;
  std::fflush(stdout);
  for (const auto& [label, leak] : leaks)
    std::fprintf(stderr, "CUDA emulator: never freed: %s (%d, %zu bytes)\n", label.c_str(), leak.first,
                 leak.second);
  std::_Exit(EXIT_FAILURE);
}

}  // namespace

OpenDeviceMemory::OpenDeviceMemory() {
  table().open();
}
OpenDeviceMemory::~OpenDeviceMemory() {
  table().close();
}

void* allocate_device(std::size_t bytes) {
  return table().allocate(bytes);
}
void announce_free(void* address) {
  table().announce_free(address);
}
void free_device(void* address) {
  table().free(address);
}
void label_device(const void* address, const std::string& label) {
  table().set_label(address, label);
}
void* allocate_pinned(std::size_t bytes) {
  return table().allocate_pinned(bytes);
}
void free_pinned(void* address) {
  table().free_pinned(address);
}
bool is_pinned(const void* address) {
  return table().is_pinned(address);
}
bool is_device_address(const void* address) {
  return table().contains(address);
}
void require_device(const void* address, std::size_t bytes, const std::string& what) {
  table().require(address, bytes, what);
}
void require_host(const void* address, std::size_t bytes, const std::string& what) {
  const auto* last = static_cast<const unsigned char*>(address) + (bytes == 0 ? 0 : bytes - 1);
  if (table().contains(address) || table().contains(last))
    fault(
        fmt::format("{}: {} is not host memory", what, describe(table().contains(address) ? address : last)));
}
void library_reads(const void* address, std::size_t bytes) {
  require_device(address, bytes, "a library reads");
  access::device_read(address, bytes);
}
void library_writes(const void* address, std::size_t bytes) {
  require_device(address, bytes, "a library writes");
  access::device_written(address, bytes);
}
const unsigned char* device_base() {
  return table().base();
}
bool find_allocation(const void* address, std::size_t bytes, const unsigned char** first,
                     const unsigned char** end) {
  return table().find_live(address, bytes, first, end);
}
std::string describe(const void* address) {
  return table().describe(address);
}
void count_resource(const std::string& kind, int change) {
  table().count(kind, change);
}
std::size_t device_bytes() {
  return table().limit;
}
std::size_t device_bytes_in_use() {
  return table().in_use();
}
void set_memory_limit(std::size_t bytes) {
  table().limit = bytes;
}

}  // namespace biqa::emulation
