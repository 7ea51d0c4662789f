// SPDX-License-Identifier: Apache-2.0
// Runs every harness on its seeds and on the inputs kept in tests/fuzz/inputs/HARNESS: what fuzzing once found stays
// mended under every compiler.
#include <fmt/format.h>
#include <glog/logging.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <fstream>
#include <iterator>
#include <utility>

#include "fuzz/harness.h"
#include "fuzz/seeds.h"
#include "io/files.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define BIQA_OWN_MALLOC 0  // the sanitizer's is in the way
#else
#define BIQA_OWN_MALLOC 1
#endif

namespace {
std::atomic<std::size_t> largest_allocation{0};
}

#if BIQA_OWN_MALLOC
// Every allocation of this program and of its libraries goes through here: an input must not claim memory by a number.
// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming)
extern "C" void* __libc_malloc(std::size_t bytes);
extern "C" void* __libc_calloc(std::size_t count, std::size_t bytes);
extern "C" void* __libc_realloc(void* block, std::size_t bytes);
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)
namespace {
void note_allocation(std::size_t bytes) {
  std::size_t largest = largest_allocation;
  while (bytes > largest && !largest_allocation.compare_exchange_weak(largest, bytes)) continue;
}
}  // namespace
extern "C" void* malloc(std::size_t bytes) {
  note_allocation(bytes);
  return __libc_malloc(bytes);
}
extern "C" void* calloc(std::size_t count, std::size_t bytes) {
  note_allocation(bytes != 0 && count > SIZE_MAX / bytes ? SIZE_MAX : count * bytes);
  return __libc_calloc(count, bytes);
}
extern "C" void* realloc(void* block, std::size_t bytes) {
  note_allocation(bytes);
  return __libc_realloc(block, bytes);
}
#endif

namespace biqa::fuzz {
namespace {

TEST(FuzzReplay, AllocationsAreSeen) {
  if (!BIQA_OWN_MALLOC) GTEST_SKIP() << "a sanitizer has the allocator";
  largest_allocation = 0;
  const std::string text(12'345, 'x');
  EXPECT_GE(largest_allocation, text.size());
}

namespace fs = std::filesystem;

/// As libFuzzer is told (tests/fuzz/run.sh); seeds and kept inputs are all far smaller.
constexpr std::size_t kMostBytes = std::size_t{128} << 20;
/// Of processor time for one input, many times what the slowest one takes. A parser that needs more works without bounds.
constexpr double kMostSeconds = BIQA_OWN_MALLOC ? 5 : 50;

class Replay : public ::testing::Test {
 public:
  Replay(std::string name, Harness harness) : name_(std::move(name)), harness_(harness) {}

  void TestBody() override {
    run("nothing", "");
    const auto& seeds = all_seeds();
    ASSERT_TRUE(seeds.contains(name_)) << "no seeds";
    for (std::size_t i = 0; i < seeds.at(name_).size(); ++i) {
      verdicts() = {};
      run(fmt::format("seed {}", i), seeds.at(name_)[i]);
      // The first one is what the parser is for.
      if (i > 0) continue;
      EXPECT_TRUE(verdicts().taken > 0 || verdicts().refused == 0);
    }
    const fs::path folder = fs::path(BIQA_SOURCE_DIR) / "tests/fuzz/inputs" / name_;
    if (!fs::exists(folder)) return;
    for (const auto& entry : fs::directory_iterator(folder)) {
      // read_file would refuse an input that is a Git LFS pointer
      std::ifstream stream(entry.path(), std::ios::binary);
      run(entry.path().filename().string(), {std::istreambuf_iterator<char>(stream), {}});
    }
  }

 private:
  static const std::map<std::string, std::vector<std::string>>& all_seeds() {
    static const auto seeds = make_seeds();
    return seeds;
  }
  void run(const std::string& input, const std::string& content) const {
    fmt::print("{}\n", input);  // a broken promise ends the program: this names the input
    std::fflush(stdout);
    largest_allocation = 0;
    const std::clock_t begin = std::clock();
    try {
      harness_(content);
    } catch (const std::exception& escaped) {
      ADD_FAILURE() << input << " lets through: " << escaped.what();
    }
    EXPECT_LE(largest_allocation, kMostBytes) << input << " makes it claim memory in one piece";
    EXPECT_LE(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC, kMostSeconds) << input;
  }

  std::string name_;
  Harness harness_;
};

}  // namespace
}  // namespace biqa::fuzz

int main(int count, char** arguments) {
  ::testing::InitGoogleTest(&count, arguments);
  FLAGS_minloglevel = google::GLOG_ERROR;
  for (const auto& [name, harness] : biqa::fuzz::harnesses()) {
    ::testing::RegisterTest("FuzzReplay", name.c_str(), nullptr, nullptr, __FILE__, __LINE__,
                            [name = name, harness = harness]() -> ::testing::Test* {
                              return new biqa::fuzz::Replay(name, harness);
                            });
  }
  return RUN_ALL_TESTS();
}
