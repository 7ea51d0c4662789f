// SPDX-License-Identifier: Apache-2.0
#include "io/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "core/random.h"
#include "support/shared_folder.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
namespace fs = std::filesystem;

std::string container(std::uint64_t header_bytes, const std::string& header, const std::string& data) {
  std::string length(sizeof(header_bytes), '\0');
  std::memcpy(length.data(), &header_bytes, sizeof(header_bytes));
  return length + header + data;
}
std::string container(const std::string& header, const std::string& data = "") {
  return container(header.size(), header, data);
}

template <typename T>
std::span<const std::byte> bytes_of(const T& values) {
  return std::as_bytes(std::span(values));
}

// A small file with every kind of case: three types, a scalar, a tensor without elements, metadata.
const std::array<float, 6> kMatrix{0.0F, 1.0F, -2.5F, 1e-30F, 3.14159274F, -0.0F};
const std::array<std::uint16_t, 2> kHalves{0x3c00, 0xc500};  // 1, -5
const std::array<std::int64_t, 1> kScalar{-7};

void write_example(const fs::path& path) {
  const std::vector<NamedTensor> tensors{{"half", StoredType::f16, {2}, bytes_of(kHalves)},
                                         {"b.matrix", StoredType::f32, {2, 3}, bytes_of(kMatrix)},
                                         {"a.none", StoredType::f32, {0, 3}, {}},
                                         {"scalar", StoredType::i64, {}, bytes_of(kScalar)}};
  write_safetensors(path, tensors, {{"format", "pt"}, {"note", "\"quoted\""}});
}

TEST(Safetensors, WritesInTheOrderOfTheReference) {
  const TemporaryFolder folder;
  write_example(folder.path() / "x");
  const std::string content = file_content(folder.path() / "x");
  const std::string header =
      R"({"__metadata__":{"format":"pt","note":"\"quoted\""},"scalar":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
      R"("a.none":{"dtype":"F32","shape":[0,3],"data_offsets":[8,8]},)"
      R"("b.matrix":{"dtype":"F32","shape":[2,3],"data_offsets":[8,32]},)"
      R"("half":{"dtype":"F16","shape":[2],"data_offsets":[32,36]}})";
  EXPECT_EQ(content.substr(8, header.size()), header);
  EXPECT_EQ(content.find_first_not_of(' ', 8 + header.size()) % 8, 0U);
}

TEST(Safetensors, ReadsBackWithoutCopying) {
  const TemporaryFolder folder;
  write_example(folder.path() / "x");
  const Safetensors file = Safetensors::open(folder.path() / "x");
  EXPECT_EQ(file.metadata().at("note"), "\"quoted\"");
  ASSERT_EQ(file.tensors().size(), 4U);
  EXPECT_EQ(file.tensors()[0].name, "scalar");
  EXPECT_TRUE(file.has("half"));
  EXPECT_FALSE(file.has("__metadata__"));
  EXPECT_THAT(error_of([&] { (void)file.at("absent"); }), AllOf(HasSubstr("absent"), HasSubstr("/x")));

  const StoredTensor& matrix = file.at("b.matrix");
  EXPECT_THAT(matrix.shape, ElementsAre(2, 3));
  EXPECT_EQ(matrix.elements(), 6);
  std::vector<float> floats(6);
  matrix.copy_to(floats);
  EXPECT_TRUE(std::ranges::equal(bytes_of(floats), bytes_of(kMatrix)));  // the sign of zero too
  std::vector<Bf16> brains(6);
  matrix.copy_to(brains);
  for (std::size_t i = 0; i < brains.size(); ++i) EXPECT_EQ(brains[i].bits, to_bf16(kMatrix[i]).bits);

  std::vector<float> halves(2);
  file.at("half").copy_to(halves);
  EXPECT_THAT(halves, ElementsAre(1.0F, -5.0F));
  std::vector<Bf16> half_brains(2);
  file.at("half").copy_to(half_brains);
  EXPECT_EQ(to_float(half_brains[1]), -5.0F);

  EXPECT_EQ(file.at("scalar").elements(), 1);
  EXPECT_EQ(file.at("a.none").elements(), 0);
  std::vector<float> one(1);
  EXPECT_THAT(error_of([&] { file.at("scalar").copy_to(one); }),
              AllOf(HasSubstr("scalar"), HasSubstr("I64")));
  std::vector<float> none;
  EXPECT_NO_THROW(file.at("a.none").copy_to(none));
}

// Other writers need not align: the header here has an odd length.
TEST(Safetensors, TensorsMayStartAtAnyAddress) {
  const TemporaryFolder folder;
  for (std::size_t padding = 0; padding < 8; ++padding) {
    const std::string header = R"({"u":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                               R"("x":{"dtype":"BF16","shape":[2],"data_offsets":[1,5]},)"
                               R"("y":{"dtype":"F32","shape":[1],"data_offsets":[5,9]}})" +
                               std::string(padding, ' ');
    const std::string data("\x07\x80\x3f\x00\xc0\x00\x00\xc0\x40", 9);
    const Safetensors file = Safetensors::open(folder.write("odd", container(header, data)));
    std::vector<float> x(2), y(1);
    file.at("x").copy_to(x);
    file.at("y").copy_to(y);
    EXPECT_THAT(x, ElementsAre(1.0F, -2.0F));
    EXPECT_THAT(y, ElementsAre(6.0F));
    std::vector<Bf16> brain(2);
    file.at("x").copy_to(brain);
    EXPECT_EQ(to_float(brain[1]), -2.0F);
  }
}

TEST(Safetensors, AnEmptyFileIsLegal) {
  const TemporaryFolder folder;
  EXPECT_TRUE(Safetensors::open(folder.write("x", container("{}"))).tensors().empty());
  write_safetensors(folder.path() / "y", {}, {});
  EXPECT_TRUE(Safetensors::open(folder.path() / "y").tensors().empty());
}

TEST(Safetensors, EveryTypeOfTheFormatIsKnown) {
  const TemporaryFolder folder;
  std::string header = "{";
  std::size_t offset = 0;
  for (int i = 0; i <= static_cast<int>(StoredType::u64); ++i) {
    const auto type = static_cast<StoredType>(i);
    const std::size_t bytes = static_cast<std::size_t>(bits_of(type));  // eight elements
    header += fmt::format(R"({}"{:02}":{{"dtype":"{}","shape":[8],"data_offsets":[{},{}]}})",
                          i == 0 ? "" : ",", i, name_of(type), offset, offset + bytes);
    offset += bytes;
  }
  const Safetensors file =
      Safetensors::open(folder.write("x", container(header + "}", std::string(offset, 'x'))));
  ASSERT_EQ(file.tensors().size(), 22U);
  for (int i = 0; i < 22; ++i)
    EXPECT_EQ(file.tensors()[static_cast<std::size_t>(i)].type, static_cast<StoredType>(i));
}

struct Refusal {
  const char* name;
  std::string content;
  const char* reason;
};

std::string one_tensor(const std::string& dtype, const std::string& shape, const std::string& offsets,
                       std::size_t data_bytes) {
  return container(
      R"({"t":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}",
      std::string(data_bytes, '\0'));
}
std::string two_tensors(const std::string& first, const std::string& second, std::size_t data_bytes) {
  return container(R"({"t":{"dtype":"U8","shape":[4],"data_offsets":)" + first +
                       R"(},"u":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}",
                   std::string(data_bytes, '\0'));
}

class SafetensorsRefusal : public testing::TestWithParam<Refusal> {};

TEST_P(SafetensorsRefusal, NamesFileAndReason) {
  const TemporaryFolder folder;
  const fs::path file = folder.write("model.safetensors", GetParam().content);
  const std::string message = error_of([&] { Safetensors::open(file); });
  EXPECT_THAT(message, AllOf(HasSubstr("cannot read " + file.string()), HasSubstr(GetParam().reason)));
  EXPECT_EQ(message.find('\n'), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(
    All, SafetensorsRefusal,
    testing::Values(
        Refusal{"Empty", "", "0 bytes are too few"},
        Refusal{"SevenBytes", std::string({1, 0, 0, 0, 0, 0, 0}), "too few"},
        Refusal{"HugeHeader", container(100000001, "{}", ""), "100000001 bytes, more than the 100000000"},
        Refusal{"LargestHeader", container(std::numeric_limits<std::uint64_t>::max(), "{}", ""), "more than"},
        Refusal{"HeaderBeyondFile", container(3, "{}", ""), "the file has only 10"},
        Refusal{"NoHeader", container(""), "does not start with '{'"},
        Refusal{"SpaceFirst", container(" {}"), "does not start with '{'"},
        Refusal{"NotJson", container("{]"), "not valid JSON"},
        Refusal{"HeaderTail", container("{}x"), "not valid JSON"},
        Refusal{"BadUtf8", container("{\"\xc3\":1}"), "not valid JSON"},
        Refusal{"EntryNoObject", container(R"({"t":1})"), "\"t\" is 1, not an object"},
        Refusal{"DuplicateName",
                container(R"({"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                          R"("t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})"),
                "\"t\" occurs twice"},
        Refusal{"MetadataNoObject", container(R"({"__metadata__":[]})"), "__metadata__ is []"},
        Refusal{"MetadataNoText", container(R"({"__metadata__":{"a":1}})"), "__metadata__.a is 1"},
        Refusal{"UnknownField",
                container(R"({"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"stride":1}})"),
                "\"stride\""},
        Refusal{"NoType", container(R"({"t":{"shape":[0],"data_offsets":[0,0]}})"), "dtype is missing"},
        Refusal{"NoShape", container(R"({"t":{"dtype":"U8","data_offsets":[0,0]}})"), "shape is missing"},
        Refusal{"NoOffsets", container(R"({"t":{"dtype":"U8","shape":[0]}})"), "data_offsets is missing"},
        Refusal{"UnknownType", one_tensor("\"F12\"", "[4]", "[0,4]", 4), "unknown dtype \"F12\""},
        Refusal{"TypeNoText", one_tensor("8", "[4]", "[0,4]", 4), "dtype is 8"},
        Refusal{"WrongType", one_tensor("\"F32\"", "[4]", "[0,8]", 8),
                "needs 16 bytes, but its data_offsets span 8"},
        Refusal{"NegativeSize", one_tensor("\"U8\"", "[-1,-4]", "[0,4]", 4), "sizes that are not negative"},
        Refusal{"FractionalSize", one_tensor("\"U8\"", "[4.0]", "[0,4]", 4), "a list of integers"},
        Refusal{"ShapeNoList", one_tensor("\"U8\"", "4", "[0,4]", 4), "a list of integers"},
        Refusal{"ElementsOverflow", one_tensor("\"U8\"", "[4294967296,4294967296]", "[0,0]", 0),
                "an impossibly large shape"},
        Refusal{"BitsOverflow", one_tensor("\"F64\"", "[2305843009213693952]", "[0,0]", 0),
                "an impossibly large shape"},
        Refusal{"SizeOverflow", one_tensor("\"U8\"", "[18446744073709551615]", "[0,4]", 4),
                "a list of integers"},
        Refusal{"HalfAByte", one_tensor("\"F4\"", "[3]", "[0,1]", 1), "whole number of bytes"},
        Refusal{"OneOffset", one_tensor("\"U8\"", "[4]", "[0]", 4), "[begin, end]"},
        Refusal{"ThreeOffsets", one_tensor("\"U8\"", "[4]", "[0,4,4]", 4), "[begin, end]"},
        Refusal{"BackwardOffsets", one_tensor("\"U8\"", "[4]", "[4,0]", 4), "[begin, end]"},
        Refusal{"NegativeOffset", one_tensor("\"U8\"", "[4]", "[-4,0]", 4), "[begin, end]"},
        Refusal{"HoleAtStart", one_tensor("\"U8\"", "[4]", "[4,8]", 8), "leaving a gap"},
        Refusal{"Hole", two_tensors("[0,4]", "[5,9]", 9),
                "\"u\" begins at byte 5 of the data, leaving a gap"},
        Refusal{"Overlap", two_tensors("[0,4]", "[3,7]", 7),
                "\"u\" begins at byte 3 of the data, overlapping"},
        Refusal{"SamePlace", two_tensors("[0,4]", "[0,4]", 4), "overlapping"},
        Refusal{"Truncated", two_tensors("[0,4]", "[4,8]", 7),
                "\"u\" ends at byte 8 of the data, but there are only 7"},
        Refusal{"TrailingBytes", two_tensors("[0,4]", "[4,8]", 11), "3 bytes follow the last tensor"},
        Refusal{"DataWithoutTensors", container("{}", "x"), "1 bytes follow"}),
    [](const auto& row) { return row.param.name; });

// A file is either read or refused with an Error that names it: nothing else may happen. True when it was read.
bool survives(const fs::path& file) {
  try {
    const Safetensors opened = Safetensors::open(file);
    for (const StoredTensor& tensor : opened.tensors()) {
      if (!tensor.is_float()) continue;
      std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
      tensor.copy_to(values);
    }
    return true;
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr(file.string()));
    return false;
  }
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const TemporaryFolder folder;
  write_example(folder.path() / "whole");
  const std::string content = file_content(folder.path() / "whole");
  ASSERT_TRUE(survives(folder.path() / "whole"));
  for (std::size_t length = 0; length < content.size(); ++length) {
    EXPECT_FALSE(survives(folder.write("cut", content.substr(0, length)))) << length << " bytes";
  }
}

TEST(Safetensors, NoDamageCrashes) {
  const TemporaryFolder folder;
  write_example(folder.path() / "whole");
  const std::string content = file_content(folder.path() / "whole");
  const RandomStream random({hash_text("safetensors damage")});
  int refused = 0;
  constexpr std::uint64_t kTrials = 800;
  for (std::uint64_t trial = 0; trial < kTrials; ++trial) {
    std::string damaged = content;
    for (std::uint64_t flip = 0; flip <= trial % 3; ++flip) {
      const std::uint64_t word = random.word(trial * 3 + flip);
      damaged[word % damaged.size()] = static_cast<char>(word >> 56);
    }
    refused += survives(folder.write("damaged", damaged)) ? 0 : 1;
  }
  EXPECT_GT(refused, static_cast<int>(kTrials / 2));
}

// The reference's own files, written again, have the same bytes.
TEST(Safetensors, WritesWhatTheReferenceWrites) {
  BIQA_REQUIRE_SHARED(shared);
  const TemporaryFolder folder;
  int files = 0;
  for (const auto& entry : fs::directory_iterator(shared / "golden/adapters")) {
    const fs::path path = entry.path() / "adapter_model.safetensors";
    const Safetensors file = Safetensors::open(path);
    std::vector<NamedTensor> tensors;
    for (const StoredTensor& tensor : file.tensors()) {
      tensors.push_back({tensor.name, tensor.type, tensor.shape, tensor.bytes});
    }
    write_safetensors(folder.path() / "copy", tensors, file.metadata());
    EXPECT_EQ(file_content(folder.path() / "copy"), file_content(path)) << path;
    ++files;
  }
  EXPECT_GE(files, 5);
}

}  // namespace
}  // namespace biqa
