// SPDX-License-Identifier: Apache-2.0
#include "tensor/cuda/memory.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>

#include "core/error.h"

namespace biqa::cuda {
namespace {

std::size_t row_bytes(ConstView view) {
  return static_cast<std::size_t>(view.columns()) * size_of(view.type());
}
std::size_t pitch_bytes(ConstView view) {
  return static_cast<std::size_t>(view.stride()) * size_of(view.type());
}

/// Width in bytes and number of rows of a copy. `joined`: the rows are contiguous and are copied as one row.
std::pair<std::size_t, std::size_t> width_and_rows(ConstView view, bool joined) {
  const auto rows = static_cast<std::size_t>(view.rows());
  if (joined) return {row_bytes(view) * rows, 1};
  return {row_bytes(view), rows};
}

cudaMemcpyKind kind_of(Memory from, Memory to) {
  if (from == Memory::host) return to == Memory::host ? cudaMemcpyHostToHost : cudaMemcpyHostToDevice;
  return to == Memory::host ? cudaMemcpyDeviceToHost : cudaMemcpyDeviceToDevice;
}

}  // namespace

CudaMemory::CudaMemory(std::shared_ptr<const Stream> stream) : stream_(std::move(stream)) {
  // The pool keeps what is freed. Otherwise each wait would give it back to the driver, and the next pass would map it again.
  int device = 0;
  BIQA_CUDA_CHECK(cudaGetDevice(&device));
  cudaMemPool_t pool = nullptr;
  BIQA_CUDA_CHECK(cudaDeviceGetDefaultMemPool(&pool, device));
  std::uint64_t threshold = std::numeric_limits<std::uint64_t>::max();
  BIQA_CUDA_CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
}

Tensor CudaMemory::allocate(DType type, std::int64_t rows, std::int64_t columns, std::string label) {
  const std::size_t bytes = static_cast<std::size_t>(rows * columns) * size_of(type);
  if (bytes == 0)
    return {type, rows, columns, Buffer::borrow(nullptr, 0, std::move(label), nullptr, false, kind())};
  void* data = nullptr;
  const cudaError_t status = cudaMallocAsync(&data, bytes, stream_->get());
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // clears the status, which the next launch would report otherwise
    fail_to_allocate(bytes, label);
  }
  BIQA_CUDA_CHECK(status);
  if (observe_label != nullptr) observe_label(data, label);
  const std::shared_ptr<const void> owner(data, [stream = stream_, label](const void* address) {
    const cudaError_t freed = cudaFreeAsync(const_cast<void*>(address), stream->get());
    LOG_IF(WARNING, freed != cudaSuccess) << "freeing " << label << " failed: " << cudaGetErrorString(freed);
  });
  return {type, rows, columns, Buffer::borrow(data, bytes, std::move(label), owner, true, kind())};
}

void CudaMemory::copy(ConstView from, View to) {
  CHECK(from.type() == to.type()) << name_of(from.type()) << " into " << name_of(to.type());
  CHECK(from.rows() == to.rows() && from.columns() == to.columns())
      << from.rows() << "x" << from.columns() << " into " << to.rows() << "x" << to.columns();
  if (from.empty()) return;
  if (from.memory() == Memory::host && to.memory() != Memory::host)
    copy_from_host(from, to);
  else
    copy_directly(from, to);
}

void CudaMemory::copy_from_host(ConstView from, View to) {
  if (from.dense() && to.dense() && from.rows() > 1) {
    const std::int64_t size = from.size();
    copy_from_host({from.address(), from.type(), 1, size, size, from.memory()},
                   {to.address(), to.type(), 1, size, size, to.memory()});
    return;
  }
  // The device copies a chunk while the host fills the next one.
  constexpr std::size_t kChunkBytes = std::size_t{16} << 20U;
  const auto chunk = static_cast<std::int64_t>(kChunkBytes / size_of(from.type()));
  for (std::int64_t row = 0; row < from.rows(); ++row) {
    for (std::int64_t first = 0; first < from.columns(); first += chunk) {
      const std::int64_t columns = std::min(chunk, from.columns() - first);
      const auto bytes = static_cast<std::size_t>(columns) * size_of(from.type());
      const std::shared_ptr<PinnedBuffer> buffer = pinned_.take(bytes);
      std::memcpy(buffer->data(), from.row_range(row, 1).column_range(first, columns).address(), bytes);
      copy_directly({buffer->data(), from.type(), 1, columns, columns},
                    to.row_range(row, 1).column_range(first, columns));
      buffer->last_use.record(*stream_);
    }
  }
}

void CudaMemory::copy_directly(ConstView from, View to) {
  const bool joined = from.dense() && to.dense();
  const auto [width, rows] = width_and_rows(from, joined);
  const std::size_t from_pitch = joined ? width : pitch_bytes(from);
  const std::size_t to_pitch = joined ? width : pitch_bytes(to);
  BIQA_CUDA_CHECK(cudaMemcpy2DAsync(to.address(), to_pitch, from.address(), from_pitch, width, rows,
                                    kind_of(from.memory(), to.memory()), stream_->get()));
}

void CudaMemory::zero(View values) {
  if (values.empty()) return;
  CHECK(values.memory() == Memory::device);
  const auto [width, rows] = width_and_rows(values, values.dense());
  const std::size_t pitch = values.dense() ? width : pitch_bytes(values);
  BIQA_CUDA_CHECK(cudaMemset2DAsync(values.address(), pitch, 0, width, rows, stream_->get()));
}

template <typename F>
void CudaMemory::remember_failure(const F& waits) {
  if (!failure_.empty()) fail("{}", failure_);
  try {
    waits();
  } catch (const Error& error) {
    failure_ = error.what();
    throw;
  }
}

void CudaMemory::wait() {
  remember_failure([this] { stream_->synchronise(); });
}

void CudaMemory::wait(const Event& event) {
  remember_failure([&event] { event.wait(); });
}

std::size_t Upload::append(const void* values, std::size_t bytes) {
  constexpr std::size_t kAlignment = 16;
  const std::size_t offset = (staging_.size() + kAlignment - 1) / kAlignment * kAlignment;
  staging_.resize(offset + bytes);
  if (bytes > 0) std::memcpy(&staging_[offset], values, bytes);
  return offset;
}

void Upload::commit(CudaMemory& memory, const std::string& label) {
  const auto bytes = static_cast<std::int64_t>(staging_.size());
  device_ = memory.allocate(DType::u8, 1, bytes, label);
  memory.copy(ConstView(staging_.data(), DType::u8, 1, bytes, bytes), device_.view());
  staging_ = {};
}

const void* Upload::address(std::size_t offset) const {
  return static_cast<const std::byte*>(device_.view().address()) + offset;
}

}  // namespace biqa::cuda
