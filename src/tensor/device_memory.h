// SPDX-License-Identifier: Apache-2.0
// The memory of one device. Tensors for a backend are allocated, filled and copied through it.
#pragma once

#include <cstdint>
#include <string>

#include "tensor/tensor.h"

namespace biqa {

/// Work is done in the order of the calls, and after what the owner of this memory was asked for before. Calls may return
/// earlier; wait() returns when all is done. A tensor may be destroyed as soon as the call that it was given to has returned:
/// its bytes are given back after the work that uses them. One thread at a time.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  /// The kind of memory that allocate() returns.
  virtual Memory kind() const = 0;
  /// An uninitialised tensor. Throws Error if there is not enough memory.
  virtual Tensor allocate(DType type, std::int64_t rows, std::int64_t columns, std::string label) = 0;
  /// to = from; same type and shape, any two memories. A source in host memory is read before this returns. A target in host
  /// memory must live until wait() and holds the values only then.
  virtual void copy(ConstView from, View to) = 0;
  /// Sets every byte to 0.
  virtual void zero(View values) = 0;
  /// Everything asked for so far is done. Throws the Error of what failed; from then on every call that waits throws it again.
  virtual void wait() = 0;
};

/// The host's memory, where every call does its work at once.
DeviceMemory& host_memory();

/// A new tensor in `memory` with the elements of `values`.
Tensor copied_to(DeviceMemory& memory, ConstView values, std::string label);
/// A copy of `values` in host memory; waits.
Tensor copied_to_host(DeviceMemory& memory, ConstView values, std::string label);

}  // namespace biqa
