// SPDX-License-Identifier: Apache-2.0
// The orientation in an EXIF block, in a TIFF file, and in what may stand beside it.
#include <glog/logging.h>

#include "fuzz/harness.h"
#include "io/image_formats.h"

namespace biqa::fuzz {
namespace {

void run(std::string_view input) {
  for (const int code : {image::stored_orientation(bytes_of(input), input),
                         image::stored_orientation_of_tiff(bytes_of(input), input)})
    CHECK(code >= 1 && code <= 8) << code;
}

const Registered kRegistered("exif", run);

}  // namespace
}  // namespace biqa::fuzz
