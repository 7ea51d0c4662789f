// SPDX-License-Identifier: Apache-2.0
// Files on disk: read whole or mapped, published whole or not at all, told apart by digest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace biqa {

/// Upper limit for a text file that is read into memory (a tokenizer.json has some 11 MB).
inline constexpr std::size_t kMaxTextFile = std::size_t{256} << 20;

/// The system says that what was asked for is not supported here, by whichever of its numbers.
bool is_unsupported(int error);
/// The system's words for an error number.
std::string system_reason(int error);

/// The whole content of a regular file. Throws Error when it cannot be read or is longer than `max_bytes`. Here and below
/// a Git LFS pointer counts as a file that cannot be read.
std::string read_file(const std::filesystem::path& path, std::size_t max_bytes = kMaxTextFile);

/// At most the first `bytes` of a regular file. Throws Error when it cannot be read.
std::string read_beginning(const std::filesystem::path& path, std::size_t bytes);

/// A file mapped read-only; move-only. The bytes stay where they are when the object moves.
/// The file must not be shortened by others while it is mapped.
class MappedFile {
 public:
  MappedFile() = default;
  /// Throws Error when the file cannot be opened or mapped. An empty file gives an empty span.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

/// What marks the hidden names of unfinished files and folders: of one process's, and of checkpoints that several write.
inline constexpr std::string_view kTemporaryMark = ".tmp-", kPartialMark = ".partial";

/// A name beside `target` that nothing else uses: `.NAME.tmp-PID-COUNT`.
std::filesystem::path temporary_beside(const std::filesystem::path& target);

/// Removes what killed processes have left in a folder: hidden entries with one of these marks in their names. Nobody else
/// may write there.
void remove_leftovers(const std::filesystem::path& folder);

/// The file that writing to `target` makes or replaces: symbolic links are followed (the link stays, what it points to is
/// replaced or made). Throws Error where `target` is a folder, a device, a pipe or a socket, which a rename would destroy.
std::filesystem::path writable_target(const std::filesystem::path& target);

/// Makes a finished file or folder durable and visible: fsync of all of it, rename to `target`, fsync of the
/// parent. A file system that cannot sync is told once and then taken as it is; a failing disk is an Error. An existing file (or empty folder) is replaced; a folder with something in it only with
/// `replace_folder`, else it is an Error; so is anything of another kind. Symbolic links are followed, as in
/// writable_target(). `temporary` is removed when anything fails.
void publish(const std::filesystem::path& temporary, const std::filesystem::path& target,
             bool replace_folder = false);

/// A file that appears under its name only when complete. Every failure to write (full disk, unwritable
/// folder) throws one Error naming the target and leaves nothing behind.
class AtomicFile {
 public:
  /// Opens a temporary file beside writable_target(); the parent folder must exist.
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
  /// Makes an empty temporary folder beside `target` (or what it links to), and the folders above it where they are
  /// missing. Throws Error at once where `target` is no folder.
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

/// AtomicFile in one call.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

/// XXH3-128 of a file's bytes, 32 hex digits in the order of `xxhsum -H2`.
std::string digest_of_file(const std::filesystem::path& path);
/// XXH3-64.
std::uint64_t digest_of_bytes(std::span<const std::byte> bytes);

}  // namespace biqa
