// SPDX-License-Identifier: Apache-2.0
// Operations of a warp or a block for which CUDA has no function. They are tensor-core products, loads of their
// operands, asynchronous copies to shared memory, and a function that finds the last of several blocks. This is the
// only file with PTX. Under g++, the tests' emulator replaces these functions and computes each lane in turn. "Warp:"
// means that all 32 lanes must call the function together.
//
// Fragments are those of PTX's mma.m16n8k16. With g = lane / 4 and c = 2 · (lane % 4), a lane holds
//   a[0]: row g, columns c and c + 1         a[1]: row g + 8, columns c and c + 1
//   a[2]: row g, columns c + 8 and c + 9     a[3]: row g + 8, columns c + 8 and c + 9
//   b_low: rows c and c + 1 of column g      b_high: rows c + 8 and c + 9 of column g
//   d[0], d[1]: row g, columns c and c + 1   d[2], d[3]: row g + 8, columns c and c + 1
// Two bf16 share a word; the one with the lower index is the low half.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#ifndef __CUDACC__
#include <warp_instructions.h>
#endif

namespace biqa::cuda {

#ifdef __CUDACC__

/// Warp: d [16, 8] f32 += a [16, 16] bf16 · b [16, 8] bf16.
__device__ __forceinline__ void mma(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b_low,
                                    std::uint32_t b_high) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, "
      "%2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
}

/// Warp: four 8 x 8 matrices of 16-bit elements from shared memory. Lane l gives the address of row l % 8 of matrix l / 8: 8
/// elements, aligned to 16 bytes. r[m] gets elements c and c + 1 of row g of matrix m.
__device__ __forceinline__ void ldmatrix(std::uint32_t (&r)[4], const void* row) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
/// Warp: as ldmatrix(), but every matrix is transposed. r[m] gets element g of rows c and c + 1 of matrix m.
__device__ __forceinline__ void ldmatrix_transposed(std::uint32_t (&r)[4], const void* row) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/// Starts to copy 16 bytes from device to shared memory. Both addresses are aligned to 16 bytes. If `there` is false,
/// zeros are written and `from` is not read.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool there) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(to));
  const int bytes = there ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes)
               : "memory");
}
/// Combines the copies that this thread has started since its last group into a new group.
__device__ __forceinline__ void copy_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits until all copy groups of this thread have finished, except the last `kOpen`. Other threads can read the data
/// after a barrier.
template <int kOpen>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kOpen) : "memory");
}

/// 2^x, accurate to 2 units in the last place. Results below the smallest normal number become 0.
__device__ __forceinline__ float exp2_fast(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
/// a · b + c, rounded once.
__device__ __forceinline__ float fmadd(float a, float b, float c) {
  return __fmaf_rn(a, b, c);
}
/// Both numbers rounded to the nearest bf16.
__device__ __forceinline__ std::uint32_t pack_bf16(float low, float high) {
  std::uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

/// All threads of a block call this when the block has written its part. `arrivals` blocks call it with the same
/// counter. The result is true in the last of them. That block may read what the other blocks wrote before their calls.
/// The counter must be 0 before the first call, and is 0 again after the last.
__device__ __forceinline__ bool count_arrival(unsigned* counter, unsigned arrivals) {
  __threadfence();
  __syncthreads();
  const bool first = threadIdx.x == 0 && threadIdx.y == 0 && threadIdx.z == 0;
  const bool last = __syncthreads_or(first && atomicInc(counter, arrivals - 1) == arrivals - 1 ? 1 : 0) != 0;
  if (last) __threadfence();
  return last;
}

#else

using emulation::copy_async;
using emulation::copy_commit;
using emulation::copy_wait;
using emulation::count_arrival;
using emulation::exp2_fast;
using emulation::fmadd;
using emulation::ldmatrix;
using emulation::ldmatrix_transposed;
using emulation::mma;
using emulation::pack_bf16;

#endif

}  // namespace biqa::cuda
