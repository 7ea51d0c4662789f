// SPDX-License-Identifier: Apache-2.0
// Ownership and shapes of memory; no arithmetic.
//   Buffer   owns aligned bytes under a label (printed on out-of-memory and in the memory report)
//   View     borrows mutable elements, ConstView const ones: a matrix [rows, columns] with a stride between rows
//   Tensor   owns a dense matrix
// All three know their kind of memory. The host cannot access elements of device memory (CHECK). The network needs only
// two dimensions. A vector is one row; comments name higher shapes.
#pragma once

#include <glog/logging.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/bf16.h"
#include "tensor/dtype.h"

namespace biqa {

template <typename T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>)
    return DType::f32;
  else if constexpr (std::is_same_v<T, Bf16>)
    return DType::bf16;
  else if constexpr (std::is_same_v<T, std::int32_t>)
    return DType::i32;
  else if constexpr (std::is_same_v<T, std::int64_t>)
    return DType::i64;
  else {
    static_assert(std::is_same_v<T, std::uint8_t>, "no such element type");
    return DType::u8;
  }
}

/// The kind of memory. The host may not touch device memory; only a backend's operations may.
enum class Memory : std::uint8_t { host, device };

namespace detail {
/// Ends the program because the host accessed device memory. The message names the label of the buffer that contains
/// `data`.
[[noreturn]] void refuse_host_access(const void* data);
}  // namespace detail

/// Bytes of one kind of memory, 64-byte aligned, move-only.
class Buffer {
 public:
  Buffer() = default;
  /// Allocates host memory. Throws Error if there is not enough.
  Buffer(std::size_t bytes, std::string label);
  ~Buffer();
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  /// Memory that `owner` keeps alive. `counted`: part of this process's memory report.
  static Buffer borrow(void* data, std::size_t bytes, std::string label, std::shared_ptr<const void> owner,
                       bool counted, Memory memory = Memory::host);

  /// For the host: ends the program if this is device memory.
  void* data() {
    refuse_device();
    return data_;
  }
  const void* data() const {
    refuse_device();
    return data_;
  }
  /// For backends: returns the address in either kind of memory.
  void* address() { return data_; }
  const void* address() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  const std::string& label() const { return label_; }
  Memory memory() const { return memory_; }

 private:
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(label_, other.label_);
    std::swap(owner_, other.owner_);
    std::swap(counted_, other.counted_);
    std::swap(memory_, other.memory_);
  }
  void refuse_device() const {
    if (memory_ == Memory::device) detail::refuse_host_access(data_);
  }
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  std::string label_;
  std::shared_ptr<const void> owner_;  // nullptr: the buffer owns the memory
  bool counted_ = true;
  Memory memory_ = Memory::host;
};

/// Bytes in use now and their maximum so far, per label, over all threads.
struct MemoryUse {
  std::size_t now = 0, peak = 0;
};
std::map<std::string, MemoryUse> memory_report();
/// The same for all Buffers together.
MemoryUse memory_total();

namespace detail {
template <typename Void>
class BasicView {
 public:
  template <typename T>
  using Element = std::conditional_t<std::is_const_v<Void>, const T, T>;

  BasicView() = default;
  BasicView(Void* data, DType type, std::int64_t rows, std::int64_t columns, std::int64_t stride,
            Memory memory = Memory::host)
      : data_(data), type_(type), memory_(memory), rows_(rows), columns_(columns), stride_(stride) {
    DCHECK_GE(stride, columns);
  }
  template <typename T>
  requires(!std::is_same_v<std::remove_const_t<T>, void>)
      BasicView(T* data, std::int64_t rows, std::int64_t columns)
      : BasicView(data, dtype_of<std::remove_const_t<T>>(), rows, columns, columns) {}
  // A mutable view converts to a const one.
  template <typename Other>
  requires(std::is_const_v<Void> && !std::is_const_v<Other>)
      BasicView(const BasicView<Other>& other)  // NOLINT(google-explicit-constructor)
      : BasicView(other.address(), other.type(), other.rows(), other.columns(), other.stride(),
                  other.memory()) {}

  /// The first element, for the host: ends the program if it is in device memory.
  Void* data() const {
    refuse_device();
    return data_;
  }
  /// The first element, for backends: works for either kind of memory.
  Void* address() const { return data_; }
  /// The same; checks that the type is T.
  template <typename T>
  Element<T>* address() const {
    DCHECK(dtype_of<std::remove_const_t<T>>() == type_) << "is " << name_of(type_);
    return static_cast<Element<T>*>(data_);
  }
  DType type() const { return type_; }
  Memory memory() const { return memory_; }
  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return columns_; }
  /// Elements from the start of a row to the start of the next.
  std::int64_t stride() const { return stride_; }
  std::int64_t size() const { return rows_ * columns_; }
  bool empty() const { return size() == 0; }
  bool dense() const { return stride_ == columns_ || rows_ <= 1; }

  /// The first element of a row. Checks that its type is T and that it is not in device memory.
  template <typename T>
  Element<T>* row(std::int64_t index) const {
    refuse_device();
    DCHECK(dtype_of<std::remove_const_t<T>>() == type_) << "is " << name_of(type_);
    return static_cast<Element<T>*>(data_) + index * stride_;
  }
  template <typename T>
  std::span<Element<T>> span() const {
    refuse_device();
    CHECK(dense());
    CHECK(dtype_of<std::remove_const_t<T>>() == type_) << "is " << name_of(type_);
    return {static_cast<Element<T>*>(data_), static_cast<std::size_t>(size())};
  }
  BasicView row_range(std::int64_t first, std::int64_t count) const {
    CHECK(first >= 0 && count >= 0 && first + count <= rows_) << first << "+" << count << " of " << rows_;
    return {advance(first * stride_), type_, count, columns_, stride_, memory_};
  }
  BasicView column_range(std::int64_t first, std::int64_t count) const {
    CHECK(first >= 0 && count >= 0 && first + count <= columns_)
        << first << "+" << count << " of " << columns_;
    return {advance(first), type_, rows_, count, stride_, memory_};
  }

 private:
  void refuse_device() const {
    if (memory_ == Memory::device) refuse_host_access(data_);
  }
  Void* advance(std::int64_t elements) const {
    using Byte = std::conditional_t<std::is_const_v<Void>, const std::byte, std::byte>;
    return static_cast<Byte*>(data_) + elements * static_cast<std::int64_t>(size_of(type_));
  }
  Void* data_ = nullptr;
  DType type_ = DType::f32;
  Memory memory_ = Memory::host;
  std::int64_t rows_ = 0, columns_ = 0, stride_ = 0;
};
}  // namespace detail

using View = detail::BasicView<void>;
using ConstView = detail::BasicView<const void>;

/// Owns a dense matrix; move-only, copies by clone(). Elements start uninitialised.
class Tensor {
 public:
  Tensor() = default;
  Tensor(DType type, std::int64_t rows, std::int64_t columns, std::string label)
      : buffer_(static_cast<std::size_t>(rows * columns) * size_of(type), std::move(label)),
        type_(type),
        rows_(rows),
        columns_(columns) {}
  /// A tensor in existing memory, which has exactly the bytes that the shape needs.
  Tensor(DType type, std::int64_t rows, std::int64_t columns, Buffer buffer)
      : buffer_(std::move(buffer)), type_(type), rows_(rows), columns_(columns) {
    CHECK_EQ(buffer_.bytes(), static_cast<std::size_t>(rows * columns) * size_of(type));
  }

  View view() { return {buffer_.address(), type_, rows_, columns_, columns_, memory()}; }
  ConstView view() const { return {buffer_.address(), type_, rows_, columns_, columns_, memory()}; }
  ConstView const_view() const { return view(); }
  template <typename T>
  T* row(std::int64_t index) {
    return view().row<T>(index);
  }
  template <typename T>
  const T* row(std::int64_t index) const {
    return view().row<T>(index);
  }
  template <typename T>
  std::span<T> span() {
    return view().span<T>();
  }
  template <typename T>
  std::span<const T> span() const {
    return view().span<T>();
  }
  DType type() const { return type_; }
  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return columns_; }
  std::int64_t size() const { return rows_ * columns_; }
  std::size_t bytes() const { return buffer_.bytes(); }
  Memory memory() const { return buffer_.memory(); }
  const std::string& label() const { return buffer_.label(); }
  /// clone() and zero() are only for host memory (CHECK). DeviceMemory copies and zeroes any memory.
  Tensor clone() const;
  void zero();

 private:
  Buffer buffer_;
  DType type_ = DType::f32;
  std::int64_t rows_ = 0, columns_ = 0;
};

}  // namespace biqa
