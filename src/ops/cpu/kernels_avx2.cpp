// SPDX-License-Identifier: Apache-2.0
#define BIQA_KERNEL_NAMESPACE avx2
#include "ops/cpu/kernels_impl.h"
