// SPDX-License-Identifier: Apache-2.0
// The memory of a CUDA device. All its work runs in the order of one stream.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tensor/cuda/pinned.h"
#include "tensor/cuda/runtime.h"
#include "tensor/cuda/span.h"
#include "tensor/device_memory.h"

namespace biqa::cuda {

/// Allocates from CUDA's stream-ordered pool, so freed bytes serve later work of the stream without waiting.
class CudaMemory final : public DeviceMemory {
 public:
  /// Its tensors keep the stream alive.
  explicit CudaMemory(std::shared_ptr<const Stream> stream);

  Memory kind() const override { return Memory::device; }
  Tensor allocate(DType type, std::int64_t rows, std::int64_t columns, std::string label) override;
  /// From the host, elements go through page-locked memory, so that the copy does not wait for earlier work.
  void copy(ConstView from, View to) override;
  void zero(View values) override;
  void wait() override;
  /// Waits only for the work before the event.
  void wait(const Event& event);
  const Stream& stream() const { return *stream_; }
  PinnedPool& pinned() { return pinned_; }

 private:
  void copy_directly(ConstView from, View to);
  void copy_from_host(ConstView from, View to);
  template <typename F>
  void remember_failure(const F& waits);

  std::shared_ptr<const Stream> stream_;
  PinnedPool pinned_;
  std::string failure_;  // message of the first wait() that failed
};

/// Host arrays that go to the device in one copy.
class Upload {
 public:
  /// The place of an added array. After commit(), at() returns the array for it.
  template <typename T>
  struct Place {
    std::size_t offset = 0;
    std::int64_t size = 0;
  };

  template <typename T>
  Place<T> add(const std::vector<T>& values) {
    return {append(values.data(), values.size() * sizeof(T)), static_cast<std::int64_t>(values.size())};
  }
  /// Allocates device memory under `label` and enqueues the copy. The host arrays may be destroyed before, because
  /// add() copies them.
  void commit(CudaMemory& memory, const std::string& label);
  template <typename T>
  DeviceSpan<T> at(const Place<T>& place) const {
    if (place.size == 0) return {};
    return {static_cast<const T*>(address(place.offset)), place.size};
  }

 private:
  std::size_t append(const void* values, std::size_t bytes);
  const void* address(std::size_t offset) const;

  std::vector<std::byte> staging_;
  Tensor device_;
};

}  // namespace biqa::cuda
