// SPDX-License-Identifier: Apache-2.0
// Groups between ranks.
#include "data/wire.h"

#include <glog/logging.h>

#include <algorithm>

#include "fuzz/harness.h"

namespace biqa::fuzz {
namespace {

void run(std::string_view input) {
  Group group;
  if (!accepted([&] { group = parse_group(bytes_of(input)); })) return;
  const std::vector<std::byte> again = serialise(group);
  const auto bytes = bytes_of(input);
  CHECK(std::equal(again.begin(), again.end(), bytes.begin(), bytes.end()));
}

const Registered kRegistered("wire", run);

}  // namespace
}  // namespace biqa::fuzz
