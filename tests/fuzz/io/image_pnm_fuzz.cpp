// SPDX-License-Identifier: Apache-2.0
// PNM pictures. The last number of a plain one may be cut to another number.
#include "fuzz/harness.h"
#include "fuzz/picture.h"

namespace biqa::fuzz {
namespace {

void run(std::string_view input) {
  // "P1" to "P3" are plain.
  if (input.starts_with("P")) check_picture(input, input.size() > 1 && input[1] > '3');
}

const Registered kRegistered("image_pnm", run);

}  // namespace
}  // namespace biqa::fuzz
