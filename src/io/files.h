// SPDX-License-Identifier: Apache-2.0
// Files on disk: reading, mapping, publishing whole or not at all, and digests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace biqa {

/// Upper limit for a text file that is read into memory (a tokenizer.json has about 11 MB).
inline constexpr std::size_t kMaxTextFile = std::size_t{256} << 20;

/// Whether this error number means "not supported here".
bool is_unsupported(int error);
/// The system's text for an error number.
std::string system_reason(int error);

/// The whole content of a regular file. Throws Error if it cannot be read or is longer than `max_bytes`. All functions
/// here treat a Git LFS pointer as a file that cannot be read.
std::string read_file(const std::filesystem::path& path, std::size_t max_bytes = kMaxTextFile);

/// At most the first `bytes` of a regular file. Throws Error if it cannot be read.
std::string read_beginning(const std::filesystem::path& path, std::size_t bytes);

/// A file mapped read-only; move-only. A move does not change the address of the bytes. No program may shorten the file
/// while it is mapped.
class MappedFile {
 public:
  MappedFile() = default;
  /// Throws Error if the file cannot be opened or mapped. An empty file gives an empty span.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  /// Gives the memory of these bytes back to the system. They stay readable: the system reads them from the file again,
  /// or finds them in its cache. Does nothing for bytes that are not in this file.
  void release(std::span<const std::byte> part) const;

 private:
  std::span<const std::byte> bytes_;
};

/// Marks in the hidden names of unfinished files and folders. kTemporaryMark: written by one process. kPartialMark: a
/// checkpoint that several processes write.
inline constexpr std::string_view kTemporaryMark = ".tmp-", kPartialMark = ".partial";

/// An unused name in the folder of `target`: `.NAME.tmp-PID-RANDOM-COUNT`, with only the beginning of a long NAME.
std::filesystem::path temporary_beside(const std::filesystem::path& target);

/// Removes leftovers of killed processes in a folder: hidden entries with one of these marks in their names. No other
/// process may write there.
void remove_leftovers(const std::filesystem::path& folder);

/// The file that a write to `target` creates or replaces. Symbolic links are followed, so a link stays and its target
/// is replaced. Throws Error if `target` is a folder, device, pipe or socket, because a rename would destroy it.
std::filesystem::path writable_target(const std::filesystem::path& target);

/// Makes a finished file or folder durable and visible: fsync, rename to `target`, fsync of the parent. If the file
/// system cannot sync, a warning is printed once. A failing disk is an Error. An existing file or empty folder is
/// replaced. A folder that is not empty is replaced only with `replace_folder`. Everything else is an Error. Symbolic
/// links are followed as in writable_target(). On failure `temporary` is removed.
void publish(const std::filesystem::path& temporary, const std::filesystem::path& target,
             bool replace_folder = false);

/// A file that appears under its name only when complete. Every failure to write (full disk, unwritable folder) throws
/// an Error naming the target and leaves no file.
class AtomicFile {
 public:
  /// Opens a temporary file in the folder of writable_target(), which must exist.
  explicit AtomicFile(const std::filesystem::path& target);
  ~AtomicFile();  ///< without commit() the temporary file is removed
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }
  /// fsync, rename, fsync of the parent folder.
  void commit();

 private:
  std::filesystem::path target_, temporary_;
  int descriptor_ = -1;
};

/// A folder that appears under its name only when complete: write into path(), then commit().
class AtomicFolder {
 public:
  /// Creates an empty temporary folder next to `target`, and missing parent folders. If `target` is a link, the folder
  /// is created next to the link's target. Throws Error if `target` exists and is not a folder.
  explicit AtomicFolder(const std::filesystem::path& target);
  ~AtomicFolder();  ///< without commit() the temporary folder is removed
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  const std::filesystem::path& path() const { return temporary_; }
  /// publish() of the folder.
  void commit(bool replace_folder = false);

 private:
  std::filesystem::path target_, temporary_;
  bool committed_ = false;
};

/// Writes an AtomicFile in one call.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

/// XXH3-128 of a file's bytes, 32 hex digits in the order of `xxhsum -H2`.
std::string digest_of_file(const std::filesystem::path& path);
/// XXH3-64.
std::uint64_t digest_of_bytes(std::span<const std::byte> bytes);

}  // namespace biqa
