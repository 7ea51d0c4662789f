// SPDX-License-Identifier: Apache-2.0
#include "support/failing_calls.h"

#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

namespace biqa::testing {

FailingCalls& failing_calls() {
  static FailingCalls calls;
  return calls;
}

namespace {

int fail_with(int error) {
  errno = error;
  return -1;
}

/// Whether this call is one that a signal interrupts; sets errno.
bool interrupted() {
  std::atomic<int>& signals = failing_calls().signals;
  if (signals <= 0) return false;
  --signals;
  errno = EINTR;
  return true;
}

int error_of_sync(int descriptor) {
  const FailingCalls& calls = failing_calls();
  struct stat status {};
  if (::fstat(descriptor, &status) == 0 && S_ISDIR(status.st_mode)) return calls.sync_folder;
  if (calls.sync_file == 0) return 0;
  std::error_code ignored;
  const std::filesystem::path path =
      std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(descriptor), ignored);
  return path.string().find(calls.part_of_path) != std::string::npos ? calls.sync_file.load() : 0;
}

}  // namespace
}  // namespace biqa::testing

// AT_FDCWD. The struct flock of <fcntl.h> would hide the function.
static constexpr int kHere = -100;

extern "C" {

int flock(int descriptor, int operation) noexcept {
  if (biqa::testing::interrupted()) return -1;
  const int error = biqa::testing::failing_calls().lock;
  return error != 0 ? biqa::testing::fail_with(error)
                    : static_cast<int>(::syscall(SYS_flock, descriptor, operation));
}

int symlink(const char* target, const char* link) noexcept {
  const int error = biqa::testing::failing_calls().link;
  return error != 0 ? biqa::testing::fail_with(error)
                    : static_cast<int>(::syscall(SYS_symlink, target, link));
}

int rename(const char* from, const char* to) noexcept {
  if (biqa::testing::interrupted()) return -1;
  return static_cast<int>(::syscall(SYS_renameat2, kHere, from, kHere, to, 0));
}

int fsync(int descriptor) {
  if (biqa::testing::interrupted()) return -1;
  const int error = biqa::testing::error_of_sync(descriptor);
  return error != 0 ? biqa::testing::fail_with(error) : static_cast<int>(::syscall(SYS_fsync, descriptor));
}
}
