// SPDX-License-Identifier: Apache-2.0
// BMP pictures.
#include "fuzz/harness.h"
#include "fuzz/picture.h"

namespace biqa::fuzz {
namespace {

void run(std::string_view input) {
  if (input.starts_with("BM")) check_picture(input);
}

const Registered kRegistered("image_bmp", run);

}  // namespace
}  // namespace biqa::fuzz
