// SPDX-License-Identifier: Apache-2.0
// CUDA's functions of a single thread. Included by cuda_runtime.h.
#pragma once

inline unsigned __float_as_uint(float value) {
  return __builtin_bit_cast(unsigned, value);
}

/// Adds and returns what was there before.
inline unsigned atomicAdd(unsigned* address, unsigned value) {
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
