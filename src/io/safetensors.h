// SPDX-License-Identifier: Apache-2.0
// The safetensors container: an 8-byte length, a JSON header, then the tensors' bytes back to back. Files are mapped,
// not copied. Every property of the format is checked before a tensor can be used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/bf16.h"
#include "io/files.h"

namespace biqa {

/// Element types of the format, in the order by which the reference writer sorts tensors. It writes those of the last
/// type first.
enum class StoredType : std::uint8_t {
  boolean,
  f4,
  f6_e2m3,
  f6_e3m2,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  c64,
  f64,
  i64,
  u64,
};
/// As in the header: "F32", "BF16", …
const char* name_of(StoredType type);
/// Bits per element (may be 4 or 6).
std::int64_t bits_of(StoredType type);

/// A tensor in a mapped file. The bytes may be unaligned, so copy them before using them as numbers.
struct StoredTensor {
  std::string name;
  StoredType type = StoredType::f32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
  std::string file;  ///< for messages

  std::int64_t elements() const;
  /// True for the types that copy_to accepts: F32, BF16, F16.
  bool is_float() const {
    return type == StoredType::f32 || type == StoredType::bf16 || type == StoredType::f16;
  }
  /// Converts all elements into `target`, which has elements() elements. Conversion to float is exact; to bfloat16 it
  /// rounds to nearest even. Throws Error for another source type.
  void copy_to(std::span<float> target) const;
  void copy_to(std::span<Bf16> target) const;
};

/// A safetensors file that passed every check. The tensors are valid as long as this object or a copy of it exists.
class Safetensors {
 public:
  /// Maps and checks the file. Throws Error naming file and tensor.
  static Safetensors open(const std::filesystem::path& path);

  /// In the order of their bytes in the file.
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  bool has(const std::string& name) const { return index_.count(name) != 0; }
  /// Throws Error if there is no such tensor.
  const StoredTensor& at(const std::string& name) const;
  /// The `__metadata__` strings.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return path_; }
  /// Gives the memory of a tensor's bytes back to the system (MappedFile::release).
  void release(const StoredTensor& tensor) const { file_->release(tensor.bytes); }

 private:
  std::filesystem::path path_;
  std::shared_ptr<const MappedFile> file_;
  std::vector<StoredTensor> tensors_;
  std::unordered_map<std::string, std::size_t> index_;
  std::map<std::string, std::string> metadata_;
};

/// Input of write_safetensors; the bytes are borrowed.
struct NamedTensor {
  std::string name;
  StoredType type = StoredType::f32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
};

/// Writes a file like the reference writer (larger elements first, then by name; header padded to 8 bytes). The file
/// appears whole or not at all. Names must be unique and bytes must fit the shapes (CHECK).
void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace biqa
