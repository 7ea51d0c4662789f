// SPDX-License-Identifier: Apache-2.0
// Page-locked host memory for copies between host and device that do not block the host.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "tensor/cuda/runtime.h"

namespace biqa::cuda {

/// A point in a stream. Until record() is called, it counts as reached.
class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  /// Moves the event behind the work that `stream` has received so far.
  void record(const Stream& stream);
  /// Whether the device has reached the event. Throws the Error of failed work.
  bool reached() const;
  /// Waits until the device has reached the event. Throws the Error of failed work.
  void wait() const;

 private:
  cudaEvent_t handle_ = nullptr;
};

/// Page-locked memory, and the event after which the device no longer uses it.
class PinnedBuffer {
 public:
  explicit PinnedBuffer(std::size_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  Event last_use;

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// Buffers that are used again. To allocate page-locked memory is slow and may wait for the device.
class PinnedPool {
 public:
  /// A buffer of at least `bytes` that neither the host nor the device uses any more. The host uses a buffer as long as it
  /// holds the pointer. If no buffer is free, take() allocates one. If the pool is already large, it waits until the
  /// device has finished with a buffer instead.
  std::shared_ptr<PinnedBuffer> take(std::size_t bytes);

 private:
  std::vector<std::shared_ptr<PinnedBuffer>> buffers_;
  std::size_t bytes_ = 0;  // of all buffers
};

}  // namespace biqa::cuda
