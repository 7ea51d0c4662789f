// SPDX-License-Identifier: Apache-2.0
// What the model wrote: any bytes give an answer.
#include "data/profile_names.h"
#include "data/response.h"

#include <glog/logging.h>

#include <cmath>

#include "data/rouge.h"
#include "fuzz/harness.h"

namespace biqa::fuzz {
namespace {

void check_rouge(const Rouge& rouge) {
  for (const double part : {rouge.precision, rouge.recall, rouge.f1}) CHECK(part >= 0 && part <= 1) << part;
}

void run(std::string_view input) {
  for (const char* name : kProfileNames) {
    const Profile profile = named_profile(name);
    const Stage1Response response = parse_stage1(profile, input);
    if (response.rating) CHECK(std::isfinite(*response.rating));
    CHECK(response.rating == parse_stage2(profile, input));
    if (response.format_ok) {
      CHECK(response.caption && response.reasoning && response.rating);
      CHECK(!response.caption->empty() && !response.reasoning->empty());
    }
    if (const auto before = before_rating(profile, input)) CHECK(input.starts_with(*before));
  }
  const std::string stripped = strip_ratings(input);
  CHECK_LE(stripped.size(), input.size());
  // Between two numerals that count there is something else, so nothing new comes about.
  CHECK_EQ(strip_ratings(stripped), stripped);
  for (const double rating : {1.0, 2.5, 3.0, 4.25, 5.0}) CHECK(!leaks_rating(stripped, rating));
  CHECK_LE(word_count(input), input.size());
  const std::string_view half = input.substr(input.size() / 2);
  for (const bool stem : {false, true}) {
    check_rouge(rouge1(input, half, stem));
    if (input.size() < 4096) check_rouge(rougel(input, half, stem));
  }
  const Rouge same = rouge1(input, input);
  CHECK(same.f1 == 0 || same.f1 == 1);
}

const Registered kRegistered("response", run);

}  // namespace
}  // namespace biqa::fuzz
