// SPDX-License-Identifier: Apache-2.0
// JPEG pictures.
#include "fuzz/harness.h"
#include "fuzz/picture.h"

namespace biqa::fuzz {
namespace {

void run(std::string_view input) {
  if (input.starts_with("\xFF\xD8\xFF")) check_picture(input);
}

const Registered kRegistered("image_jpeg", run);

}  // namespace
}  // namespace biqa::fuzz
