// SPDX-License-Identifier: Apache-2.0
#include "io/append_file.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace biqa {

AppendFile::AppendFile(std::filesystem::path file)
    : file_(std::move(file)),
      descriptor_(::open(file_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0) {
    fail("cannot open {} for writing: {}; check the folder's permissions and free space", file_.string(),
         std::strerror(errno));
  }
}

AppendFile::~AppendFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

AppendFile::AppendFile(AppendFile&& other) noexcept
    : file_(std::move(other.file_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

bool AppendFile::is_in_its_place() const {
  struct stat opened {};
  struct stat named {};
  return ::fstat(descriptor_, &opened) == 0 && ::stat(file_.c_str(), &named) == 0 &&
         opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

void AppendFile::append(std::string_view record) {
  CHECK_GE(descriptor_, 0) << "moved-from file";
  if (!is_in_its_place()) {
    fail(
        "cannot write {}: it or its folder was removed or moved since it was opened; put the folder back, "
        "then "
        "start again to resume",
        file_.string());
  }
  const off_t start = ::lseek(descriptor_, 0, SEEK_END);
  std::size_t written = 0;
  while (written < record.size()) {
    const ssize_t count = ::write(descriptor_, record.data() + written, record.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const int reason = errno;
      const bool torn = written > 0 && start >= 0 && ::ftruncate(descriptor_, start) != 0;
      fail("cannot write {}: {} after {} of {} bytes{}; free space, then start again to resume",
           file_.string(), std::strerror(reason), written, record.size(),
           torn ? ", and it now ends with an incomplete record" : "");
    }
    written += static_cast<std::size_t>(count);
  }
}

}  // namespace biqa
