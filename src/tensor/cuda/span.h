// SPDX-License-Identifier: Apache-2.0
// A borrowed array in device memory, passed to kernels. Examples are the indices, keys and factors that a plan has
// uploaded.
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
