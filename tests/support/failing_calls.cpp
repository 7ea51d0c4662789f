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

extern "C" {

int flock(int descriptor, int operation) noexcept {
  biqa::testing::FailingCalls& calls = biqa::testing::failing_calls();
  if (calls.signals > 0) {
    --calls.signals;
    return biqa::testing::fail_with(EINTR);
  }
  const int error = calls.lock;
  return error != 0 ? biqa::testing::fail_with(error)
                    : static_cast<int>(::syscall(SYS_flock, descriptor, operation));
}

int symlink(const char* target, const char* link) noexcept {
  const int error = biqa::testing::failing_calls().link;
  return error != 0 ? biqa::testing::fail_with(error)
                    : static_cast<int>(::syscall(SYS_symlink, target, link));
}

int fsync(int descriptor) {
  const int error = biqa::testing::error_of_sync(descriptor);
  return error != 0 ? biqa::testing::fail_with(error) : static_cast<int>(::syscall(SYS_fsync, descriptor));
}
}
