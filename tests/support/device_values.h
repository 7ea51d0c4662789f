// SPDX-License-Identifier: Apache-2.0
// Vectors in device memory, for tests of kernels of their own.
#pragma once

#include <string>
#include <vector>

#include "tensor/cuda/runtime.h"

namespace biqa::testing {

/// A copy of the values in device memory.
template <typename T>
class DeviceValues {
 public:
  explicit DeviceValues(const std::vector<T>& values, const std::string& label = "test input")
      : buffer_(values.size() * sizeof(T), label) {
    const cuda::Stream stream;
    BIQA_CUDA_CHECK(cudaMemcpyAsync(buffer_.data(), values.data(), buffer_.bytes(), cudaMemcpyHostToDevice,
                                    stream.get()));
    stream.synchronise();
  }
  /// Not written yet.
  DeviceValues(std::size_t count, const std::string& label) : buffer_(count * sizeof(T), label) {}

  T* data() const { return static_cast<T*>(buffer_.data()); }
  /// What all streams together have made of them.
  std::vector<T> on_host() const {
    BIQA_CUDA_CHECK(cudaDeviceSynchronize());
    std::vector<T> values(buffer_.bytes() / sizeof(T));
    const cuda::Stream stream;
    BIQA_CUDA_CHECK(cudaMemcpyAsync(values.data(), buffer_.data(), buffer_.bytes(), cudaMemcpyDeviceToHost,
                                    stream.get()));
    stream.synchronise();
    return values;
  }

 private:
  cuda::DeviceBuffer buffer_;
};

}  // namespace biqa::testing
