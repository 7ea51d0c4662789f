// SPDX-License-Identifier: Apache-2.0
#include "cuda_emulation/access.h"

#ifdef BIQA_EMULATOR_HOOKS

#include <cuda_runtime.h>
#include <fmt/core.h>
#include <glog/logging.h>
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "cuda_emulation/access_hooks.h"
#include "cuda_emulation/device_memory.h"
#include "cuda_emulation/emulator.h"
#include "cuda_emulation/fault.h"

namespace biqa::emulation::access {
namespace {

constexpr int kWarp = 32;
constexpr std::size_t kCellBytes = 2;  // of memory, that share one Cell

/// What is known of two bytes. Masks have one bit per byte.
struct Cell {
  std::uint64_t written_at : 48, writer : 10, written : 2, atomic : 1, arriving : 1, initialised : 2;
  std::uint64_t read_at : 48, reader : 10, read : 2, by_warps : 1, by_lanes : 1, by_blocks : 1, unused : 1;
};
static_assert(sizeof(Cell) == 16);

/// Bytes of one allocation.
struct Range {
  const unsigned char* first = nullptr;
  const unsigned char* end = nullptr;
};

/// Which blocks arrived at a counter, and when.
struct Arrival {
  std::uint64_t at = 0, block_start = 0;
};

struct State {
  bool watching = false;
  const unsigned char* shared = nullptr;
  std::size_t shared_bytes = 0;
  const unsigned char* device = nullptr;  // the reserved addresses
  const unsigned char* stack = nullptr;
  std::size_t stack_bytes = 0;
  int thread = 0;
  std::uint64_t now = 0, launch_start = 0, block_start = 0, block_sync = 0;
  std::array<std::uint64_t, kWarp> warp_sync{};
  std::array<bool, kWarp> partial{};  // warps of which some lanes have synchronised without the others
  Range arguments;
  std::array<Range, 4> allocations{};  // the last ones that were used
  unsigned next_allocation = 0;
};
constinit thread_local State state;

/// The larger part of a host thread's state.
struct Tables {
  std::vector<Cell> shared = std::vector<Cell>(kMaxSharedBytes / kCellBytes);
  // known[warp][a][b]: accesses by lane b before this time come before what lane a does now.
  std::array<std::array<std::array<std::uint64_t, kWarp>, kWarp>, kWarp> known{};
  std::vector<std::pair<std::uint64_t, Size3>> blocks;  // their starts
  std::map<const void*, std::vector<Arrival>> arrivals;
  std::vector<const void*> last_at;  // counters at which the running block was the last one
  Size3 block{1, 1, 1};
};
Tables& tables() {
  static thread_local const auto tables = std::make_unique<Tables>();
  return *tables;
}

std::uint64_t tick() {
  static std::atomic<std::uint64_t> time{0};
  return state.now = ++time;
}

/// A cell for every two bytes of the reserved addresses; pages appear when they are used.
Cell* device_cells() {
  static Cell* const cells = [] {
    const std::size_t bytes = kReservedDeviceBytes / kCellBytes * sizeof(Cell);
    void* memory =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    PCHECK(memory != MAP_FAILED) << "cannot reserve addresses for the checks of accesses";
    return static_cast<Cell*>(memory);
  }();
  return cells;
}

Cell& device_cell(const void* address) {
  static const unsigned char* const base = device_base();
  return device_cells()[static_cast<std::size_t>(static_cast<const unsigned char*>(address) - base) /
                        kCellBytes];
}

struct Access {
  const unsigned char* address;
  std::size_t bytes;
  Kind kind;
};

std::string place_of(const void* address) {
  const auto* at = static_cast<const unsigned char*>(address);
  if (at >= state.shared && at < state.shared + kMaxSharedBytes)
    return fmt::format("shared memory + {}", at - state.shared);
  return describe(address);
}

[[noreturn]] void report(const Access& access, const std::string& what) {
  state.watching = false;
  fault(fmt::format("{} {} bytes at {}{}",
                    access.kind == Kind::read    ? "reads"
                    : access.kind == Kind::write ? "writes"
                                                 : "adds to",
                    access.bytes, place_of(access.address), what));
}

std::string thread_name(unsigned thread) {
  const Size3& block = tables().block;
  return fmt::format("thread ({},{},{})", thread % block[0], thread / block[0] % block[1],
                     thread / block[0] / block[1]);
}

/// The block that ran at this time of the launch.
std::vector<std::pair<std::uint64_t, Size3>>::const_iterator block_at(std::uint64_t time) {
  const auto& blocks = tables().blocks;
  return std::prev(std::upper_bound(blocks.begin(), blocks.end(), time,
                                    [](std::uint64_t t, const auto& block) { return t < block.first; }));
}

/// Whether the running block was the last at a counter at which the block of that time arrived later.
bool arrival_orders(std::uint64_t time) {
  const std::uint64_t start = block_at(time)->first;
  const auto orders = [&](const void* counter) {
    const auto& arrivals = tables().arrivals[counter];
    return std::any_of(arrivals.begin(), arrivals.end(), [&](const Arrival& arrival) {
      return arrival.block_start == start && arrival.at > time;
    });
  };
  return std::any_of(tables().last_at.begin(), tables().last_at.end(), orders);
}

/// Whether nothing orders what `other` did at this time before what the running thread does now.
bool unordered(std::uint64_t time, unsigned other) {
  if (time < state.launch_start) return false;
  if (time < state.block_start) return !arrival_orders(time);
  if (time < state.block_sync) return false;
  const auto own = static_cast<unsigned>(state.thread);
  if (other == own) return false;
  const unsigned warp = own / kWarp;
  if (other / kWarp != warp) return true;
  if (time < state.warp_sync[warp]) return false;
  return !state.partial[warp] || time >= tables().known[warp][own % kWarp][other % kWarp];
}

[[noreturn]] void report_race(const Access& access, std::uint64_t time, unsigned other, bool other_wrote) {
  const char* did = other_wrote ? "wrote" : "read";
  if (time < state.block_start) {
    const Size3 block = block_at(time)->second;
    report(access,
           fmt::format(", which block ({},{},{}) of this launch {} too, without count_arrival between",
                       block[0], block[1], block[2], did));
  }
  report(access, fmt::format(", which {} {} too, without a barrier between", thread_name(other), did));
}

/// Whether a barrier of the block, or the launch's begin, has come since this time.
bool is_past(std::uint64_t time) {
  return time < state.launch_start || (time >= state.block_start && time < state.block_sync);
}

/// 1 if another block of this launch has read the cell.
unsigned read_by_blocks(const Cell& cell) {
  return cell.read_at >= state.launch_start && (cell.by_blocks != 0 || cell.read_at < state.block_start) ? 1U
                                                                                                         : 0U;
}

/// The frequent case: nobody else has used the cell since the last barrier. False if it is another one.
bool check_quickly(Cell& cell, unsigned mask, Kind kind) {
  if (cell.arriving != 0 || !is_past(cell.written_at)) return false;
  if (kind == Kind::read) {
    if (cell.read_at >= state.block_sync || (cell.initialised & mask) != mask) return false;
    cell.by_warps = cell.by_lanes = 0;
    cell.by_blocks = read_by_blocks(cell);
    cell.read_at = state.now;
    cell.reader = static_cast<unsigned>(state.thread);
    cell.read = mask;
    return true;
  }
  const bool read = cell.read != 0 && (!is_past(cell.read_at) || read_by_blocks(cell) != 0);
  if (kind == Kind::atomic || read) return false;
  cell.written_at = state.now;
  cell.writer = static_cast<unsigned>(state.thread);
  cell.written = mask;
  cell.atomic = 0;
  cell.initialised |= mask;
  cell.read = 0;
  return true;
}

void check_cell(Cell& cell, unsigned mask, bool in_block, const Access& access) {
  // Shared memory starts anew with every block.
  if (in_block && cell.written_at < state.block_start) cell = Cell{};
  if (cell.arriving != 0) report(access, " before the copy_async to it has arrived");
  if (access.kind != Kind::write && (cell.initialised & mask) != mask)
    report(access, ", which nobody has written");
  const auto own = static_cast<unsigned>(state.thread);
  const bool both_atomic = access.kind == Kind::atomic && cell.atomic != 0;
  if ((cell.written & mask) != 0 && !both_atomic && unordered(cell.written_at, cell.writer))
    report_race(access, cell.written_at, cell.writer, true);
  if (access.kind == Kind::read) {
    cell.by_blocks = read_by_blocks(cell);
    const bool since_barrier = cell.read_at >= state.block_sync;
    const bool recent = since_barrier && (cell.read & mask) != 0 &&
                        unordered(cell.read_at, cell.reader == own ? own ^ 1U : cell.reader);
    const bool other_warp = cell.reader / kWarp != own / kWarp;
    const bool by_warps = since_barrier && (cell.by_warps != 0 || (recent && other_warp));
    const bool by_lanes = recent && (cell.by_lanes != 0 || cell.reader != own) && !other_warp;
    cell.by_warps = by_warps ? 1U : 0U;
    cell.by_lanes = by_lanes ? 1U : 0U;
    cell.read_at = state.now;
    cell.reader = own;
    cell.read = mask;
    return;
  }
  if ((cell.read & mask) != 0) {
    if (unordered(cell.read_at, cell.reader)) report_race(access, cell.read_at, cell.reader, false);
    if (read_by_blocks(cell) != 0 && tables().last_at.empty())
      report(access, ", which another block of this launch has read, without count_arrival between");
    // The last reader is this thread or before it, but others may have read since the barrier, too.
    if (cell.by_warps != 0 && cell.read_at >= state.block_sync && cell.read_at >= state.block_start)
      report(access, ", which threads of several warps have read, without a barrier between");
    const unsigned warp = own / kWarp;
    if (cell.by_lanes != 0 && cell.reader / kWarp == warp && !state.partial[warp] &&
        cell.read_at >= std::max({state.block_sync, state.block_start, state.warp_sync[warp]}))
      report(access, ", which several lanes of the warp have read, without a barrier between");
  }
  cell.written_at = state.now;
  cell.writer = own;
  cell.written = mask;
  cell.atomic = access.kind == Kind::atomic ? 1U : 0U;
  cell.initialised |= mask;
  cell.read = 0;
}

/// Calls f with each cell of the bytes and the mask of those that it holds.
template <typename F>
void for_cells(Cell* first, std::size_t offset, std::size_t bytes, F f) {
  const std::size_t end = offset + bytes;
  for (std::size_t at = offset / kCellBytes * kCellBytes; at < end; at += kCellBytes) {
    const unsigned mask = (at >= offset ? 1U : 0U) | (at + 1 < end ? 2U : 0U);
    f(first[at / kCellBytes], mask);
  }
}

/// Read-only memory of the program: constants.
bool is_constant(const unsigned char* address, std::size_t bytes) {
  static const std::vector<Range> ranges = [] {
    std::vector<Range> found;
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t /*size*/, void* result) {
          for (int i = 0; i < info->dlpi_phnum; ++i) {
            const auto& header = info->dlpi_phdr[i];
            const bool read_only =
                (header.p_type == PT_LOAD && (header.p_flags & PF_W) == 0) || header.p_type == PT_GNU_RELRO;
            if (!read_only) continue;
            const auto* first = reinterpret_cast<const unsigned char*>(
                info->dlpi_addr + header.p_vaddr);  // NOLINT(performance-no-int-to-ptr)
            static_cast<std::vector<Range>*>(result)->push_back({first, first + header.p_memsz});
          }
          return 0;
        },
        &found);
    return found;
  }();
  return std::any_of(ranges.begin(), ranges.end(), [&](const Range& range) {
    return address >= range.first && address + bytes <= range.end;
  });
}

bool within(const Access& access, const void* first, std::size_t bytes) {
  const auto* start = static_cast<const unsigned char*>(first);
  return access.address >= start && access.address + access.bytes <= start + bytes;
}

/// What a kernel may read besides: its arguments, its indices, constants.
bool is_readable(const Access& access) {
  for (const dim3* index : {&threadIdx, &blockIdx, &blockDim, &gridDim})
    if (within(access, index, sizeof *index)) return true;
  return within(access, state.arguments.first,
                static_cast<std::size_t>(state.arguments.end - state.arguments.first)) ||
         is_constant(access.address, access.bytes);
}

/// Faults unless the bytes lie in one live allocation.
void check_allocation(const Access& access) {
  for (const Range& range : state.allocations)
    if (access.address >= range.first && access.address + access.bytes <= range.end) return;
  Range range;
  if (!find_allocation(access.address, access.bytes, &range.first, &range.end))
    report(access, ", which is outside every allocation");
  state.allocations[state.next_allocation++ % state.allocations.size()] = range;
}

void check(const Access& access) {
  const auto shared_offset = static_cast<std::size_t>(access.address - state.shared);
  if (shared_offset < static_cast<std::size_t>(kMaxSharedBytes)) {
    if (shared_offset + access.bytes > state.shared_bytes)
      report(access, fmt::format(", beyond the launch's {} bytes", state.shared_bytes));
    for_cells(tables().shared.data(), shared_offset, access.bytes, [&](Cell& cell, unsigned mask) {
      // What an earlier block or launch left does not count, so the cell must be of this block.
      if (cell.written_at < state.block_start || !check_quickly(cell, mask, access.kind))
        check_cell(cell, mask, true, access);
    });
    return;
  }
  if (static_cast<std::size_t>(access.address - state.stack) < state.stack_bytes) return;
  if (static_cast<std::size_t>(access.address - state.device) < kReservedDeviceBytes) {
    check_allocation(access);
    const auto* even = access.address - reinterpret_cast<std::uintptr_t>(access.address) % kCellBytes;
    for_cells(&device_cell(even), static_cast<std::size_t>(access.address - even), access.bytes,
              [&](Cell& cell, unsigned mask) {
                if (!check_quickly(cell, mask, access.kind)) check_cell(cell, mask, false, access);
              });
    return;
  }
  if (access.kind == Kind::read && is_readable(access)) return;
  report(access, ", which is neither shared nor device memory nor the thread's own");
}

}  // namespace

void touch(const void* address, std::size_t bytes, Kind kind, std::size_t alignment) {
  if (!state.watching) return;
  const Access access{static_cast<const unsigned char*>(address), bytes, kind};
  if (reinterpret_cast<std::uintptr_t>(address) % alignment != 0)
    report(access, fmt::format(", which is not aligned to {} bytes", alignment));
  check(access);
}

void misaligned(const void* address, std::size_t alignment, const char* type) {
  if (!state.watching || reinterpret_cast<std::uintptr_t>(address) % alignment == 0) return;
  state.watching = false;
  fault(
      fmt::format("the address {} is not aligned to the {} bytes of {}", place_of(address), alignment, type));
}

void begin_launch(const Launch& launch, const unsigned char* shared) {
  state.shared = shared;
  state.device = device_base();
  state.shared_bytes = launch.shared_bytes;
  const auto* arguments = static_cast<const unsigned char*>(launch.arguments.get());
  state.arguments = {arguments, arguments + launch.argument_bytes};
  state.allocations = {};
  state.launch_start = tick();
  tables().blocks.clear();
  tables().arrivals.clear();
  tables().block = launch.block;
}

void end_launch() {
  state.watching = false;
}

void begin_block(Size3 index) {
  state.block_start = state.block_sync = tick();
  state.partial = {};
  tables().blocks.emplace_back(state.block_start, index);
  tables().last_at.clear();
  state.watching = true;
}

void enter(int thread, Stack stack) {
  state.thread = thread;
  state.stack = stack.data;
  state.stack_bytes = stack.bytes;
}

void block_synchronised() {
  state.block_sync = tick();
  state.partial = {};
}

void warp_synchronised(int warp, unsigned lanes, unsigned living) {
  const std::uint64_t now = tick();
  const auto w = static_cast<std::size_t>(warp);
  if (lanes == living) {
    state.warp_sync[w] = now;
    state.partial[w] = false;
    return;
  }
  auto& known = tables().known[w];
  if (!state.partial[w]) known = {};
  state.partial[w] = true;
  std::array<std::uint64_t, kWarp> joined{};
  const auto takes_part = [&](std::size_t lane) { return (lanes >> lane & 1U) != 0; };
  for (std::size_t lane = 0; lane < kWarp; ++lane) {
    if (!takes_part(lane)) continue;
    for (std::size_t other = 0; other < kWarp; ++other)
      joined[other] = std::max(joined[other], known[lane][other]);
  }
  for (std::size_t lane = 0; lane < kWarp; ++lane)
    if (takes_part(lane)) joined[lane] = now;
  for (std::size_t lane = 0; lane < kWarp; ++lane)
    if (takes_part(lane)) known[lane] = joined;
}

void arrived(const void* counter, bool last) {
  tables().arrivals[counter].push_back({tick(), state.block_start});
  if (last) tables().last_at.push_back(counter);
}

Pause::Pause() : before_(std::exchange(state.watching, false)) {}
Pause::~Pause() {
  state.watching = before_;
}

void reads(int thread, const void* address, std::size_t bytes) {
  const int before = std::exchange(state.thread, thread);
  check({static_cast<const unsigned char*>(address), bytes, Kind::read});
  state.thread = before;
}

void begins_copy(void* to) {
  constexpr std::size_t kCopyBytes = 16;
  const Access access{static_cast<const unsigned char*>(to), kCopyBytes, Kind::write};
  check(access);
  for_cells(tables().shared.data(), static_cast<std::size_t>(access.address - state.shared), kCopyBytes,
            [](Cell& cell, unsigned /*mask*/) { cell.arriving = 1; });
}

void lands_copy(void* to) {
  constexpr std::size_t kCopyBytes = 16;
  const auto* target = static_cast<const unsigned char*>(to);
  for_cells(tables().shared.data(), static_cast<std::size_t>(target - state.shared), kCopyBytes,
            [](Cell& cell, unsigned /*mask*/) {
              cell.arriving = 0;
              cell.written_at = state.now;
            });
}

void device_written(const void* address, std::size_t bytes) {
  const auto odd = reinterpret_cast<std::uintptr_t>(address) % kCellBytes;
  for_cells(&device_cell(address), odd, bytes, [](Cell& cell, unsigned mask) {
    const unsigned initialised = static_cast<unsigned>(cell.initialised) | mask;
    cell = Cell{};
    cell.initialised = initialised & 3U;
  });
}

void device_read(const void* address, std::size_t bytes) {
  const auto odd = reinterpret_cast<std::uintptr_t>(address) % kCellBytes;
  std::size_t at = 0;
  for_cells(&device_cell(address), odd, bytes, [&](const Cell& cell, unsigned mask) {
    if ((cell.initialised & mask) != mask) {
      fault(fmt::format("a library reads {}, which nobody has written",
                        describe(static_cast<const unsigned char*>(address) + at)));
    }
    at += kCellBytes;
  });
}

void device_copied(const void* to, const void* from, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i) {
    const auto* source = static_cast<const unsigned char*>(from) + i;
    const auto* target = static_cast<const unsigned char*>(to) + i;
    const unsigned bit =
        device_cell(source).initialised >> reinterpret_cast<std::uintptr_t>(source) % kCellBytes & 1U;
    const auto at = reinterpret_cast<std::uintptr_t>(target) % kCellBytes;
    Cell& cell = device_cell(target);
    const unsigned initialised = (static_cast<unsigned>(cell.initialised) & ~(1U << at)) | bit << at;
    cell = Cell{};
    cell.initialised = initialised & 3U;
  }
}

void device_freed(const void* address, std::size_t bytes) {
  // Whole pages of cells at least: allocations start at pages, and a page lies between them.
  PCHECK(madvise(&device_cell(address), (bytes + kCellBytes - 1) / kCellBytes * sizeof(Cell),
                 MADV_DONTNEED) == 0);
}

}  // namespace biqa::emulation::access

#endif
