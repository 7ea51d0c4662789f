// SPDX-License-Identifier: Apache-2.0
// A model is not loaded if products of this processor and library are not the same for every batch and thread count.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "support/altered_products.h"
#include "support/tiny_model.h"

namespace biqa {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class LoadingCheck : public ::testing::TestWithParam<DType> {
 protected:
  std::string problem(const testing::AlteredProducts::Condition& altered, int threads = 1) const {
    const testing::AlteredProducts products(altered);
    return error_of([&] { testing::load(files_, GetParam(), threads); });
  }
  std::string start() const {
    return std::string("cannot use ") + name_of(GetParam()) + " on this processor: ";
  }

  testing::TinyModel files_;
};
INSTANTIATE_TEST_SUITE_P(Types, LoadingCheck, ::testing::Values(DType::f32, DType::bf16),
                         [](const auto& type) { return name_of(type.param); });

TEST_P(LoadingCheck, ProductsThatDependOnlyOnTheirRowsAreAccepted) {
  EXPECT_EQ(problem([](std::int64_t, int) { return false; }), "");
  EXPECT_EQ(problem([](std::int64_t, int) { return false; }, 2), "");
}

TEST_P(LoadingCheck, RowsThatDependOnTheirBatchAreRefused) {
  EXPECT_THAT(problem([](std::int64_t rows, int) { return rows == 1; }),
              AllOf(StartsWith(start() + "the bits of a row of the "),
                    HasSubstr(" differ between a batch of 1 and a larger one"),
                    HasSubstr("; set ONEDNN_MAX_CPU_ISA=")));
}

TEST_P(LoadingCheck, BitsThatDependOnTheThreadsAreRefused) {
  const auto altered = [](std::int64_t, int threads) { return threads == 2; };
  EXPECT_EQ(problem(altered, 1), "");
  EXPECT_THAT(problem(altered, 2),
              AllOf(StartsWith(start() + "the "), HasSubstr(" differ between 2 threads and one"),
                    HasSubstr("; set ONEDNN_MAX_CPU_ISA=")));
}

}  // namespace
}  // namespace biqa
