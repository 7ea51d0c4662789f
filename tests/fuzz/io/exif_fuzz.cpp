// SPDX-License-Identifier: Apache-2.0
// The orientation in an EXIF block, and in what may stand beside it.
#include <glog/logging.h>

#include "fuzz/harness.h"
#include "io/image_formats.h"

namespace biqa::fuzz {
namespace {

void run(std::string_view input) {
  const int code = image::stored_orientation(bytes_of(input), input);
  CHECK(code >= 1 && code <= 8) << code;
}

const Registered kRegistered("exif", run);

}  // namespace
}  // namespace biqa::fuzz
