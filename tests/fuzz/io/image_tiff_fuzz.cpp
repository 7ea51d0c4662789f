// SPDX-License-Identifier: Apache-2.0
// TIFF pictures.
#include "fuzz/harness.h"
#include "fuzz/picture.h"

namespace biqa::fuzz {
namespace {

void run(std::string_view input) {
  if (input.starts_with("II") || input.starts_with("MM")) check_picture(input);
}

const Registered kRegistered("image_tiff", run);

}  // namespace
}  // namespace biqa::fuzz
