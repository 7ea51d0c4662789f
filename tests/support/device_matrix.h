// SPDX-License-Identifier: Apache-2.0
// A matrix for a CUDA kernel, in device memory of the emulator or a real device: dense, or inside a larger matrix so that its
// rows are spaced and start at addresses that no vector access allows.
#pragma once

#include <gtest/gtest.h>

#include <cstring>

#include "support/op_cases.h"
#include "tensor/cuda/runtime.h"

namespace biqa::testing {

enum class Layout { dense, spaced };

class DeviceMatrix {
 public:
  DeviceMatrix(ConstView host, Layout layout, const cuda::Stream& stream)
      : layout_(layout), stream_(stream), guarded_(host.type(), host.rows(), host.columns()) {
    copy_rows(host, guarded_.view());
    device_ = cuda::DeviceTensor(host.type(), source().rows(), source().columns(), "test");
    cuda::copy_to_device(source(), device_.view(), stream);
    stream.synchronise();
  }
  View view() const { return layout_ == Layout::spaced ? guarded_.part_of(device_.view()) : device_.view(); }
  /// Waits for the stream. Fails the test if something outside the matrix has changed.
  Tensor fetch() {
    cuda::copy_to_host(device_.view(), source(), stream_);
    stream_.synchronise();
    EXPECT_EQ(guarded_.damaged(), 0) << "elements written outside the matrix";
    Tensor result(guarded_.view().type(), guarded_.view().rows(), guarded_.view().columns(), "test");
    copy_rows(layout_ == Layout::spaced ? guarded_.view() : dense_.view(), result.view());
    return result;
  }

 private:
  static void copy_rows(ConstView from, View to) {
    const std::size_t bytes = static_cast<std::size_t>(to.columns()) * size_of(to.type());
    for (std::int64_t r = 0; bytes > 0 && r < to.rows(); ++r) {
      std::memcpy(to.row_range(r, 1).data(), from.row_range(r, 1).data(), bytes);
    }
  }
  /// What the device's memory is copied from and to.
  View source() {
    if (layout_ == Layout::spaced) return guarded_.whole().view();
    const View part = guarded_.view();
    if (dense_.bytes() == 0) {
      dense_ = Tensor(part.type(), part.rows(), part.columns(), "test");
      copy_rows(part, dense_.view());
    }
    return dense_.view();
  }

  Layout layout_;
  const cuda::Stream& stream_;
  GuardedOutput guarded_;
  Tensor dense_;
  cuda::DeviceTensor device_;
};

}  // namespace biqa::testing
