// SPDX-License-Identifier: Apache-2.0
// What tests/gpu.sh measures, at tiny shapes in the emulator: the figures are there, and what is wrong is seen.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "cuda_emulation/host_matmul.h"
#include "gpu/measures.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

using emulation::altered_rows;
using emulation::Proposals;
using emulation::proposals;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::StartsWith;

class CudaMeasures : public ::testing::Test {
 protected:
  void SetUp() override { proposals = Proposals::several; }
  void TearDown() override {
    proposals = Proposals::none;
    altered_rows = 0;
  }
  gpu::Report report() {
    return {[this](const std::string& line) { lines_.push_back(line); }};
  }
  const gpu::ModelShape& tiny_ = gpu::shape_of("tiny");
  std::vector<std::string> lines_;
};

TEST(RowOrder, HasEveryNumberOnceAndCoarseStepsFirst) {
  for (const std::int64_t most : {40, 96, 8192}) {
    std::set<std::int64_t> seen;
    std::int64_t stride = 0;
    for (const gpu::RowCount& next : gpu::order_of_rows(most)) {
      EXPECT_TRUE(seen.insert(next.rows).second) << next.rows;
      if (next.stride == 0) continue;
      stride = next.stride;
      for (std::int64_t rows = stride; rows <= most; rows += stride) EXPECT_TRUE(seen.contains(rows)) << rows;
    }
    EXPECT_EQ(stride, 1);
    EXPECT_EQ(static_cast<std::int64_t>(seen.size()), most);
    EXPECT_EQ(*seen.begin(), 1);
    EXPECT_EQ(*seen.rbegin(), most);
  }
}

TEST_F(CudaMeasures, Copy) {
  gpu::Report made = report();
  gpu::measure_copy(tiny_, made);
  EXPECT_THAT(lines_,
              ::testing::ElementsAre(MatchesRegex("figure: copy within the memory\\|[0-9.e+-]+\\|GB/s")));
}

TEST_F(CudaMeasures, ProductsOfOnes) {
  gpu::Report exact = report();
  gpu::check_ones(tiny_, exact);
  EXPECT_TRUE(exact.ok);
  EXPECT_THAT(lines_, IsSupersetOf({"figure: wrong ones|0|", "figure: shapes without an algorithm|0|"}));
  EXPECT_THAT(lines_, Contains(MatchesRegex("figure: inner widths\\|[2-9][0-9]\\|")));

  lines_.clear();
  altered_rows = 48;
  gpu::Report wrong = report();
  gpu::check_ones(tiny_, wrong);
  EXPECT_FALSE(wrong.ok);
  EXPECT_THAT(
      lines_,
      Contains("detail: 48 rows, inner width 1, weight transposed: 1920 elements are wrong, such as 2"));
}

TEST_F(CudaMeasures, PriceOfBatchInvariance) {
  gpu::Report made = report();
  gpu::measure_invariance(tiny_, {}, made);
  EXPECT_TRUE(made.ok);
  const std::regex time("detail: .*, 16 rows: ([0-9.]+) us, the fastest ([0-9.]+) us");
  int products = 0;
  for (const std::string& line : lines_) {
    std::smatch found;
    if (!std::regex_match(line, found, time)) continue;
    ++products;
    EXPECT_LE(std::stod(found[2]), std::stod(found[1]))
        << "ours is one of those that may be the fastest: " << line;
  }
  EXPECT_EQ(products, 17);
  EXPECT_THAT(lines_, Contains(MatchesRegex("figure: price of batch invariance for 16 rows\\|[0-9.e+-]+\\|% "
                                            "of a layer's products")));
}

TEST_F(CudaMeasures, OurAlgorithmsCostNothingIfThereAreNoOthers) {
  proposals = Proposals::none;
  gpu::Report made = report();
  gpu::measure_invariance(tiny_, {}, made);
  EXPECT_THAT(lines_, Contains("figure: price of batch invariance for 16 rows|0|% of a layer's products"));
}

TEST_F(CudaMeasures, EveryNumberOfRows) {
  gpu::Report made = report();
  gpu::check_rows(tiny_, {}, 1e6, made);
  EXPECT_TRUE(made.ok);
  EXPECT_THAT(lines_, ::testing::ElementsAre("figure: numbers of rows|24|of 24", "figure: products|17|",
                                             "figure: other bits|0|times"));
}

// The first check of a class tries three numbers of rows in each bucket; this one tries all.
TEST_F(CudaMeasures, ANumberOfRowsWithOtherBits) {
  altered_rows = 20;
  gpu::Report made = report();
  gpu::check_rows(tiny_, {}, 1e6, made);
  EXPECT_FALSE(made.ok);
  EXPECT_THAT(lines_, Contains("detail: query, key, value: other bits among 20 rows"));
  EXPECT_THAT(lines_, Contains("figure: other bits|17|times"));
}

TEST_F(CudaMeasures, ACheckWithoutTimeIsNoSuccess) {
  gpu::Report made = report();
  gpu::check_rows(tiny_, {}, 0, made);
  EXPECT_FALSE(made.ok);
  EXPECT_THAT(lines_, Contains(StartsWith("detail: the time was over")));
}

TEST_F(CudaMeasures, ChoicesAreKeptInAFile) {
  const TemporaryFolder folder;
  const auto file = folder.path() / "classes.txt";
  const auto rows_of_a_check = [&] {
    for (std::int64_t& rows : emulation::rows_of_algorithm) rows = 0;
    gpu::Report made = report();
    gpu::measure_invariance(tiny_, file, made);
    return emulation::rows_of_algorithm[1];  // only comparisons and the free library use this one
  };
  const std::int64_t first = rows_of_a_check();
  EXPECT_TRUE(std::filesystem::exists(file));
  EXPECT_LT(rows_of_a_check(), first);
}

TEST_F(CudaMeasures, EachKernelAlone) {
  gpu::Report made = report();
  gpu::measure_kernels(tiny_, made);
  EXPECT_TRUE(made.ok);
  std::size_t kernels = 0;
  for (std::size_t i = 0; i + 2 < lines_.size(); i += 3) {
    EXPECT_THAT(lines_[i], MatchesRegex("figure: time\\|[0-9.e+-]+\\|us"));
    EXPECT_THAT(lines_[i + 1], MatchesRegex("figure: computed\\|[0-9.e+-]+\\|% of the time"));
    EXPECT_THAT(lines_[i + 2], StartsWith("line: "));
    ++kernels;
  }
  EXPECT_EQ(3 * kernels, lines_.size());
  EXPECT_THAT(lines_, IsSupersetOf({"line: attention, decoding", "line: attention_backward, learner",
                                    "line: sample, decoding", "line: squared_norm"}));
  EXPECT_THAT(lines_, Not(Contains(HasSubstr("nan"))));
}

}  // namespace
}  // namespace biqa
