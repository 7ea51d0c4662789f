// SPDX-License-Identifier: Apache-2.0
// Waiting for whichever rank: how often the wire is asked.
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "comm/transport.h"

namespace biqa {
namespace {

class Arrived final : public Transfer {
 public:
  bool done() override { return true; }
};

/// Rank 0 of many; what it sends to itself waits as if the rank named in the first byte had sent it.
class CountingTransport final : public Transport {
 public:
  struct Counts {
    int probes = 0, any_probes = 0;
  };
  CountingTransport(int size, Counts& counts) : size_(size), counts_(counts) {}
  int rank() const override { return 0; }
  int size() const override { return size_; }
  int channels() const override { return 1 << 20; }
  std::unique_ptr<Transfer> start_send(int /*to*/, int channel, std::span<const std::byte> bytes) override {
    waiting_.insert({{std::to_integer<int>(bytes.back()), channel}, {bytes.begin(), bytes.end()}});
    return std::make_unique<Arrived>();
  }
  std::optional<std::size_t> probe(int from, int channel) override {
    ++counts_.probes;
    const auto found = waiting_.find({from, channel});
    if (found == waiting_.end()) return std::nullopt;
    return found->second.size();
  }
  std::optional<int> probe_any(int channel) override {
    ++counts_.any_probes;
    for (const auto& [key, bytes] : waiting_)
      if (key.second == channel) return key.first;
    return std::nullopt;
  }
  std::unique_ptr<Transfer> start_receive(int from, int channel, std::span<std::byte> bytes) override {
    const auto found = waiting_.find({from, channel});
    std::memcpy(bytes.data(), found->second.data(), bytes.size());
    waiting_.erase(found);
    return std::make_unique<Arrived>();
  }
  void idle(Seconds /*at_most*/) override {}

 private:
  const int size_;
  Counts& counts_;
  std::multimap<std::pair<int, int>, std::vector<std::byte>> waiting_;
};

TEST(AnyRank, ALookWithoutAMessageAsksTheWireOnce) {
  CountingTransport::Counts counts;
  const auto comm = make_communicator(std::make_unique<CountingTransport>(1000, counts), Seconds(5));
  for (int look = 1; look <= 10; ++look) {
    EXPECT_FALSE(comm->try_receive(kAnyRank, 3).has_value());
    EXPECT_EQ(counts.any_probes, look);
    EXPECT_EQ(counts.probes, 0);
  }
  // One message each from ranks 200 and 20, and another tag's: the ranks have their turns.
  for (const int from : {200, 20}) comm->send(0, 3, std::vector<std::byte>{static_cast<std::byte>(from)});
  comm->send(0, 4, std::vector<std::byte>{std::byte{5}});
  EXPECT_EQ(comm->try_receive(kAnyRank, 3)->from, 20);
  EXPECT_EQ(comm->try_receive(kAnyRank, 3)->from, 200);
  EXPECT_FALSE(comm->try_receive(kAnyRank, 3).has_value());
  EXPECT_EQ(comm->try_receive(kAnyRank, 4)->from, 5);
}

}  // namespace
}  // namespace biqa
