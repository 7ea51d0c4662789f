// SPDX-License-Identifier: Apache-2.0
#include "io/hdf5.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <limits>
#include <numeric>
#include <thread>

#include "core/error.h"
#include "core/random.h"
#include "support/failing_calls.h"
#include "support/shared_folder.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

const fs::path kFixture = BIQA_SOURCE_DIR "/tests/fixtures/checkpoint/h5py.h5";
using Shape = std::vector<std::int64_t>;

void write_example(const fs::path& path) {
  Hdf5Writer file(path);
  const std::vector<float> floats{1.5F, -2.0F, 3.0F, std::numeric_limits<float>::quiet_NaN(), 0.0F, 1e-40F};
  const std::vector<double> doubles{0.1};
  const std::vector<std::int64_t> integers{std::numeric_limits<std::int64_t>::min(), 7};
  const std::vector<std::uint8_t> bytes{0, 255};
  file.dataset("a/b/floats", std::span<const float>(floats), {2, 3});
  file.dataset("a/deflated", std::span<const float>(floats), {3, 2}, true);
  file.dataset("doubles", std::span<const double>(doubles), {});
  file.dataset("integers", std::span<const std::int64_t>(integers), {2}, true);
  file.dataset("bytes", std::span<const std::uint8_t>(bytes), {2, 1});
  file.dataset("none", std::span<const float>(), {0, 4}, true);
  const std::vector<std::string> texts{"base_model.x", "", "größer"};
  file.dataset("texts", std::span<const std::string>(texts));
  file.group("a/empty");
  file.group("a");
  file.soft_link("/a/b/floats", "a/link");
  file.attribute("/", "step", 12);
  file.attribute("/", "large", std::int64_t{1} << 60);
  file.attribute("/", "lr", 1e-6);
  file.attribute("/", "ratio", 0.5F);
  file.attribute("/", "yes", true);
  file.attribute("/", "no", false);
  file.attribute("/", "loss", "grpo");
  file.attribute("/", "targets", texts);
  file.attribute("a", "nan", std::numeric_limits<double>::quiet_NaN());
  file.attribute("a/b/floats", "text", std::string("line\nbreak ü"));
  file.attribute("a/b/floats", "nul", std::string("a\0b", 3));
  file.attribute("a/b/floats", "long", std::string(200000, 'x'));
  file.close();
}

TEST(Hdf5, ReadsWhatItWrote) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "x.h5";
  write_example(path);
  const Hdf5File file(path);
  Shape shape;
  const std::vector<float> floats = file.read_f32("a/b/floats", &shape);
  EXPECT_EQ(shape, (Shape{2, 3}));
  EXPECT_EQ(floats[0], 1.5F);
  EXPECT_TRUE(std::isnan(floats[3]));
  EXPECT_EQ(floats[5], 1e-40F);
  EXPECT_EQ(file.read_f32("/a/link", &shape).size(), 6U);
  EXPECT_EQ(file.read_f32("a/deflated")[2], 3.0F);
  EXPECT_EQ(file.shape("a/deflated"), (Shape{3, 2}));
  EXPECT_THAT(file.read_f64("doubles", &shape), ElementsAre(0.1));
  EXPECT_TRUE(shape.empty());
  EXPECT_THAT(file.read_i64("integers"), ElementsAre(std::numeric_limits<std::int64_t>::min(), 7));
  EXPECT_THAT(file.read_u8("bytes"), ElementsAre(0, 255));
  EXPECT_THAT(file.read_i64("bytes"), ElementsAre(0, 255));
  EXPECT_TRUE(file.read_f32("none", &shape).empty());
  EXPECT_EQ(shape, (Shape{0, 4}));
  EXPECT_THAT(file.read_texts("texts"), ElementsAre("base_model.x", "", "größer"));

  EXPECT_TRUE(file.exists("/"));
  EXPECT_TRUE(file.exists("a/empty"));
  EXPECT_FALSE(file.exists("a/absent"));
  EXPECT_FALSE(file.exists("absent/floats"));
  EXPECT_FALSE(file.exists("bytes/floats"));
  EXPECT_TRUE(file.is_dataset("a/link"));
  EXPECT_FALSE(file.is_dataset("a"));
  EXPECT_THAT(file.children("a"), ElementsAre("b", "deflated", "empty", "link"));
  EXPECT_THAT(file.children("a/empty"), ElementsAre());

  EXPECT_EQ(file.attribute_i64("/", "step"), 12);
  EXPECT_EQ(file.attribute_i64("/", "large"), std::int64_t{1} << 60);
  EXPECT_EQ(file.attribute_f64("/", "step"), 12.0);
  EXPECT_EQ(file.attribute_f64("/", "lr"), 1e-6);
  EXPECT_EQ(file.attribute_f64("/", "ratio"), 0.5);
  EXPECT_TRUE(file.attribute_bool("/", "yes"));
  EXPECT_FALSE(file.attribute_bool("/", "no"));
  EXPECT_EQ(file.attribute_text("/", "loss"), "grpo");
  EXPECT_THAT(file.attribute_texts("/", "targets"), ElementsAre("base_model.x", "", "größer"));
  EXPECT_TRUE(std::isnan(file.attribute_f64("a", "nan")));
  EXPECT_EQ(file.attribute_text("a/b/floats", "text"), "line\nbreak ü");
  EXPECT_EQ(file.attribute_text("a/link", "nul"), std::string("a\0b", 3));
  EXPECT_EQ(file.attribute_text("a/b/floats", "long"), std::string(200000, 'x'));
  EXPECT_TRUE(file.has_attribute("/", "lr"));
  EXPECT_FALSE(file.has_attribute("/", "absent"));
  EXPECT_FALSE(file.has_attribute("absent", "lr"));
  EXPECT_THAT(file.attributes("a/b/floats"), ElementsAre("long", "nul", "text"));
}

TEST(Hdf5, ErrorsNameFileAndObject) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "x.h5";
  write_example(path);
  const Hdf5File file(path);
  const auto names = [&](const char* object) { return AllOf(HasSubstr(path.string()), HasSubstr(object)); };
  EXPECT_THAT(error_of([&] { file.read_f32("a/absent"); }), names("a/absent"));
  EXPECT_THAT(error_of([&] { file.read_f32("a"); }), names("cannot read a of"));
  EXPECT_THAT(error_of([&] { file.read_i64("doubles"); }), names("doubles"));
  EXPECT_THAT(error_of([&] { file.read_u8("integers"); }), names("wider type"));
  EXPECT_THAT(error_of([&] { file.read_f32("texts"); }), names("does not hold numbers"));
  EXPECT_THAT(error_of([&] { file.read_texts("doubles"); }), names("it is not text"));
  EXPECT_THAT(error_of([&] { file.children("bytes"); }), names("bytes"));
  EXPECT_THAT(error_of([&] { file.attribute_i64("/", "lr"); }), names("/@lr"));
  EXPECT_THAT(error_of([&] { file.attribute_f64("/", "loss"); }), names("/@loss"));
  EXPECT_THAT(error_of([&] { file.attribute_text("/", "targets"); }), names("not one text"));
  EXPECT_THAT(error_of([&] { file.attribute_text("/", "absent"); }), names("/@absent"));
  EXPECT_THAT(error_of([&] { Hdf5File{folder.path() / "absent.h5"}; }), HasSubstr("absent.h5"));
  EXPECT_THAT(error_of([&] { Hdf5File{folder.write("text", "no HDF5")}; }),
              HasSubstr("it is not an HDF5 file"));
}

TEST(Hdf5, AppearsOnlyWhenClosed) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "x.h5";
  const std::vector<float> values{1};
  {
    Hdf5Writer file(path);
    file.dataset("x", std::span<const float>(values), {1});
    EXPECT_THAT(error_of([&] { file.dataset("x", std::span<const float>(values), {1}); }),
                HasSubstr("cannot write x"));
    EXPECT_THAT(error_of([&] { file.attribute("absent", "a", 1); }), HasSubstr("absent@a"));
    EXPECT_THAT(error_of([&] { file.attribute("x", "a", std::string(100000, '\0')); }), HasSubstr("NUL"));
    EXPECT_FALSE(fs::exists(path));
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));
  EXPECT_THAT(error_of([&] { Hdf5Writer{folder.path() / "absent" / "x.h5"}; }), HasSubstr("cannot write"));
}

// A limit on the size of files stands in for a full disk; it holds for a process, hence the child.
TEST(Hdf5DeathTest, ReportsAFullDiskAndLeavesNothing) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const TemporaryFolder folder;
  const auto write_too_much = [&] {
    ASSERT_NE(std::signal(SIGXFSZ, SIG_IGN), SIG_ERR);
    const rlimit limit{100000, 100000};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
    const std::vector<float> values(50000, 1.0F);
    for (const bool large : {true, false}) {
      const std::string message = error_of([&] {
        Hdf5Writer file(folder.path() / "x.h5");
        // One write beyond the limit, or metadata that go out with close().
        if (large) file.dataset("values", std::span<const float>(values), {50000});
        for (int i = 0; i < 3000; ++i) file.group(fmt::format("groups/{}", i));
        file.close();
      });
      std::fputs((message + "\n").c_str(), stderr);
    }
    std::exit(fs::is_empty(folder.path()) ? 3 : 4);
  };
  EXPECT_EXIT(write_too_much(), ::testing::ExitedWithCode(3),
              "cannot write .*x.h5: File too large;.*\n.*cannot write .*x.h5: File too large;");
}

TEST(Hdf5, SameContentGivesTheSameBytes) {
  const TemporaryFolder folder;
  write_example(folder.path() / "x.h5");
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // times of day would count seconds
  write_example(folder.path() / "y.h5");
  EXPECT_EQ(file_content(folder.path() / "x.h5"), file_content(folder.path() / "y.h5"));
}

TEST(Hdf5, ThreadsMayWriteAtOnce) {
  const TemporaryFolder folder;
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 5; ++i) write_example(folder.path() / fmt::format("{}-{}.h5", t, i));
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::string first = file_content(folder.path() / "0-0.h5");
  for (const auto& entry : fs::directory_iterator(folder.path()))
    EXPECT_EQ(file_content(entry.path()), first);
}

TEST(Hdf5, ReadsWhatH5pyWrites) {
  const Hdf5File file(kFixture);
  EXPECT_EQ(file.attribute_text("/", "text"), "größer");
  EXPECT_EQ(file.attribute_text("/", "bytes"), "fixed");
  EXPECT_THAT(file.attribute_texts("/", "texts"), ElementsAre("a", "bc", ""));
  EXPECT_THAT(file.attribute_texts("/", "fixed_texts"), ElementsAre("x", "yz"));
  EXPECT_TRUE(file.attribute_bool("/", "true"));
  EXPECT_FALSE(file.attribute_bool("/", "false"));
  EXPECT_EQ(file.attribute_i64("/", "int"), 7);
  EXPECT_EQ(file.attribute_i64("/", "int32"), -5);
  EXPECT_THAT(error_of([&] { file.attribute_i64("/", "uint64"); }), HasSubstr("wider integer type"));
  EXPECT_EQ(file.attribute_f64("/", "uint64"), 0x1p63);
  EXPECT_EQ(file.attribute_f64("/", "float"), 0.1);
  EXPECT_EQ(file.attribute_f64("/", "float32"), 0.5);
  EXPECT_EQ(file.attribute_f64("/", "one_element"), 3.5);
  EXPECT_THAT(error_of([&] { file.attribute_f64("/", "two_elements"); }), HasSubstr("not one value"));
  Shape shape;
  EXPECT_THAT(file.read_f32("group/f32", &shape), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_EQ(shape, (Shape{2, 3}));
  EXPECT_THAT(file.read_f32("group/link"), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(file.read_f64("group/f64_big_endian"), ElementsAre(1.5, -2.5));
  EXPECT_THAT(file.read_f32("group/f16"), ElementsAre(0.5F, 65504.0F));
  EXPECT_THAT(file.read_i64("group/i32"), ElementsAre(1, -2));
  EXPECT_THAT(file.read_f32("group/i32"), ElementsAre(1, -2));
  EXPECT_THAT(error_of([&] { file.read_i64("group/u64"); }), HasSubstr("wider type"));
  EXPECT_THAT(file.read_u8("group/u8"), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(file.read_f64("group/scalar"), ElementsAre(2.5));
  EXPECT_TRUE(file.read_f32("group/none").empty());
  EXPECT_THAT(file.read_texts("group/texts"), ElementsAre("eins", "zwei"));
  EXPECT_EQ(file.read_f32("group/deflated"), std::vector<float>(1000));
  EXPECT_FALSE(file.exists("group/broken"));
  EXPECT_THAT(error_of([&] { file.read_f32("group/broken"); }), HasSubstr("group/broken"));
  EXPECT_THAT(error_of([&] { file.read_f32("group/never_written"); }), HasSubstr("never written"));
  EXPECT_THAT(error_of([&] { file.read_f32("group/bomb"); }),
              HasSubstr("1000000000000 elements, more than fit into the file"));
}

// A file is either read or refused with an Error. True when all of it was read.
bool survives(const fs::path& path) {
  try {
    const Hdf5File file(path);
    for (const std::string& group : {std::string("/"), std::string("a"), std::string("a/b")}) {
      for (const std::string& name : file.attributes(group)) {
        try {
          (void)file.attribute_texts(group, name);
        } catch (const Error&) {
          (void)file.attribute_f64(group, name);
        }
      }
      for (const std::string& name : file.children(group)) {
        const std::string object = fmt::format("{}/{}", group, name);
        if (!file.is_dataset(object)) continue;
        if (name == "texts")
          (void)file.read_texts(object);
        else
          (void)file.read_f64(object);
      }
    }
    return true;
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr(path.string()));
    return false;
  }
}

TEST(Hdf5, TruncationIsRefused) {
  const TemporaryFolder folder;
  write_example(folder.path() / "whole");
  const std::string content = file_content(folder.path() / "whole");
  ASSERT_TRUE(survives(folder.path() / "whole"));
  for (std::size_t length = 0; length < content.size(); length += 997) {
    EXPECT_FALSE(survives(folder.write("cut", content.substr(0, length)))) << length;
  }
}

// The metadata of our files carry checksums. (The library's heap of variable-length texts has none, so no
// such text here.)
TEST(Hdf5, NoDamageCrashes) {
  const TemporaryFolder folder;
  const std::vector<float> values{1, 2, 3, 4, 5, 6};
  {
    Hdf5Writer file(folder.path() / "whole");
    file.dataset("a/b/floats", std::span<const float>(values), {2, 3});
    file.dataset("a/deflated", std::span<const float>(values), {6}, true);
    file.dataset("texts", std::vector<std::string>{"x", "größer"});
    file.soft_link("/a/b/floats", "a/link");
    file.attribute("a", "yes", true);
    file.attribute("a", "number", 0.1);
    file.close();
  }
  ASSERT_TRUE(survives(folder.path() / "whole"));
  const std::string content = file_content(folder.path() / "whole");
  const RandomStream random({hash_text("hdf5 damage")});
  int refused = 0;
  constexpr std::uint64_t kTrials = 300;
  for (std::uint64_t trial = 0; trial < kTrials; ++trial) {
    std::string damaged = content;
    for (std::uint64_t flip = 0; flip <= trial % 3; ++flip) {
      const std::uint64_t word = random.word(trial * 3 + flip);
      damaged[word % damaged.size()] = static_cast<char>(word >> 56);
    }
    refused += survives(folder.write("damaged", damaged)) ? 0 : 1;
  }
  EXPECT_GT(refused, static_cast<int>(kTrials / 10));
}

// As an adapter has them: many members, whose names lie in a heap of their own, and texts as attributes. The library
// itself crashes on one such file in seven.
TEST(Hdf5, HeavyDamageIsRefused) {
  const TemporaryFolder folder;
  const std::vector<float> values(512, 1.0F);
  {
    Hdf5Writer file(folder.path() / "whole");
    file.attribute("/", "targets", std::vector<std::string>{"q_proj", "down_proj"});
    file.attribute("/", "base_model", "somewhere/else");
    file.group("a/b");
    for (int i = 0; i < 56; ++i) {
      const std::string name = fmt::format("base_model.model.model.layers.{}.mlp.down_proj.weight", i);
      file.dataset(name, std::span<const float>(values), {8, 64});
      file.attribute(name, "scale", 2.0);
    }
    file.close();
  }
  ASSERT_TRUE(survives(folder.path() / "whole"));
  const std::string content = file_content(folder.path() / "whole");
  int refused = 0;
  for (std::uint64_t trial = 0; trial < 80; ++trial) {
    const RandomStream random({hash_text("heavy hdf5 damage"), trial});
    std::string damaged = content;
    for (std::uint64_t i = 0; i < 20; ++i)
      damaged[random.word(i) % damaged.size()] = static_cast<char>(random.word(i) >> 56);
    refused += survives(folder.write("damaged", damaged)) ? 0 : 1;
  }
  EXPECT_GT(refused, 8);
}

TEST(Hdf5, CheckingASmallFileTakesMilliseconds) {
  const TemporaryFolder folder;
  write_example(folder.path() / "x.h5");
  double least = 1;
  for (int trial = 0; trial < 10; ++trial) {
    const auto start = std::chrono::steady_clock::now();
    const Hdf5File file(folder.path() / "x.h5");
    least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  RecordProperty("seconds", std::to_string(least));
  EXPECT_LT(least, 0.1);  // 0.02 and some patience for a sanitizer
}

TEST(Hdf5, ReadsTheReferenceTraces) {
  BIQA_REQUIRE_SHARED(shared);
  int files = 0;
  for (const char* folder : {"golden/traces", "golden/steps"}) {
    for (const auto& entry : fs::directory_iterator(shared / folder)) {
      if (entry.path().extension() != ".h5") continue;
      const Hdf5File file(entry.path());
      EXPECT_FALSE(file.children().empty()) << entry.path();
      for (const std::string& name : file.children()) {
        if (!file.is_dataset(name)) continue;
        Shape shape;
        const std::size_t count = file.read_f64(name, &shape).size();
        EXPECT_EQ(count, std::accumulate(shape.begin(), shape.end(), std::size_t{1}, std::multiplies<>()));
      }
      ++files;
    }
  }
  EXPECT_GT(files, 5);
}

// The library takes a lock of its own on what it opens, unless it is told not to.
TEST(Hdf5, NeedsNoFileLocks) {
  const TemporaryFolder folder;
  const testing::FailingCallsReset reset;
  for (const int error : {ENOLCK, ENOSYS, EOPNOTSUPP, EINVAL, EACCES, 524}) {
    SCOPED_TRACE(error);
    testing::failing_calls().lock = error;
    for (const bool seal : {false, true}) {  // the child reads what has no seal
      const fs::path path = folder.path() / "file.h5";
      Hdf5Writer writer(path);
      writer.dataset("values", std::vector<float>{1, 2}, {2});
      writer.close(seal);
      EXPECT_THAT(Hdf5File(path).read_f32("values"), ElementsAre(1, 2));
    }
  }
}

}  // namespace
}  // namespace biqa
