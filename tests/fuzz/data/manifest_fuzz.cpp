// SPDX-License-Identifier: Apache-2.0
// Rows of a manifest.
#include "data/manifest.h"

#include <glog/logging.h>

#include <set>

#include "fuzz/harness.h"

namespace biqa::fuzz {
namespace {

void run(std::string_view input) {
  static const Folder folder;
  const std::filesystem::path file = folder.write("set.jsonl", input);
  std::vector<Sample> strict, samples;
  std::vector<BadRow> bad;
  const bool whole = accepted([&] { strict = read_manifest(file, false, nullptr, false); });
  const bool some = accepted([&] { samples = read_manifest(file, true, &bad, false); });
  for (const BadRow& row : bad) {
    CHECK_GT(row.line, 0);
    check_message(Error(row.reason));
  }
  CHECK_EQ(whole, some && bad.empty());
  if (whole) CHECK_EQ(strict.size(), samples.size());
  std::set<std::string> ids;
  for (const Sample& sample : samples) {
    CHECK(ids.insert(sample.id).second);
    CHECK(sample.score >= 1 && sample.score <= 5) << sample.score;
    (void)sample.human_text();
  }
  (void)find_overlap(samples, strict);
  bad.clear();
  accepted([&] { (void)read_pictures(file, bad); });
  accepted([&] { (void)read_manifest(file, true, &bad, true); });
  for (const BadRow& row : bad) check_message(Error(row.reason));
}

const Registered kRegistered("manifest", run);

}  // namespace
}  // namespace biqa::fuzz
