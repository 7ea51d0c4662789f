// SPDX-License-Identifier: Apache-2.0
#include "tensor/cuda/pinned.h"

#include <algorithm>
#include <bit>

#include "core/bytes_text.h"
#include "core/error.h"

namespace biqa::cuda {

Event::Event() {
  BIQA_CUDA_CHECK(cudaEventCreateWithFlags(&handle_, cudaEventDisableTiming));
}

Event::~Event() {
  const cudaError_t status = cudaEventDestroy(handle_);
  LOG_IF(WARNING, status != cudaSuccess) << "destroying a CUDA event failed: " << cudaGetErrorString(status);
}

void Event::record(const Stream& stream) {
  BIQA_CUDA_CHECK(cudaEventRecord(handle_, stream.get()));
}

bool Event::reached() const {
  const cudaError_t status = cudaEventQuery(handle_);
  if (status == cudaErrorNotReady) return false;
  BIQA_CUDA_CHECK(status);
  return true;
}

void Event::wait() const {
  BIQA_CUDA_CHECK(cudaEventSynchronize(handle_));
}

PinnedBuffer::PinnedBuffer(std::size_t bytes) : bytes_(bytes) {
  void* data = nullptr;
  const cudaError_t status = cudaHostAlloc(&data, bytes, cudaHostAllocDefault);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // clears the status, which the next launch would report otherwise
    fail("cannot lock {} of host memory for copies to the GPU; free memory on this machine",
         bytes_text(bytes));
  }
  BIQA_CUDA_CHECK(status);
  data_ = static_cast<std::byte*>(data);
}

PinnedBuffer::~PinnedBuffer() {
  const cudaError_t status = cudaFreeHost(data_);
  LOG_IF(WARNING, status != cudaSuccess)
      << "freeing page-locked memory failed: " << cudaGetErrorString(status);
}

std::shared_ptr<PinnedBuffer> PinnedPool::take(std::size_t bytes) {
  const auto fits = [bytes](const auto& buffer) {
    return buffer.use_count() == 1 && buffer->bytes() >= bytes;
  };
  const auto is_free = [&fits](const auto& buffer) { return fits(buffer) && buffer->last_use.reached(); };
  const auto free = std::find_if(buffers_.begin(), buffers_.end(), is_free);
  if (free != buffers_.end()) return *free;
  constexpr std::size_t kLargePool = std::size_t{64} << 20U;
  const auto busy = std::find_if(buffers_.begin(), buffers_.end(), fits);
  if (bytes_ + bytes > kLargePool && busy != buffers_.end()) {
    (*busy)->last_use.wait();
    return *busy;
  }
  constexpr std::size_t kSmallest = 65536;
  buffers_.push_back(std::make_shared<PinnedBuffer>(std::bit_ceil(std::max(bytes, kSmallest))));
  bytes_ += buffers_.back()->bytes();
  return buffers_.back();
}

}  // namespace biqa::cuda
