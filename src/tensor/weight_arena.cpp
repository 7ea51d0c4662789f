// SPDX-License-Identifier: Apache-2.0
#include "tensor/weight_arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>
#include <utility>

#include "core/bytes_text.h"
#include "core/random.h"

// Missing in older headers.
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

namespace biqa {
namespace {

constexpr std::size_t kBlockAlignment = 64;
constexpr std::size_t kPartAlignment = 4096;
constexpr std::uint64_t kMagic = 0x3167697765616962ULL;
/// Memory is allocated in pieces of this size, so that a signal interrupts at most one piece.
constexpr std::size_t kClaimBytes = std::size_t{64} << 20;

/// Header at the start of the memory. One BlockRecord per block follows it.
struct Header {
  std::uint64_t magic, key, blocks, bytes;
};
struct BlockRecord {
  std::uint64_t name, bytes, offset, fingerprint;
};

std::size_t round_up(std::size_t value, std::size_t to) {
  return (value + to - 1) / to * to;
}

[[noreturn]] void no_memory(std::size_t bytes, int error) {
  fail(
      "cannot hold {} of weights for the ranks of this node: {}; use a smaller model or dtype bf16, "
      "or "
      "give the job more memory",
      bytes_text(bytes), std::strerror(error));
}

/// Allocates every page now, so that a lack of memory is an Error here and not a signal (SIGBUS) later.
void claim(std::byte* data, std::size_t bytes, int descriptor) {
  for (std::size_t first = 0; first < bytes; first += kClaimBytes) {
    const std::size_t count = std::min(kClaimBytes, bytes - first);
    while (madvise(data + first, count, MADV_POPULATE_WRITE) != 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      if (errno != EINVAL) no_memory(bytes, errno);
      // The kernel is older than 5.14.
      int status = 0;
      do {
        status = posix_fallocate(descriptor, static_cast<off_t>(first), static_cast<off_t>(count));
      } while (status == EINTR);
      if (status != 0) no_memory(bytes, status);
      break;
    }
  }
}

}  // namespace

class WeightArena::Mapping {
 public:
  Mapping(int descriptor, std::size_t bytes, int protection)
      : data_(mmap(nullptr, bytes, protection, MAP_SHARED, descriptor, 0)), bytes_(bytes) {
    if (data_ == MAP_FAILED) no_memory(bytes, errno);
    // Large pages cause fewer page faults and address look-ups. If the system refuses them, nothing else changes.
    madvise(data_, bytes_, MADV_HUGEPAGE);
  }
  ~Mapping() { munmap(data_, bytes_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::byte* data() const { return static_cast<std::byte*>(data_); }
  std::size_t bytes() const { return bytes_; }
  void make_read_only() { PCHECK(mprotect(data_, bytes_, PROT_READ) == 0); }

 private:
  void* data_;
  std::size_t bytes_;
};

WeightArena::~WeightArena() {
  if (descriptor_ >= 0) close(descriptor_);
}

Buffer WeightArena::take(const std::string& name, WeightPart part, std::size_t bytes,
                         std::uint64_t fingerprint) {
  CHECK_GT(bytes, 0U) << name;
  if (state_ == State::planning) {
    CHECK(index_.emplace(name, blocks_.size()).second) << "two blocks are called " << name;
    blocks_.push_back({name, part, bytes, 0, fingerprint});
    return Buffer::borrow(nullptr, bytes, "weights", nullptr, false);
  }
  const auto found = index_.find(name);
  CHECK(found != index_.end()) << name << " was not planned";
  const Block& block = blocks_[found->second];
  CHECK(block.part == part && block.bytes == bytes && block.fingerprint == fingerprint)
      << name << " was planned with another part, size or layout";
  return Buffer::borrow(mapping_->data() + block.offset, bytes, "weights", mapping_, created_);
}

std::uint64_t WeightArena::digest(WeightPart part) const {
  std::uint64_t state = 0;
  for (const Block& block : blocks_) {
    if (block.part != part) continue;
    for (const std::uint64_t value : {hash_text(block.name), std::uint64_t{block.bytes}, block.fingerprint})
      state = mix64(state ^ mix64(value));
  }
  return state;
}

std::size_t WeightArena::bytes() const {
  std::size_t sum = 0;
  for (const Block& block : blocks_) sum += block.bytes;
  return sum;
}

std::size_t WeightArena::place() {
  CHECK(state_ == State::planning);
  std::size_t offset = sizeof(Header) + blocks_.size() * sizeof(BlockRecord);
  for (const WeightPart part : {WeightPart::forward, WeightPart::backward}) {
    offset = round_up(offset, kPartAlignment);
    (part == WeightPart::forward ? first_forward_ : first_backward_) = offset;
    for (Block& block : blocks_) {
      if (block.part != part) continue;
      block.offset = offset;
      offset = round_up(offset + block.bytes, kBlockAlignment);
    }
  }
  end_ = offset;
  return round_up(offset, kPartAlignment);
}

void WeightArena::create() {
  const std::size_t total = place();
  descriptor_ = memfd_create("biqa weights", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (descriptor_ < 0) {
    throw CannotShare(
        fmt::format("cannot create shared memory: memfd_create fails with {}", std::strerror(errno)));
  }
  if (ftruncate(descriptor_, static_cast<off_t>(total)) != 0) no_memory(total, errno);
  mapping_ = std::make_shared<Mapping>(descriptor_, total, PROT_READ | PROT_WRITE);
  claim(mapping_->data(), total, descriptor_);
  created_ = true;
  std::random_device random;
  key_ = (std::uint64_t{random()} << 32) | random();
  const Header header{kMagic, key_, blocks_.size(), total};
  std::memcpy(mapping_->data(), &header, sizeof header);
  std::size_t at = sizeof header;
  for (const Block& block : blocks_) {
    const BlockRecord record{hash_text(block.name), block.bytes, block.offset, block.fingerprint};
    std::memcpy(mapping_->data() + at, &record, sizeof record);
    at += sizeof record;
  }
  state_ = State::filling;
}

std::span<std::byte> WeightArena::contents(WeightPart part) {
  CHECK(filling());
  const bool backward = part == WeightPart::backward;
  const std::size_t first = backward ? first_backward_ : first_forward_;
  const std::size_t end = backward ? end_ : first_backward_;
  return {mapping_->data() + first, end - first};
}

void WeightArena::seal() {
  CHECK(filling());
  mapping_->make_read_only();
  // Kernels before 5.1 have no seal against writing. Other processes open the memory read-only in any case.
  PCHECK(fcntl(descriptor_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
  fcntl(descriptor_, F_ADD_SEALS, F_SEAL_FUTURE_WRITE);
  state_ = State::filled;
}

ArenaHandle WeightArena::handle() const {
  CHECK(filled() && created_);
  return {getpid(), descriptor_, key_};
}

void WeightArena::attach(const ArenaHandle& handle) {
  place();
  const std::string path = fmt::format("/proc/{}/fd/{}", handle.process, handle.descriptor);
  const auto refuse = [&](const char* why) {
    throw CannotShare(fmt::format("cannot map the weights of process {}: {}", handle.process, why));
  };
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) refuse(std::strerror(errno));
  struct stat status {};
  const bool known = fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode) &&
                     status.st_size >= static_cast<off_t>(sizeof(Header));
  try {
    if (!known) refuse("its file descriptor leads to another file");
    mapping_ = std::make_shared<Mapping>(descriptor, static_cast<std::size_t>(status.st_size), PROT_READ);
    Header header{};
    std::memcpy(&header, mapping_->data(), sizeof header);
    if (header.magic != kMagic || header.key != handle.key)
      refuse("its file descriptor leads to another file");
    check_header(handle);
  } catch (...) {
    close(descriptor);
    mapping_.reset();
    throw;
  }
  close(descriptor);
  state_ = State::filled;
}

void WeightArena::check_header(const ArenaHandle& handle) const {
  Header header{};
  std::memcpy(&header, mapping_->data(), sizeof header);
  const auto refuse = [&](const std::string& what) {
    fail(
        "cannot use the weights of process {}: {}; start all ranks of a node from the same program, model "
        "and "
        "settings, with the same ONEDNN and DNNL variables",
        handle.process, what);
  };
  const auto records = static_cast<std::size_t>(header.blocks);
  CHECK_EQ(header.bytes, mapping_->bytes());
  CHECK_LE(records, (mapping_->bytes() - sizeof header) / sizeof(BlockRecord));
  for (std::size_t i = 0; i < std::min(records, blocks_.size()); ++i) {
    BlockRecord record{};
    std::memcpy(&record, mapping_->data() + sizeof header + i * sizeof record, sizeof record);
    const Block& block = blocks_[i];
    if (record.name != hash_text(block.name))
      refuse(fmt::format("another block is where {} must be", block.name));
    if (record.bytes != block.bytes) {
      refuse(fmt::format("{} has {} bytes there and {} here", block.name, record.bytes, block.bytes));
    }
    if (record.fingerprint != block.fingerprint)
      refuse(fmt::format("{} has another layout there", block.name));
    if (record.offset != block.offset) refuse(fmt::format("{} has another offset there", block.name));
  }
  if (records != blocks_.size())
    refuse(fmt::format("they have {} blocks there and {} here", records, blocks_.size()));
}

}  // namespace biqa
