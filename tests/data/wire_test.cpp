// SPDX-License-Identifier: Apache-2.0
#include "data/wire.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "core/error.h"
#include "core/random.h"

namespace biqa {
namespace {

Group example() {
  Group group;
  group.sample_id = "photo \xC3\xA9.jpg";
  group.sample_index = 77;
  group.step = 5;
  group.prompt_ids = {151644, 1, 2, -3};
  group.image_grid_thw = {{1, 8, 12}, {1, 4, 4}};
  group.annotation.score = 3.25;
  group.annotation.human_text = "sharp";
  Trajectory full;
  full.member = 1;
  full.completion_ids = {9, 8, 7};
  full.behaviour_logp = {-0.5F, -0.0F, -std::numeric_limits<float>::infinity()};
  full.finished = true;
  full.text = std::string("a\0b", 3);
  full.format_ok = true;
  full.caption = "";
  full.rating = std::numeric_limits<double>::denorm_min();
  full.stage2_prompt_ids = {4};
  full.stage2_completion_ids = {5, 6};
  full.stage2_behaviour_logp = {-1.5F, -2.5F};
  full.stage2_finished = true;
  full.stage2_text = "<rating>";
  full.stage2_rating = -1.0;
  full.policy_version = 12;
  full.adapter_digest = 0xFFFFFFFFFFFFFFFFULL;
  full.rewards = {0.1, 0.2, 0.3, 0.4};
  full.reward = 1;
  full.advantage = std::nan("");
  group.members = {Trajectory{}, full};
  return group;
}

TEST(Wire, EveryFieldArrives) {
  const Group sent = example();
  const Group got = parse_group(serialise(sent));
  EXPECT_EQ(got.sample_id, sent.sample_id);
  EXPECT_EQ(got.sample_index, 77);
  EXPECT_EQ(got.step, 5);
  EXPECT_EQ(got.prompt_ids, sent.prompt_ids);
  EXPECT_EQ(got.image_grid_thw, sent.image_grid_thw);
  EXPECT_EQ(got.annotation.score, 3.25);
  EXPECT_EQ(got.annotation.human_text, "sharp");
  ASSERT_EQ(got.members.size(), 2U);
  EXPECT_FALSE(got.members[0].caption || got.members[0].rating || got.members[0].stage2_rating);
  const Trajectory& a = got.members[1];
  const Trajectory& b = sent.members[1];
  EXPECT_EQ(a.member, 1);
  EXPECT_EQ(a.completion_ids, b.completion_ids);
  EXPECT_EQ(a.behaviour_logp, b.behaviour_logp);
  EXPECT_TRUE(a.finished && a.format_ok && a.stage2_finished);
  EXPECT_EQ(a.text, b.text);
  EXPECT_EQ(a.caption, b.caption);
  EXPECT_FALSE(a.reasoning);
  EXPECT_EQ(a.rating, b.rating);
  EXPECT_EQ(a.stage2_prompt_ids, b.stage2_prompt_ids);
  EXPECT_EQ(a.stage2_completion_ids, b.stage2_completion_ids);
  EXPECT_EQ(a.stage2_behaviour_logp, b.stage2_behaviour_logp);
  EXPECT_EQ(a.stage2_text, b.stage2_text);
  EXPECT_EQ(a.stage2_rating, b.stage2_rating);
  EXPECT_EQ(a.policy_version, 12);
  EXPECT_EQ(a.adapter_digest, b.adapter_digest);
  EXPECT_EQ(a.rewards, (std::vector<double>{0.1, 0.2, 0.3, 0.4}));
  EXPECT_EQ(a.reward, 1);
  EXPECT_TRUE(std::isnan(a.advantage));
  EXPECT_EQ(serialise(got), serialise(sent)) << "the same bytes, so no field is lost";
}

TEST(Wire, EmptyGroup) {
  EXPECT_TRUE(parse_group(serialise(Group{})).members.empty());
}

TEST(Wire, EveryCutIsRefused) {
  const std::vector<std::byte> bytes = serialise(example());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_THROW(parse_group(std::span(bytes).first(size)), Error) << size << " of " << bytes.size();
  }
  std::vector<std::byte> longer = bytes;
  longer.push_back(std::byte{0});
  EXPECT_THROW(parse_group(longer), Error);
}

TEST(Wire, HostileLengthsClaimNoMemory) {
  const std::vector<std::byte> bytes = serialise(example());
  for (std::size_t at = 0; at + 8 <= bytes.size(); ++at) {
    for (const std::uint64_t length : {~std::uint64_t{0}, std::uint64_t{1} << 61, std::uint64_t{1} << 40}) {
      std::vector<std::byte> broken = bytes;
      std::memcpy(broken.data() + at, &length, sizeof length);
      try {
        EXPECT_EQ(serialise(parse_group(broken)), broken) << "at " << at;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::world);
      }
    }
  }
}

TEST(Wire, RandomDamageIsAnErrorOrAnotherGroup) {
  const std::vector<std::byte> bytes = serialise(example());
  const RandomStream stream{3};
  int refused = 0;
  for (std::uint64_t trial = 0; trial < 2000; ++trial) {
    std::vector<std::byte> broken = bytes;
    for (std::uint64_t i = 0; i < 3; ++i) {
      const std::uint64_t word = stream.word(3 * trial + i);
      broken[word % broken.size()] = static_cast<std::byte>(word >> 56);
    }
    try {
      EXPECT_EQ(serialise(parse_group(broken)), broken);
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 100);
}

TEST(Wire, OtherMessagesAreRefusedByName) {
  try {
    parse_group(std::vector<std::byte>(64));
    FAIL() << "zeros were taken for a group";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("not a group"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace biqa
