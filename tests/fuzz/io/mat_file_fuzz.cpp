// SPDX-License-Identifier: Apache-2.0
// Variables of MATLAB files. The libraries read in a child process, so that their crashes are refusals.
#include "io/mat_file.h"

#include "fuzz/harness.h"

namespace biqa::fuzz {
namespace {

void run(std::string_view input) {
  static const Folder folder;
  const std::filesystem::path file = folder.write("input.mat", input);
  bool readable = false;
  accepted([&] { readable = is_mat_file(file); });
  if (!readable) return;
  accepted([&] { (void)read_mat_numbers(file, "scores"); });
  accepted([&] { (void)read_mat_texts(file, "names"); });
}

const Registered kRegistered("mat_file", run);

}  // namespace
}  // namespace biqa::fuzz
