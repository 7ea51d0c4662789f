// SPDX-License-Identifier: Apache-2.0
// Philox and SplitMix64 against published vectors; streams against a second implementation in Python.
#include "core/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

namespace biqa {
namespace {

nlohmann::json fixture() {
  std::ifstream file(BIQA_SOURCE_DIR "/tests/fixtures/numbers/random.json");
  return nlohmann::json::parse(file);
}

RandomStream stream_named(const std::vector<std::uint64_t>& name) {
  switch (name.size()) {
    case 1:
      return RandomStream{name[0]};
    case 2:
      return RandomStream{name[0], name[1]};
    default:
      return RandomStream{name.at(0), name.at(1), name.at(2), name.at(3), name.at(4)};
  }
}

TEST(Random, PhiloxKnownAnswers) {  // kat_vectors of Random123, philox4x32 with ten rounds
  using Four = Words<4>;
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Four{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Four{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Four{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, SplitMixKnownAnswers) {  // the first outputs of SplitMix64 seeded with 0
  EXPECT_EQ(mix64(0), 0xE220A8397B1DCDAFULL);
  EXPECT_EQ(mix64(0x9E3779B97F4A7C15ULL), 0x6E789E6AA1B965F4ULL);
}

TEST(Random, StreamsAgreeWithPython) {
  const nlohmann::json rows = fixture().at("streams");
  ASSERT_EQ(rows.size(), 5U);
  for (const auto& row : rows) {
    std::vector<std::uint64_t> name;
    for (const auto& part : row.at("name")) name.push_back(std::stoull(part.get<std::string>()));
    const RandomStream stream = stream_named(name);
    const auto key = row.at("key").get<std::array<std::uint32_t, 2>>();
    EXPECT_EQ(stream.key(), (Words<2>{key[0], key[1]}));
    for (const auto& draw : row.at("draws")) {
      const auto index = draw.at("index").get<std::uint64_t>();
      EXPECT_EQ(stream.word(index), std::stoull(draw.at("word").get<std::string>()));
      EXPECT_EQ(stream.uniform(index), draw.at("uniform").get<double>());
    }
    EXPECT_EQ(random_order(11, stream), row.at("order").get<std::vector<std::size_t>>());
  }
}

TEST(Random, TextHashesAgreeWithPython) {
  const nlohmann::json rows = fixture().at("texts");
  ASSERT_EQ(rows.size(), 4U);
  for (const auto& row : rows) {
    EXPECT_EQ(hash_text(row.at("text").get<std::string>()), std::stoull(row.at("hash").get<std::string>()));
  }
}

TEST(Random, EveryPartOfTheNameCounts) {
  const std::vector<RandomStream> streams{RandomStream{},     RandomStream{0},    RandomStream{0, 0},
                                          RandomStream{1},    RandomStream{1, 0}, RandomStream{0, 1},
                                          RandomStream{1, 2}, RandomStream{2, 1}};
  std::set<std::uint64_t> words;
  for (const auto& stream : streams) words.insert(stream.word(0));
  EXPECT_EQ(words.size(), streams.size());
}

TEST(Random, UniformIsUniform) {
  const RandomStream stream{17};
  constexpr int kDraws = 100000;
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = stream.uniform(static_cast<std::uint64_t>(i));
    ASSERT_GT(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
    squares += u * u;
  }
  // Five standard deviations.
  EXPECT_NEAR(sum / kDraws, 0.5, 5 * std::sqrt(1.0 / 12 / kDraws));
  EXPECT_NEAR(squares / kDraws, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / kDraws));
}

TEST(Random, OrderIsAPermutation) {
  EXPECT_TRUE(random_order(0, RandomStream{1}).empty());
  EXPECT_EQ(random_order(1, RandomStream{1}), std::vector<std::size_t>{0});
  auto order = random_order(1000, RandomStream{1});
  EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
  std::sort(order.begin(), order.end());
  for (std::size_t i = 0; i < order.size(); ++i) ASSERT_EQ(order[i], i);
}

}  // namespace
}  // namespace biqa
