// SPDX-License-Identifier: Apache-2.0
// Lexicons of quality terms.
#include <glog/logging.h>

#include <optional>

#include "fuzz/harness.h"
#include "semantic/polarity.h"

namespace biqa::fuzz {
namespace {

void run(std::string_view input) {
  std::optional<Lexicon> lexicon;
  if (!accepted([&] { lexicon = Lexicon::parse(input, "lexicon.txt"); })) return;
  CHECK(!lexicon->aspects().empty());
  const AspectSigns signs =
      lexicon->signs_of("The picture isn't sharp, or out of focus; no good contrast but little noise.");
  CHECK_EQ(signs.size(), lexicon->aspects().size());
}

const Registered kRegistered("lexicon", run);

}  // namespace
}  // namespace biqa::fuzz
