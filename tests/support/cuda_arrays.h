// SPDX-License-Identifier: Apache-2.0
// Tables of a test in device memory, and outputs between guards. Works with the emulator and with a real device.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/op_cases.h"
#include "tensor/cuda/runtime.h"
#include "tensor/cuda/span.h"

namespace biqa::testing {

/// An array in device memory with the given elements.
template <typename T>
class DeviceArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  DeviceArray(const std::vector<T>& elements, const cuda::Stream& stream)
      : size_(static_cast<std::int64_t>(elements.size())) {
    if (elements.empty()) return;
    const auto bytes = static_cast<std::int64_t>(elements.size() * sizeof(T));
    Tensor host(DType::u8, 1, bytes, "test input");
    std::memcpy(host.view().data(), elements.data(), host.bytes());
    bytes_ = cuda::DeviceTensor(DType::u8, 1, bytes, "test input");
    cuda::copy_to_device(host.view(), bytes_.view(), stream);
    stream.synchronise();
  }
  cuda::DeviceSpan<T> span() const { return {data(), size_}; }
  T* data() const { return static_cast<T*>(bytes_.view().address()); }
  std::vector<T> on_host(const cuda::Stream& stream) const {
    std::vector<T> elements(static_cast<std::size_t>(size_));
    if (elements.empty()) return elements;
    Tensor host(DType::u8, 1, bytes_.view().columns(), "test output");
    cuda::copy_to_host(bytes_.view(), host.view(), stream);
    stream.synchronise();
    std::memcpy(elements.data(), host.view().data(), host.bytes());
    return elements;
  }

 private:
  std::int64_t size_;
  cuda::DeviceTensor bytes_;
};

/// A matrix in device memory between guards: rows are spaced, and what lies around them must not change.
class DeviceOutput {
 public:
  DeviceOutput(DType type, std::int64_t rows, std::int64_t columns, const cuda::Stream& stream)
      : guarded_(type, rows, columns),
        device_(type, guarded_.whole().rows(), guarded_.whole().columns(), "test output"),
        stream_(stream) {
    cuda::copy_to_device(guarded_.whole().view(), device_.view(), stream_);
    stream_.synchronise();
  }
  View view() { return guarded_.part_of(device_.view()); }
  /// A dense copy on the host. Fails the current test if anything around the output has changed.
  Tensor on_host() {
    cuda::copy_to_host(device_.view(), guarded_.whole().view(), stream_);
    stream_.synchronise();
    EXPECT_EQ(guarded_.damaged(), 0) << "elements written outside the output in device memory";
    const View result = guarded_.view();
    Tensor copy(result.type(), result.rows(), result.columns(), "test output");
    for (std::int64_t r = 0; r < result.rows(); ++r) {
      std::memcpy(copy.view().row_range(r, 1).data(), result.row_range(r, 1).data(),
                  static_cast<std::size_t>(result.columns()) * size_of(result.type()));
    }
    return copy;
  }

 private:
  GuardedOutput guarded_;
  cuda::DeviceTensor device_;
  const cuda::Stream& stream_;
};

}  // namespace biqa::testing
