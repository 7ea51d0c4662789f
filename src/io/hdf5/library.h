// SPDX-License-Identifier: Apache-2.0
// Shared by writer and reader of HDF5 files: the library's lock, errors and identifiers, and the seal. Private to
// io/hdf5.
#pragma once

// Newer versions of the library keep the interface of 1.10.
#define H5_USE_110_API

#include <glog/logging.h>
#include <hdf5.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "io/files.h"

namespace biqa::hdf5 {

inline constexpr unsigned kDeflateLevel = 4;
// The format allows 4 GiB; smaller chunks limit the library's buffers.
inline constexpr std::uint64_t kMaxChunkBytes = std::uint64_t{256} << 20;
// Deflate compresses by a factor of at most 1032, so a dataset that claims a higher factor is damaged.
inline constexpr std::uint64_t kMaxExpansion = 1100;
// Attributes are in an object header, which has at most 64 KiB.
inline constexpr std::size_t kMaxFixedText = 32768;

// Locked during every use of the library, because it has global state.
class LibraryLock {
 public:
  LibraryLock() : lock_(mutex()) {
    // biqa reports failures itself, so the library must not print its own error stack. At exit the library would repeat
    // writes that failed on a full disk, and crash.
    H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  }

 private:
  static std::recursive_mutex& mutex() {
    static std::recursive_mutex instance;
    return instance;
  }
  std::lock_guard<std::recursive_mutex> lock_;
};

inline herr_t take_description(unsigned /*depth*/, const H5E_error2_t* error, void* text) {
  auto* result = static_cast<std::string*>(text);
  if (result->empty() && error->desc != nullptr) *result = error->desc;
  return 0;
}

// Why the last call failed: the innermost entry of the library's stack, in one line. After a failed read or write, this
// entry contains the system's message among many numbers ("… errno = 28, error message = 'No space left on device', buf
// = …"). Then only the system's message is returned.
inline std::string last_reason() {
  std::string reason;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_description, &reason);
  H5Eclear2(H5E_DEFAULT);
  constexpr std::string_view kSystem = "error message = '";
  if (const std::size_t found = reason.find(kSystem); found != std::string::npos) {
    const std::size_t begin = found + kSystem.size();
    reason = reason.substr(begin, reason.find('\'', begin) - begin);
  }
  std::replace_if(
      reason.begin(), reason.end(), [](unsigned char c) { return c < 0x20; }, ' ');
  return reason.empty() ? "HDF5 gave no reason" : reason;
}

// An identifier and the function that closes it.
class Handle {
 public:
  Handle() = default;
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  bool valid() const { return id_ >= 0; }
  hid_t get() const { return id_; }
  hid_t release() { return std::exchange(id_, -1); }

 private:
  hid_t id_ = -1;
  herr_t (*close_)(hid_t) = nullptr;
};

inline Handle own(hid_t id, herr_t (*close)(hid_t)) {
  // Property lists, spaces and types fail only after programming errors or without memory.
  CHECK_GE(id, 0) << last_reason();
  return {id, close};
}

// Files contain no times, so that equal runs write equal bytes.
inline Handle creation_list(hid_t what) {
  Handle list = own(H5Pcreate(what), H5Pclose);
  CHECK_GE(H5Pset_obj_track_times(list.get(), false), 0);
  return list;
}

inline Handle link_list() {
  Handle list = own(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  CHECK_GE(H5Pset_char_encoding(list.get(), H5T_CSET_UTF8), 0);
  return list;
}

// Disables the library's file locks, which some file systems refuse. They are not needed, because files are written
// under temporary names and never changed.
inline Handle reading_list() {
  Handle list = own(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  CHECK_GE(H5Pset_file_locking(list.get(), false, true), 0);
  return list;
}

// Selects the format of HDF5 1.10. Its metadata have checksums, so damage is an error. Metadata of the older default
// have none.
inline Handle writing_list() {
  Handle list = reading_list();
  CHECK_GE(H5Pset_libver_bounds(list.get(), H5F_LIBVER_V110, H5F_LIBVER_V110), 0);
  return list;
}

inline Handle text_type(std::size_t size, H5T_cset_t characters) {
  Handle type = own(H5Tcopy(H5T_C_S1), H5Tclose);
  CHECK_GE(H5Tset_size(type.get(), size), 0);
  CHECK_GE(H5Tset_cset(type.get(), characters), 0);
  if (size != H5T_VARIABLE) CHECK_GE(H5Tset_strpad(type.get(), H5T_STR_NULLPAD), 0);
  return type;
}

inline std::vector<const char*> pointers_to(std::span<const std::string> texts) {
  std::vector<const char*> pointers(texts.size());
  std::transform(texts.begin(), texts.end(), pointers.begin(),
                 [](const std::string& text) { return text.c_str(); });
  return pointers;
}

inline Handle list_space(std::size_t count) {
  const hsize_t dimension = count;
  return own(H5Screate_simple(1, &dimension, nullptr), H5Sclose);
}

inline constexpr std::string_view kSeal = "\nbiqa-xxh3-64 ";
inline constexpr std::size_t kSealBytes = kSeal.size() + 16 + 1;

// The seal line for a file with these bytes.
inline std::string seal_of(std::span<const std::byte> bytes) {
  return fmt::format("{}{:016x}\n", kSeal, digest_of_bytes(bytes));
}

enum class Seal { none, whole, broken };
inline Seal check_seal(std::span<const std::byte> bytes) {
  if (bytes.size() < kSealBytes) return Seal::none;
  const std::span<const std::byte> last = bytes.last(kSealBytes);
  const std::string line(reinterpret_cast<const char*>(last.data()), last.size());
  if (!line.starts_with(kSeal)) return Seal::none;
  return line == seal_of(bytes.first(bytes.size() - kSealBytes)) ? Seal::whole : Seal::broken;
}

template <typename T>
hid_t memory_type_of() {
  if constexpr (std::is_same_v<T, float>)
    return H5T_NATIVE_FLOAT;
  else if constexpr (std::is_same_v<T, double>)
    return H5T_NATIVE_DOUBLE;
  else if constexpr (std::is_same_v<T, std::int64_t>)
    return H5T_NATIVE_INT64;
  else
    return H5T_NATIVE_UINT8;
}

}  // namespace biqa::hdf5
