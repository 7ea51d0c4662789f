// SPDX-License-Identifier: Apache-2.0
// Uses the tile registers of the processor. The instructions are inline assembly, because the intrinsics of g++ 12 do
// not tell the compiler that a tile load reads memory.
#if defined(__x86_64__)

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ops/cpu/tile_attention_impl.h"
#include "ops/cpu/tile_kernel_impl.h"
#include "ops/cpu/tile_lora_impl.h"
#include "ops/cpu/tile_set.h"

namespace biqa::cpu {
namespace {

struct AmxTiles {
  static void configure(const TileShapes& shapes) {
    struct alignas(64) Configuration {
      std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
      std::uint16_t row_bytes[16] = {};
      std::uint8_t rows[16] = {};
    } configuration;
    for (std::size_t tile = 0; tile < 8; ++tile) {
      configuration.rows[tile] = static_cast<std::uint8_t>(shapes.rows[tile]);
      configuration.row_bytes[tile] = static_cast<std::uint16_t>(shapes.bytes[tile]);
    }
    asm volatile("ldtilecfg %0" : : "m"(configuration));
  }
  static void release() { asm volatile("tilerelease"); }
  template <int kTile>
  [[gnu::always_inline]] static void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  template <int kTile>
  [[gnu::always_inline]] static void load(const void* from, std::int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  [[gnu::always_inline]] static void store(void* to, std::int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kSum, int kLeft, int kRight>
  [[gnu::always_inline]] static void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
  }
  [[gnu::always_inline]] static void prefetch(const void* from, std::int64_t bytes) {
    for (std::int64_t at = 0; at < bytes; at += 64)
      __builtin_prefetch(static_cast<const std::byte*>(from) + at);
  }
};

/// The registers' state is large: Linux saves it only for processes that ask.
bool asked_for_tiles() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool has_tiles() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned kBf16 = 1U << 22, kTile = 1U << 24;
  return (d & kBf16) != 0 && (d & kTile) != 0 && __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && asked_for_tiles();
}

}  // namespace

const TileSet* amx_tiles() {
  static const bool there = has_tiles();
  static const TileSet tiles{run_tile_part<AmxTiles>,
                             {tile_attention<AmxTiles>, tile_attention_backward<AmxTiles>},
                             split_outer<AmxTiles>};
  return there ? &tiles : nullptr;
}

}  // namespace biqa::cpu

#else

#include "ops/cpu/tile_set.h"

namespace biqa::cpu {
const TileSet* amx_tiles() {
  return nullptr;
}
}  // namespace biqa::cpu

#endif
