// SPDX-License-Identifier: Apache-2.0
// An array in device memory, as kernels take it: indices, keys, factors that a plan has uploaded. Borrows its elements.
#pragma once

#include <cstdint>

namespace biqa::cuda {

template <typename T>
struct DeviceSpan {
  const T* data = nullptr;
  std::int64_t size = 0;
  bool empty() const { return size == 0; }
};

}  // namespace biqa::cuda
