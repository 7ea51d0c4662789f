// SPDX-License-Identifier: Apache-2.0
#include "tensor/device_memory.h"

#include <cstring>
#include <utility>

namespace biqa {
namespace {

class HostMemory final : public DeviceMemory {
 public:
  Memory kind() const override { return Memory::host; }
  Tensor allocate(DType type, std::int64_t rows, std::int64_t columns, std::string label) override {
    return {type, rows, columns, std::move(label)};
  }
  void copy(ConstView from, View to) override {
    CHECK(from.type() == to.type() && from.rows() == to.rows() && from.columns() == to.columns());
    CHECK(from.memory() != Memory::device && to.memory() != Memory::device);
    for_rows(
        to,
        [&](std::int64_t row, std::int64_t rows, std::size_t bytes) {
          std::memcpy(to.row_range(row, rows).data(), from.row_range(row, rows).data(), bytes);
        },
        from.dense());
  }
  void zero(View values) override {
    CHECK(values.memory() != Memory::device);
    for_rows(values, [&](std::int64_t row, std::int64_t rows, std::size_t bytes) {
      std::memset(values.row_range(row, rows).data(), 0, bytes);
    });
  }
  void wait() override {}

 private:
  /// Calls body(first row, rows, bytes) once for dense rows, otherwise once per row.
  template <typename Body>
  static void for_rows(const View& view, const Body& body, bool other_dense = true) {
    const std::size_t row_bytes = static_cast<std::size_t>(view.columns()) * size_of(view.type());
    if (view.empty()) return;
    if (view.dense() && other_dense) {
      body(0, view.rows(), row_bytes * static_cast<std::size_t>(view.rows()));
      return;
    }
    for (std::int64_t row = 0; row < view.rows(); ++row) body(row, 1, row_bytes);
  }
};

}  // namespace

DeviceMemory& host_memory() {
  static HostMemory memory;
  return memory;
}

Tensor copied_to(DeviceMemory& memory, ConstView values, std::string label) {
  Tensor copy = memory.allocate(values.type(), values.rows(), values.columns(), std::move(label));
  memory.copy(values, copy.view());
  return copy;
}

Tensor copied_to_host(DeviceMemory& memory, ConstView values, std::string label) {
  Tensor copy(values.type(), values.rows(), values.columns(), std::move(label));
  memory.copy(values, copy.view());
  memory.wait();
  return copy;
}

}  // namespace biqa
