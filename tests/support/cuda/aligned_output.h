// SPDX-License-Identifier: Apache-2.0
// Outputs between guards, and tables, in device memory. Rows keep the alignment that kernels ask for.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "support/compare.h"
#include "tensor/cuda/memory.h"

namespace biqa::testing {

/// A matrix in device memory; what lies around it must not change.
class AlignedOutput {
 public:
  AlignedOutput(DType type, std::int64_t rows, std::int64_t columns, cuda::CudaMemory& memory)
      : memory_(memory), columns_(columns), before_(type, rows + 2, columns + 2 * kMargin, "test") {
    std::memset(before_.view().data(), 0x5a, before_.bytes());
    device_ = copied_to(memory, before_.view(), "test output");
  }
  View view() { return inside(device_.view()); }
  /// A dense copy. Fails the current test if anything around the output has changed, or in its first `untouched` rows.
  Tensor on_host(std::int64_t untouched = 0) {
    Tensor whole = copied_to_host(memory_, device_.view(), "test");
    Tensor result = copied_to(host_memory(), inside(whole.view()), "test");
    const View written = inside(whole.view());
    const View unwritten = inside(before_.view());
    const std::int64_t rows = written.rows() - untouched;
    host_memory().copy(unwritten.row_range(untouched, rows), written.row_range(untouched, rows));
    EXPECT_TRUE(same_bits(whole.view(), before_.view())) << "written outside the output";
    return result;
  }

 private:
  static constexpr std::int64_t kMargin = 8;
  View inside(View whole) const {
    return whole.row_range(1, whole.rows() - 2).column_range(kMargin, columns_);
  }
  cuda::CudaMemory& memory_;
  std::int64_t columns_;
  Tensor before_, device_;
};

/// A table in device memory.
template <typename T>
class DeviceTable {
 public:
  DeviceTable(const std::vector<T>& values, cuda::CudaMemory& memory) : place_(upload_.add(values)) {
    upload_.commit(memory, "test");
  }
  cuda::DeviceSpan<T> span() const { return upload_.at(place_); }

 private:
  cuda::Upload upload_;
  cuda::Upload::Place<T> place_;
};

}  // namespace biqa::testing
