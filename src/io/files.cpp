// SPDX-License-Identifier: Apache-2.0
#include "io/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <glog/logging.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <functional>
#include <random>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "core/error.h"

namespace biqa {
namespace fs = std::filesystem;
namespace {

// The kernel's own ENOTSUPP, which some network file systems return. The C library has no name for it.
constexpr int kKernelNotSupported = 524;

std::string advice_for(int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return "check the path";
    case EACCES:
    case EPERM:
      return "check the permissions";
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return "free some space or choose another folder";
    case EROFS:
      return "choose a folder that can be written";
    case ENOTEMPTY:
    case EEXIST:
    case EISDIR:
      return "choose another name or remove what is there";
    default:
      return "check the file system";
  }
}

[[noreturn]] void fail_with(int error, const char* what, const fs::path& path) {
  fail("cannot {} {}: {}; {}", what, path.string(), system_reason(error), advice_for(error));
}

// Closes the descriptor on every path out of the function.
class Descriptor {
 public:
  explicit Descriptor(int descriptor) : descriptor_(descriptor) {}
  ~Descriptor() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return descriptor_; }

 private:
  int descriptor_;
};

struct Opened {
  int descriptor;
  std::size_t size;
};

// A clone without Git LFS has small texts in place of large files.
void refuse_pointer(int descriptor, std::size_t size, const fs::path& path) {
  constexpr std::size_t kMostBytes = 1024;  // as Git LFS defines it
  constexpr std::array<std::string_view, 2> kBeginnings = {"version https://git-lfs.github.com/spec/",
                                                           "version https://hawser.github.com/spec/"};
  if (size > kMostBytes) return;
  std::array<char, 48> beginning{};
  const ssize_t count = ::pread(descriptor, beginning.data(), beginning.size(), 0);
  const std::string_view text(beginning.data(), count < 0 ? 0 : static_cast<std::size_t>(count));
  for (const std::string_view known : kBeginnings) {
    if (!text.starts_with(known)) continue;
    fail("cannot read {}: it is a Git LFS pointer, and not the file itself; run `git lfs pull` in its folder",
         path.string());
  }
}

// Opens only regular files, because a pipe would block and a device may never end.
Opened open_regular(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) fail_with(errno, "read", path);
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) {
    const int error = errno;
    ::close(descriptor);
    fail_with(error, "read", path);
  }
  if (!S_ISREG(status.st_mode)) {
    ::close(descriptor);
    fail("cannot read {}: it is {}; give the path of a file", path.string(),
         S_ISDIR(status.st_mode) ? "a folder" : "not a regular file");
  }
  try {
    refuse_pointer(descriptor, static_cast<std::size_t>(status.st_size), path);
  } catch (const Error&) {
    ::close(descriptor);
    throw;
  }
  return {descriptor, static_cast<std::size_t>(status.st_size)};
}

// 0, or the error number.
int fsync_path(const fs::path& path, int flags) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags));
  if (file.get() < 0) return errno;
  // On network file systems a signal can interrupt it.
  while (::fsync(file.get()) != 0)
    if (errno != EINTR) return errno;
  return 0;
}

// Returns 0 or the error number. Some file systems cannot sync, most of these only folders. This is reported once and
// is no failure, because all data are written.
int synchronise(const fs::path& path, int flags) {
  const int error = fsync_path(path, flags);
  const bool closed = error == EBADF || error == EACCES || error == EPERM;
  if (!is_unsupported(error) && !(closed && (flags & O_DIRECTORY) != 0)) return error;
  static std::atomic<bool> told{false};
  if (!told.exchange(true)) {
    LOG(WARNING) << "cannot sync " << one_line(path.string()) << ": " << system_reason(error)
                 << "; a power failure may undo the last writes";
  }
  return 0;
}

int synchronise_tree(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return synchronise(path, 0);
  for (fs::recursive_directory_iterator entry(path, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->is_symlink(error)) continue;
    const bool folder = entry->is_directory(error);
    if (const int failed = synchronise(entry->path(), folder ? O_DIRECTORY : 0); failed != 0) return failed;
  }
  return error ? error.value() : synchronise(path, O_DIRECTORY);
}

fs::path parent_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

// "runs/out/" names the same folder as "runs/out".
fs::path without_trailing_slash(const fs::path& path) {
  return path.has_filename() || !path.has_relative_path() ? path : path.parent_path();
}

// The path that a write to `target` creates or replaces. Links are followed, even if their target does not exist.
// Throws Error for a device or a pipe, because a rename would destroy it. Also throws for a folder instead of a file,
// or the reverse.
fs::path resolve_target(const fs::path& target, bool folder) {
  fs::path place = without_trailing_slash(target);
  constexpr int kMostLinks = 40;  // as the kernel's
  for (int links = 0;; ++links) {
    struct stat status {};
    if (::lstat(place.c_str(), &status) != 0) {
      if (errno == ENOENT) return place;
      fail_with(errno, "write", target);
    }
    if (S_ISLNK(status.st_mode)) {
      if (links == kMostLinks) fail_with(ELOOP, "write", target);
      std::error_code error;
      const fs::path next = fs::read_symlink(place, error);
      if (error) fail_with(error.value(), "write", target);
      place = without_trailing_slash(parent_of(place) / next);
      continue;
    }
    if (folder ? S_ISDIR(status.st_mode) : S_ISREG(status.st_mode)) return place;
    fail("cannot write {}: it is {}; give the path of a {}", target.string(),
         S_ISDIR(status.st_mode)   ? "a folder"
         : S_ISREG(status.st_mode) ? "a file"
                                   : "neither a file nor a folder",
         folder ? "folder" : "file");
  }
}

// rename(2), repeated when a signal has interrupted it. Returns 0 or the error number.
int rename_path(const fs::path& from, const fs::path& to) {
  bool interrupted = false;
  while (::rename(from.c_str(), to.c_str()) != 0) {
    const int error = errno;
    std::error_code ignored;
    if (error == ENOENT && interrupted && fs::exists(to, ignored))
      return 0;  // it had happened before the signal
    if (error != EINTR) return error;
    interrupted = true;
  }
  return 0;
}

// At most 100 bytes of a name, without a part of a UTF-8 character at the end. A file system allows names of 255 bytes, an
// encrypted one sometimes only 143. The rest of a temporary name takes up to 36 bytes.
std::string beginning_of(const std::string& name) {
  std::size_t length = std::min<std::size_t>(name.size(), 100);
  while (length > 0 && length < name.size() && (static_cast<unsigned char>(name[length]) & 0xC0U) == 0x80U)
    --length;
  return name.substr(0, length);
}

// Exchanges two folders, so that the old one gets the temporary name. Returns 0 or the error number.
int swap_folders(const fs::path& temporary, const fs::path& target) {
  if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return errno;
  // The file system cannot exchange names, so the old folder gets a third name for a moment.
  const fs::path aside = temporary_beside(target);
  if (const int error = rename_path(target, aside); error != 0) return error;
  if (const int error = rename_path(temporary, target); error != 0) {
    rename_path(aside, target);
    return error;
  }
  return rename_path(aside, temporary);
}

/// Reads at most `bytes` from the descriptor's current position.
std::string read_from(const Descriptor& file, const fs::path& path, std::size_t bytes) {
  std::string content(bytes, '\0');
  std::size_t filled = 0;
  while (filled < content.size()) {
    const ssize_t count = ::read(file.get(), content.data() + filled, content.size() - filled);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_with(errno, "read", path);
    if (count == 0) break;
    filled += static_cast<std::size_t>(count);
  }
  content.resize(filled);
  return content;
}

}  // namespace

bool is_unsupported(int error) {
  // Linux has one number for EOPNOTSUPP and ENOTSUP.
  return error == EINVAL || error == ENOSYS || error == ENOTSUP || error == kKernelNotSupported;
}

std::string system_reason(int error) {
  return std::generic_category().message(error == kKernelNotSupported ? ENOTSUP : error);
}

std::string read_file(const fs::path& path, std::size_t max_bytes) {
  const Opened opened = open_regular(path);
  const Descriptor file(opened.descriptor);
  if (opened.size > max_bytes) {
    fail("cannot read {}: it has {} bytes, more than the limit of {}; check that it is the right file",
         path.string(), opened.size, max_bytes);
  }
  return read_from(file, path, opened.size);
}

std::string read_beginning(const fs::path& path, std::size_t bytes) {
  const Opened opened = open_regular(path);
  const Descriptor file(opened.descriptor);
  return read_from(file, path, std::min<std::size_t>(opened.size, bytes));
}

MappedFile::MappedFile(const fs::path& path) {
  const Opened opened = open_regular(path);
  const Descriptor file(opened.descriptor);
  if (opened.size == 0) return;
  // Some file systems refuse shared mappings. In a private mapping, pages that are only read are shared too.
  void* address = ::mmap(nullptr, opened.size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (address == MAP_FAILED) fail_with(errno, "map", path);
  bytes_ = {static_cast<const std::byte*>(address), opened.size};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::release(std::span<const std::byte> part) const {
  const std::less_equal<> before;  // an order for pointers of any origin
  const std::byte* const end = part.data() + part.size();
  if (part.empty() || !before(bytes_.data(), part.data()) || !before(end, bytes_.data() + bytes_.size()))
    return;
  // Pages that also hold other bytes stay. The mapping begins at the begin of a page.
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const auto offset = static_cast<std::size_t>(part.data() - bytes_.data());
  const std::size_t first = (offset + page - 1) / page * page;
  const std::size_t last = (offset + part.size()) / page * page;
  // A failure only means that the pages stay.
  if (first < last) ::madvise(const_cast<std::byte*>(bytes_.data()) + first, last - first, MADV_DONTNEED);
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

fs::path temporary_beside(const fs::path& target) {
  // A random number, because in a container a later process may have the process id in the name of a leftover file.
  static const unsigned drawn = std::random_device{}();
  static std::atomic<unsigned> counter{0};
  const fs::path clean = without_trailing_slash(target);
  return parent_of(clean) / fmt::format(".{}{}{}-{:08x}-{}", beginning_of(clean.filename().string()),
                                        kTemporaryMark, ::getpid(), drawn, counter++);
}

void remove_leftovers(const fs::path& folder) {
  std::error_code ignored;
  std::vector<fs::path> leftovers;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    const bool marked =
        name.find(kTemporaryMark) != std::string::npos || name.find(kPartialMark) != std::string::npos;
    if (name.starts_with(".") && marked) leftovers.push_back(entry.path());
  }
  for (const fs::path& leftover : leftovers) fs::remove_all(leftover, ignored);
}

fs::path writable_target(const fs::path& target) {
  return resolve_target(target, false);
}

void publish(const fs::path& temporary, const fs::path& target, bool replace_folder) {
  std::error_code ignored;
  fs::path clean;
  try {
    clean = resolve_target(target, fs::is_directory(temporary, ignored));
  } catch (const Error&) {
    fs::remove_all(temporary, ignored);
    throw;
  }
  int error = synchronise_tree(temporary);
  if (error == 0) error = rename_path(temporary, clean);
  if (replace_folder && (error == ENOTEMPTY || error == EEXIST)) error = swap_folders(temporary, clean);
  // After a swap the temporary name is that of the old folder. After a rename it does not exist.
  fs::remove_all(temporary, ignored);
  if (error != 0) fail_with(error, "write", clean);
  if (error = synchronise(parent_of(clean), O_DIRECTORY); error != 0) fail_with(error, "write", clean);
}

AtomicFile::AtomicFile(const fs::path& target)
    : target_(writable_target(target)), temporary_(temporary_beside(target_)) {
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail_with(errno, "write", target_);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(descriptor_, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_with(errno, "write", target_);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

void AtomicFile::commit() {
  if (::close(std::exchange(descriptor_, -1)) != 0) {
    const int error = errno;
    ::unlink(temporary_.c_str());
    fail_with(error, "write", target_);
  }
  publish(temporary_, target_);
}

AtomicFolder::AtomicFolder(const fs::path& target) : target_(resolve_target(target, true)) {
  std::error_code error;
  fs::create_directories(parent_of(target_), error);
  if (error) fail_with(error.value(), "write", target_);
  temporary_ = temporary_beside(target_);
  fs::create_directory(temporary_, error);
  if (error) fail_with(error.value(), "write", target_);
}

AtomicFolder::~AtomicFolder() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(temporary_, ignored);
}

void AtomicFolder::commit(bool replace_folder) {
  committed_ = true;
  publish(temporary_, target_, replace_folder);
}

void write_file_atomically(const fs::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

std::string digest_of_file(const fs::path& path) {
  const MappedFile file(path);
  const XXH128_hash_t hash = XXH3_128bits(file.bytes().data(), file.bytes().size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::uint64_t digest_of_bytes(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

}  // namespace biqa
