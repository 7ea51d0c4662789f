// SPDX-License-Identifier: Apache-2.0
// A model on the CUDA backend whose products have classes of more than one algorithm (emulator).
#include <gtest/gtest.h>

#include <cstdlib>

#include "cuda_emulation/host_matmul.h"
#include "ops/cuda/cuda_ops.h"
#include "support/network_runs.h"

namespace biqa {
namespace {

using emulation::rows_of_algorithm;
using testing::generate;
using testing::TinyModel;

// The whole network: prompts and decoding use other algorithms than long batches, with the same bits.
TEST(CudaChoices, AModelUsesItsClassesAndKeepsItsBits) {
  setenv("BIQA_CUBLASLT_CACHE", "off", 1);
  emulation::proposals = emulation::Proposals::several;
  const TinyModel files{false};
  const auto load = [&] {
    return QwenVl::load(files.path(), std::make_shared<cuda::CudaOps>(DType::bf16), {true, true});
  };
  const auto model = load();
  for (std::int64_t& rows : rows_of_algorithm) rows = 0;
  const auto with_classes = generate(*model);
  EXPECT_EQ(rows_of_algorithm[1], 0) << "an algorithm with other bits";
  EXPECT_GT(rows_of_algorithm[2], 0) << "the member of the class that is proposed for few rows";
  emulation::proposals = emulation::Proposals::none;
  const auto plain = load();
  for (std::int64_t& rows : rows_of_algorithm) rows = 0;
  const auto without = generate(*plain);
  EXPECT_EQ(rows_of_algorithm[2], 0);
  ASSERT_EQ(with_classes.size(), without.size());
  for (const auto& [place, generated] : with_classes) {
    EXPECT_EQ(generated.ids, without.at(place).ids);
    EXPECT_EQ(generated.logp, without.at(place).logp);
  }
}

}  // namespace
}  // namespace biqa
