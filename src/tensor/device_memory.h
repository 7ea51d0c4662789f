// SPDX-License-Identifier: Apache-2.0
// The memory of one device. Tensors for a backend are allocated, filled and copied through it.
#pragma once

#include <cstdint>
#include <string>

#include "tensor/tensor.h"

namespace biqa {

/// Work runs in the order of the calls, after all earlier work of the backend that owns this memory. A call may return
/// before its work has finished; wait() waits for all work. A tensor may be destroyed as soon as the call that received
/// it has returned. Its bytes are freed only after the work that uses them. Only one thread at a time may use a
/// DeviceMemory.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  /// The kind of memory that allocate() returns.
  virtual Memory kind() const = 0;
  /// An uninitialised tensor. Throws Error if there is not enough memory.
  virtual Tensor allocate(DType type, std::int64_t rows, std::int64_t columns, std::string label) = 0;
  /// to = from. Both have the same type and shape; each may be in any memory. A source in host memory is read before
  /// this returns. A target in host memory must stay alive until wait() returns, and has its values only from then on.
  virtual void copy(ConstView from, View to) = 0;
  /// Sets every byte to 0.
  virtual void zero(View values) = 0;
  /// Waits until all earlier work has finished. Throws the Error of failed work. After that, every later call that
  /// waits throws the same Error.
  virtual void wait() = 0;
};

/// The host's memory. Every call finishes its work before it returns.
DeviceMemory& host_memory();

/// A new tensor in `memory` with the elements of `values`.
Tensor copied_to(DeviceMemory& memory, ConstView values, std::string label);
/// A copy of `values` in host memory. Waits for it.
Tensor copied_to_host(DeviceMemory& memory, ConstView values, std::string label);

}  // namespace biqa
