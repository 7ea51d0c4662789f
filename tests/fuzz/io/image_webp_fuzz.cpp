// SPDX-License-Identifier: Apache-2.0
// WebP pictures.
#include "fuzz/harness.h"
#include "fuzz/picture.h"

namespace biqa::fuzz {
namespace {

void run(std::string_view input) {
  if (input.starts_with("RIFF")) check_picture(input);
}

const Registered kRegistered("image_webp", run);

}  // namespace
}  // namespace biqa::fuzz
