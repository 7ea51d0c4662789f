// SPDX-License-Identifier: Apache-2.0
#define BIQA_KERNEL_NAMESPACE baseline
#include "ops/cpu/kernels_impl.h"
