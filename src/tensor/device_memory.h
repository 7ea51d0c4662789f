// SPDX-License-Identifier: Apache-2.0
// The memory of one device. Tensors for a backend are allocated, filled and copied through it.
#pragma once

#include <cstdint>
#include <string>

#include "tensor/tensor.h"

namespace biqa {

/// Work is done in the order of the calls, and after earlier calls to the backend that owns this memory. A call may
/// return before its work is done; wait() returns when all work is done. A tensor may be destroyed at any time; its
/// bytes are freed after the work that uses them. Only one thread at a time may use it.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  /// The kind of memory that allocate() returns.
  virtual Memory kind() const = 0;
  /// An uninitialised tensor. Throws Error if there is not enough memory.
  virtual Tensor allocate(DType type, std::int64_t rows, std::int64_t columns, std::string label) = 0;
  /// to = from. Type and shape must be equal; the memories may differ. A source in host memory has been read when this
  /// returns. A target in host memory has the values only after wait().
  virtual void copy(ConstView from, View to) = 0;
  /// Sets every byte to 0.
  virtual void zero(View values) = 0;
  /// Waits until all work is done. Throws the Error of work that has failed since the last wait.
  virtual void wait() = 0;
};

/// The host's memory, where every call does its work at once.
DeviceMemory& host_memory();

/// A new tensor in `memory` with the elements of `values`.
Tensor copied_to(DeviceMemory& memory, ConstView values, std::string label);
/// A copy of `values` in host memory; waits.
Tensor copied_to_host(DeviceMemory& memory, ConstView values, std::string label);

}  // namespace biqa
