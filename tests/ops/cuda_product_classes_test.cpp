// SPDX-License-Identifier: Apache-2.0
// Which algorithms compute a product: with a library in host memory whose algorithms have planted differences.
#include "ops/cuda/product_classes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <set>
#include <vector>

#include "core/error.h"
#include "core/random.h"

namespace biqa::cuda {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::StartsWith;

/// The first word of an algorithm of PlantedLibrary.
enum Name : std::uint64_t {
  first = 10,       // the sum in the order of the inner width; then the bias, then y
  other_name,       // the same bits
  halves,           // the sum of each half apart
  tail,             // the last inner % 4 products apart, as in a library that takes four at a time
  on_top,           // starts the sum with y, which shows only if the product is added
  after_bias,       // starts the sum with the bias
  from_100_rows,    // other bits for 100 rows or more
  from_5000_rows,   // other bits in the last rows of 5000 or more
  few_rows_only,    // the same bits, but refuses more than 40 rows
  not_twenty_rows,  // the same bits, but refuses exactly 20 rows
};
Algorithm named(Name name) {
  return {{name, 7, 0, ~std::uint64_t{0}, 0, 0, 1, 2}};
}

class PlantedLibrary final : public ProductLibrary {
 public:
  std::string version() const override { return "planted 1"; }
  std::vector<Algorithm> candidates(const Product& /*product*/, std::int64_t rows, int most) override {
    std::vector<Algorithm> result;
    const auto found = proposals.find(rows);
    for (const Name name : found == proposals.end() ? otherwise : found->second) {
      if (static_cast<int>(result.size()) < most) result.push_back(named(name));
    }
    return result;
  }
  bool multiply(const ProductOperands& operands, const Algorithm& algorithm) override {
    const auto name = static_cast<Name>(algorithm.words[0]);
    EXPECT_EQ(algorithm, named(name));
    const std::int64_t rows = operands.y.rows();
    if ((name == few_rows_only && rows > 40) || (name == not_twenty_rows && rows == 20) || name == refused)
      return false;
    used.push_back(name);
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t o = 0; o < operands.y.columns(); ++o) write(operands, name, r, o);
    }
    return true;
  }

  std::map<std::int64_t, std::vector<Name>> proposals;  // by rows
  std::vector<Name> otherwise{first};
  std::vector<Name> used;
  Name refused{};

 private:
  static float value(ConstView matrix, std::int64_t r, std::int64_t c) {
    const std::int64_t at = r * matrix.stride() + c;
    if (matrix.type() == DType::bf16) return to_float(static_cast<const Bf16*>(matrix.address())[at]);
    return static_cast<const float*>(matrix.address())[at];
  }
  static void write(const ProductOperands& operands, Name name, std::int64_t r, std::int64_t o) {
    const auto& [x, weight, bias, y, transposed, accumulate] = operands;
    const float before = accumulate ? value(y, r, o) : 0;
    const float offset = bias.empty() ? 0 : value(bias, 0, o);
    const std::int64_t inner = x.columns();
    std::int64_t apart = inner;  // from here on, products have a sum of their own
    if (name == halves || (name == from_100_rows && y.rows() >= 100)) apart = inner / 2;
    if (name == from_5000_rows && y.rows() >= 5000 && r + 8 >= y.rows()) apart = inner / 2;
    if (name == tail) apart = inner - inner % 4;
    float sums[2] = {0, 0};
    if (name == on_top) sums[0] = before;
    if (name == after_bias) sums[0] = offset;
    for (std::int64_t i = 0; i < inner; ++i)
      sums[i >= apart] += value(x, r, i) * (transposed ? value(weight, o, i) : value(weight, i, o));
    float result = sums[0] + sums[1];
    if (name != after_bias) result += offset;
    if (name != on_top) result += before;
    const std::int64_t at = r * y.stride() + o;
    if (y.type() == DType::bf16)
      static_cast<Bf16*>(y.address())[at] = to_bf16(result);
    else
      static_cast<float*>(y.address())[at] = result;
  }
};

const Product kProduct = dense_product(DType::f32, DType::f32, 67, 5, true, false);

ProductClass classified(PlantedLibrary& library, const Product& product = kProduct) {
  ProductClasses classes(library);
  classes.classify(product, host_memory());
  return *classes.find(product);
}

/// The algorithms that compute a product with `rows` rows, and its bits.
std::pair<std::vector<Name>, std::vector<float>> multiplied(ProductClasses& classes, PlantedLibrary& library,
                                                            std::int64_t rows) {
  Tensor x(DType::f32, rows, kProduct.inner, "x"),
      weight(DType::f32, kProduct.outer, kProduct.inner, "weight");
  for (Tensor* values : {&x, &weight}) {
    std::uint64_t state = 3;
    for (float& value : values->span<float>())
      value = static_cast<float>(mix64(++state) >> 40) * 0x1.0p-23F - 1;
  }
  std::vector<float> y(static_cast<std::size_t>(rows * kProduct.outer));
  library.used.clear();
  classes.multiply({x.view(), weight.view(), {}, View(y.data(), rows, kProduct.outer), true, false});
  return {library.used, y};
}

TEST(ProductClasses, BucketsOfRows) {
  EXPECT_EQ(bucket_of(1), 0U);
  EXPECT_EQ(bucket_of(16), 0U);
  EXPECT_EQ(bucket_of(17), 1U);
  EXPECT_EQ(bucket_of(256), 2U);
  EXPECT_EQ(bucket_of(257), 3U);
  EXPECT_EQ(bucket_of(8192), 5U);
  EXPECT_EQ(bucket_of(8193), kRowBuckets.size());
}

TEST(ProductClasses, EachBucketTakesTheFirstMember) {
  PlantedLibrary library;
  library.proposals = {{16, {other_name, first}},
                       {64, {first, other_name}},
                       {1024, {halves, not_twenty_rows, other_name}},
                       {4096, {halves, tail}}};
  const ProductClass chosen = classified(library);
  EXPECT_EQ(chosen.anchor, named(first));
  const std::array<Algorithm, 6> expected{named(other_name),      named(first), named(first),
                                          named(not_twenty_rows), named(first), named(first)};
  EXPECT_EQ(chosen.choices, expected);
}

struct Planted {
  Name name;
  Product product;
};
class OtherBits : public ::testing::TestWithParam<Planted> {};

// The planted algorithm is the library's first proposal for every number of rows.
TEST_P(OtherBits, AreNeverChosen) {
  PlantedLibrary library;
  for (const std::int64_t rows : kRowBuckets) library.proposals[rows] = {GetParam().name, other_name, first};
  library.proposals[kAnchorRows] = {first};
  const ProductClass chosen = classified(library, GetParam().product);
  for (std::size_t b = 0; b < kRowBuckets.size(); ++b) {
    // For few rows some of them have the bits of the anchor.
    const bool allowed = (GetParam().name == from_100_rows && kRowBuckets[b] < 100) ||
                         (GetParam().name == from_5000_rows && kRowBuckets[b] < 5000);
    const Name expected = b == 2 ? first : allowed ? GetParam().name : other_name;
    EXPECT_EQ(chosen.choices[b], named(expected)) << kRowBuckets[b];
  }
}

const auto planted_product = [](DType type, std::int64_t inner, bool transposed, bool bias) {
  return dense_product(type, DType::f32, inner, 5, transposed, bias);
};
INSTANTIATE_TEST_SUITE_P(
    All, OtherBits,
    ::testing::Values(Planted{halves, planted_product(DType::f32, 67, true, false)},
                      Planted{halves, planted_product(DType::bf16, 64, false, false)},
                      Planted{halves, planted_product(DType::bf16, 3, true, true)},
                      Planted{tail, planted_product(DType::f32, 67, true, false)},
                      Planted{tail, planted_product(DType::bf16, 1027, true, true)},
                      Planted{tail, planted_product(DType::bf16, 131, false, false)},
                      Planted{on_top, planted_product(DType::bf16, 67, true, true)},
                      Planted{after_bias, planted_product(DType::bf16, 67, true, true)},
                      Planted{from_100_rows, planted_product(DType::bf16, 67, true, false)},
                      Planted{from_5000_rows, planted_product(DType::bf16, 67, true, false)},
                      Planted{halves, dense_product(DType::bf16, DType::bf16, 67, 5, true, false)}));

// A row of this product and its results take 288 bytes.
TEST(ProductClasses, WhatTakesTooMuchMemoryIsNotComparedAndNotUsed) {
  PlantedLibrary library;
  library.otherwise = {other_name};
  library.proposals[kAnchorRows] = {first};
  ProductClasses classes(library, std::int64_t{1024} * (67 + 5) * 4);
  classes.classify(kProduct, host_memory());
  const std::array<Algorithm, 6> expected{named(other_name), named(other_name), named(first),
                                          named(other_name), named(first),      named(first)};
  EXPECT_EQ(classes.find(kProduct)->choices, expected);
}

TEST(ProductClasses, MoreRowsThanTheLargestBucketUseTheAnchor) {
  PlantedLibrary library;
  library.otherwise = {other_name};
  library.proposals[kAnchorRows] = {first};
  ProductClasses classes(library);
  classes.classify(kProduct, host_memory());
  EXPECT_EQ(multiplied(classes, library, 8192).first, std::vector<Name>{other_name});
  EXPECT_EQ(multiplied(classes, library, 8193).first, std::vector<Name>{first});
}

TEST(ProductClasses, BitsDoNotDependOnTheNumberOfRows) {
  PlantedLibrary library;
  library.otherwise = {halves, tail, from_100_rows, other_name};
  library.proposals = {{16, {tail, few_rows_only}}, {256, {first}}};
  ProductClasses classes(library);
  ProductClasses anchor_only(library);
  classes.classify(kProduct, host_memory());
  std::set<Name> all;
  const auto whole = multiplied(anchor_only, library, 4100);
  EXPECT_EQ(whole.first, std::vector<Name>{first});
  for (const std::int64_t rows : {1, 5, 16, 17, 64, 65, 99, 100, 256, 257, 1024, 1025, 4100}) {
    const auto [used, y] = multiplied(classes, library, rows);
    all.insert(used.begin(), used.end());
    EXPECT_EQ(0, std::memcmp(y.data(), whole.second.data(), y.size() * sizeof(float))) << rows;
  }
  EXPECT_EQ(all, (std::set<Name>{first, other_name, few_rows_only, from_100_rows}));
}

TEST(ProductClasses, TheAnchorServesWhereNothingElseMatches) {
  PlantedLibrary library;
  library.otherwise = {halves, tail};
  library.proposals[kAnchorRows] = {first, tail};
  EXPECT_THAT(classified(library).choices, Each(named(first)));
}

/// What classify() throws for a library whose first answer for every number of rows is `anchor`.
std::string refusal(Name anchor, std::int64_t most_probed_bytes = std::int64_t{2} << 30) {
  PlantedLibrary library;
  library.otherwise = {anchor};
  ProductClasses classes(library, most_probed_bytes);
  try {
    classes.classify(kProduct, host_memory());
  } catch (const Error& error) {
    EXPECT_EQ(classes.find(kProduct), nullptr);
    return error.what();
  }
  return "";
}

TEST(ProductClasses, AnAnchorWhoseBitsDependOnTheRowsIsRefused) {
  EXPECT_EQ(refusal(first), "");
  EXPECT_EQ(refusal(halves), "") << "another order, but one for all rows";
  // The reference has 1024 rows.
  EXPECT_THAT(
      refusal(from_100_rows),
      StartsWith("cuBLASLt's algorithm for the 67x5 product of f32 cannot be used for a batch of 1 rows: it "
                 "refuses the batch, or it computes other bits of a row than in a batch of 1024."));
  EXPECT_THAT(refusal(from_5000_rows), HasSubstr("cannot be used for a batch of 6144 rows:"));
  EXPECT_EQ(refusal(from_5000_rows, std::int64_t{4096} * (67 + 5) * 4), "") << "takes too much memory";
}

TEST(ProductClasses, AnAlgorithmThatIsRefusedIsSkipped) {
  PlantedLibrary library;
  // It can compute the least rows of the bucket, but not the most.
  library.proposals[64] = {few_rows_only, other_name};
  library.proposals[16] = {few_rows_only, other_name};
  const ProductClass chosen = classified(library);
  EXPECT_EQ(chosen.choices[0], named(few_rows_only));
  EXPECT_EQ(chosen.choices[1], named(other_name));
}

TEST(ProductClasses, TheAnchorServesRowsThatTheChoiceRefuses) {
  PlantedLibrary library;
  library.proposals[64] = {not_twenty_rows};
  ProductClasses classes(library);
  classes.classify(kProduct, host_memory());
  EXPECT_EQ(multiplied(classes, library, 19).first, std::vector<Name>{not_twenty_rows});
  EXPECT_EQ(multiplied(classes, library, 20).first, std::vector<Name>{first});
  library.refused = first;
  try {
    multiplied(classes, library, 20);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(),
                StartsWith("cuBLASLt refuses 20 rows for its algorithm of the 67x5 product (f32)"));
  }
}

TEST(ProductClasses, WithoutAClassOnlyTheAnchorIsUsed) {
  PlantedLibrary library;
  library.otherwise = {other_name};
  library.proposals[kAnchorRows] = {first};
  ProductClasses classes(library);
  for (const std::int64_t rows : {1, 20, 300, 5000})
    EXPECT_EQ(multiplied(classes, library, rows).first, std::vector<Name>{first});
  EXPECT_EQ(classes.find(kProduct), nullptr);
  classes.classify(kProduct, host_memory());
  EXPECT_EQ(multiplied(classes, library, 20).first, std::vector<Name>{other_name});
}

TEST(ProductClasses, TheOnlyAlgorithmIsComparedWithItself) {
  PlantedLibrary library;
  EXPECT_THAT(classified(library).choices, Each(named(first)));
  EXPECT_FALSE(library.used.empty());
  EXPECT_THAT(library.used, Each(first));
  library.otherwise.clear();
  EXPECT_THROW(classified(library), Error);
}

TEST(ProductClasses, ReportsTheWholeClass) {
  PlantedLibrary library;
  library.proposals = {{16, {other_name, first, few_rows_only, halves}}, {1024, {tail, other_name}}};
  ProductClasses classes(library);
  const ClassReport report = classes.report(kProduct, host_memory());
  EXPECT_EQ(report.proposed, 5);
  EXPECT_EQ(report.members, 3);
}

class SavedClasses : public ::testing::Test {
 protected:
  SavedClasses() {
    library_.otherwise = {halves, other_name};
    library_.proposals[kAnchorRows] = {first};
    library_.proposals[16] = {few_rows_only};
    ProductClasses classes(library_);
    for (const Product& product : {kProduct, other_}) classes.classify(product, host_memory());
    text_ = classes.saved("key");
  }
  std::string restored(const std::string& text, const std::string& key = "key") {
    ProductClasses classes(library_);
    std::string problem = classes.restore(text, key);
    library_.used.clear();
    classes.classify(kProduct, host_memory());
    EXPECT_EQ(problem.empty(), library_.used.empty()) << "compares again exactly if nothing was restored";
    EXPECT_EQ(classes.find(kProduct)->choices[0], named(few_rows_only));
    return problem;
  }
  PlantedLibrary library_;
  const Product other_ = dense_product(DType::bf16, DType::f32, 67, 6, false, true);
  std::string text_;
};

TEST_F(SavedClasses, EveryProcessChoosesTheSame) {
  ProductClasses again(library_);
  for (const Product& product : {other_, kProduct}) again.classify(product, host_memory());
  EXPECT_EQ(again.saved("key"), text_);
}

TEST_F(SavedClasses, AreRestoredWithoutComparisons) {
  EXPECT_EQ(restored(text_), "");
  ProductClasses classes(library_);
  ASSERT_EQ(classes.restore(text_, "key"), "");
  EXPECT_EQ(classes.saved("key"), text_) << "also what this process does not use";
  ProductClasses compared(library_);
  for (const Product& product : {kProduct, other_}) {
    compared.classify(product, host_memory());
    classes.classify(product, host_memory());
    EXPECT_EQ(*classes.find(product), *compared.find(product));
  }
}

TEST_F(SavedClasses, AnotherAnchorIsComparedAgain) {
  library_.proposals[kAnchorRows] = {tail};
  ProductClasses classes(library_);
  ASSERT_EQ(classes.restore(text_, "key"), "");
  classes.classify(kProduct, host_memory());
  EXPECT_EQ(classes.find(kProduct)->anchor, named(tail));
  EXPECT_THAT(classes.find(kProduct)->choices, Each(named(tail)));
  EXPECT_NE(classes.saved("key"), text_);
}

TEST_F(SavedClasses, ForeignTextsAreRefused) {
  EXPECT_EQ(restored(text_, "other key"),
            "it was made for another device or library (key instead of other key)");
  EXPECT_EQ(restored(""), "it has another format");
  EXPECT_EQ(restored("biqa products 2" + text_.substr(15)), "it has another format");
}

TEST_F(SavedClasses, DamagedTextsAreRefused) {
  ProductClasses classes(library_);
  for (std::size_t at = 0; at < text_.size(); ++at) {
    std::string damaged = text_;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    EXPECT_NE(classes.restore(damaged, "key"), "") << at;
    EXPECT_NE(classes.restore(text_.substr(0, at), "key"), "") << at;
    EXPECT_NE(classes.restore(text_ + text_.substr(at), "key"), "") << at;
  }
  // Its digest fits, but not its parts.
  std::string lines = text_.substr(0, text_.rfind("digest "));
  const auto with_digest = [](const std::string& text) {
    char digits[17];
    std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash_text(text)));
    return text + "digest " + digits + "\n";
  };
  EXPECT_EQ(restored(with_digest(lines)), "");
  for (const std::size_t removed : {2U, 20U, 200U})
    EXPECT_THAT(restored(with_digest(lines.substr(0, lines.size() - removed) + "\n")),
                HasSubstr("a line cannot be read"));
  EXPECT_THAT(restored(with_digest(lines + "f32 f32 1\n")), HasSubstr("a line cannot be read"));
  EXPECT_THAT(restored(with_digest(lines.substr(0, lines.size() - 1) + " 0\n")),
              HasSubstr("a line cannot be read"));
}

}  // namespace
}  // namespace biqa::cuda
