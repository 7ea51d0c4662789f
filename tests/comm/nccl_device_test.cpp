// SPDX-License-Identifier: Apache-2.0
// NCCL on real devices; built with CUDA only. A test is skipped with its reason where there are too few devices.
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "comm/link_contract.h"
#include "comm/nccl/link.h"
#include "core/error.h"

namespace biqa {
namespace {

using nccl::Move;
using nccl::Progress;

constexpr Seconds kLong{60};

int devices() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

void settle(nccl::World& world) {
  nccl::State state = world.state();
  while (state.progress == Progress::under_way) state = world.state();
  ASSERT_EQ(state.progress, Progress::ready) << state.reason;
}

TEST(NcclDevice, MovesInAWorldOfOne) {
  if (devices() < 1) GTEST_SKIP() << "no CUDA device";
  cuda::select_device(0);
  cuda::CudaMemory memory(std::make_shared<cuda::Stream>());
  nccl::Library& library = nccl::library();
  const auto world = library.join(library.make_name(), 0, 1, memory.stream());
  settle(*world);
  const std::vector<float> values = testing::some_values<float>(3000, 0);
  const Tensor from = copied_to(memory, ConstView(values.data(), 1, 3000), "test");
  testing::Guarded received(memory, 3000);
  testing::Guarded broadcast(memory, 3000);
  const auto* source = from.view().address<float>();
  constexpr std::int64_t kBytes = 3000 * sizeof(float);
  const std::vector<Move> moves{
      {Move::Kind::send, 0, source, nullptr, kBytes},
      {Move::Kind::receive, 0, nullptr, received.view().address<float>(), kBytes},
      {Move::Kind::broadcast, 0, source, broadcast.view().address<float>(), kBytes}};
  world->start(moves);
  settle(*world);
  world->mark();
  while (!world->passed()) {
  }
  EXPECT_TRUE(testing::same_bits(received.values(), values));
  EXPECT_TRUE(testing::same_bits(broadcast.values(), values));
  world->leave();
  settle(*world);
}

TEST(NcclDevice, AWorldMayBeGivenUpAtAnyTime) {
  if (devices() < 1) GTEST_SKIP() << "no CUDA device";
  cuda::select_device(0);
  const cuda::Stream stream;
  nccl::Library& library = nccl::library();
  { const auto created = library.join(library.make_name(), 0, 1, stream); }
  // Its peer never comes.
  { const auto waiting = library.join(library.make_name(), 0, 2, stream); }
  const auto ready = library.join(library.make_name(), 0, 1, stream);
  settle(*ready);
}

TEST(NcclDevice, LinksOfOneRank) {
  if (devices() < 1) GTEST_SKIP() << "no CUDA device";
  for (const testing::LinkCase& one : testing::link_cases(1)) {
    SCOPED_TRACE(one.name);
    const auto comm = make_local(kLong);
    cuda::select_device(0);
    cuda::CudaMemory memory(std::make_shared<cuda::Stream>());
    const Shards shards(one.shards);
    nccl::NcclLink link(nccl::library(), *comm, memory, shards);
    testing::check_link(*comm, memory, link, shards);
    testing::check_broadcast(*comm, memory, link);
  }
}

TEST(NcclDevice, LinksOfADevicePerRank) {
  const int ranks = devices();
  if (ranks < 2) GTEST_SKIP() << "needs two CUDA devices; there are " << ranks;
  for (const testing::LinkCase& one : testing::link_cases(ranks)) {
    SCOPED_TRACE(one.name);
    const Shards shards(one.shards);
    const auto errors = testing::on_ranks(ranks, kLong, [&](Communicator& comm) {
      cuda::select_device(comm.rank());
      cuda::CudaMemory memory(std::make_shared<cuda::Stream>());
      const auto link = make_tensor_link(comm, memory, shards);
      ASSERT_NE(dynamic_cast<nccl::NcclLink*>(link.get()), nullptr);
      testing::check_link(comm, memory, *link, shards);
      testing::check_broadcast(comm, memory, *link);
    });
    for (const std::string& error : errors) EXPECT_EQ(error, "");
  }
}

}  // namespace
}  // namespace biqa
