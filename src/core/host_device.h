// SPDX-License-Identifier: Apache-2.0
// Marks inline functions that CUDA kernels call too. nvcc compiles them for the host and for the device; for other
// compilers the mark is empty. Such a function may not call functions of the standard library that are not marked.
#pragma once

#ifdef __CUDACC__
#define BIQA_HOST_DEVICE __host__ __device__
#else
#define BIQA_HOST_DEVICE
#endif
