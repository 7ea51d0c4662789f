// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/kernels.h"

namespace biqa::cpu {

const Kernels& kernels() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    return avx512::table();
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2::table();
#endif
  return baseline::table();
}

}  // namespace biqa::cpu
