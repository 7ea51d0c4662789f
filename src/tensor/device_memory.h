// SPDX-License-Identifier: Apache-2.0
// The memory of one device: what a backend computes on is allocated, filled, copied and waited for through this.
#pragma once

#include <cstdint>
#include <string>

#include "tensor/tensor.h"

namespace biqa {

/// Work is done in the order of the calls, and after what the owner of this memory was asked for before. Calls may return
/// earlier; wait() returns when all is done. A tensor may be destroyed at any time: its bytes are given back behind the work
/// that uses them. One thread at a time.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  /// The kind of memory that allocate() gives.
  virtual Memory kind() const = 0;
  /// Uninitialised. Throws Error when there is none left.
  virtual Tensor allocate(DType type, std::int64_t rows, std::int64_t columns, std::string label) = 0;
  /// to = from; same type and shape, any two memories. A source in host memory is read before this returns; a target in host
  /// memory holds the values after wait() only.
  virtual void copy(ConstView from, View to) = 0;
  /// Sets every byte to 0.
  virtual void zero(View values) = 0;
  /// Everything asked for so far is done. Throws the Error of what failed since the last wait.
  virtual void wait() = 0;
};

/// The host's own memory, where everything is done at once.
DeviceMemory& host_memory();

/// A tensor of `memory` with the elements of `values`.
Tensor copied_to(DeviceMemory& memory, ConstView values, std::string label);
/// The elements of `values` in host memory; waits.
Tensor copied_to_host(DeviceMemory& memory, ConstView values, std::string label);

}  // namespace biqa
