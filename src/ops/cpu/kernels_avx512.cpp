// SPDX-License-Identifier: Apache-2.0
#define BIQA_KERNEL_NAMESPACE avx512
#include "ops/cpu/kernels_impl.h"
