// SPDX-License-Identifier: Apache-2.0
// The file that keeps the algorithms of a model's products, with host loops in the place of cuBLASLt.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <vector>

#include "cuda_emulation/host_matmul.h"
#include "io/files.h"
#include "model/product_choices.h"
#include "ops/cuda/cuda_ops.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using emulation::Proposals;
using emulation::rows_of_algorithm;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

/// An environment variable for one test; the test's programs start no threads meanwhile.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) { set(value); }
  ~Variable() { unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;
  void set(const std::string& value) { setenv(name_, value.c_str(), 1); }

 private:
  const char* name_;
};

class CudaProductChoices : public ::testing::Test {
 protected:
  CudaProductChoices() { emulation::proposals = Proposals::several; }
  ~CudaProductChoices() override { emulation::proposals = Proposals::none; }

  /// Chooses for two products in a new backend. Returns the number of rows that were multiplied for it.
  std::int64_t choose() const {
    cuda::CudaOps ops(DType::f32);
    Tensor values(DType::f32, 24, 40, "weights");
    const std::vector<float> bias(24, 0.5F);
    for (float& value : values.span<float>()) value = 0.25F;
    const auto plain = ops.pack(values.const_view(), {}, true);
    const auto with_bias = ops.pack(values.const_view(), bias, false);
    for (std::int64_t& rows : rows_of_algorithm) rows = 0;
    choose_products(ops, {{{40, 24, false, true}, plain.get()}, {{40, 24, true, false}, with_bias.get()}});
    std::int64_t all = 0;
    for (const std::int64_t rows : rows_of_algorithm) all += rows;
    return all;
  }
  /// What choose() prints.
  std::string told(std::int64_t& rows) const {
    ::testing::internal::CaptureStderr();
    rows = choose();
    return ::testing::internal::GetCapturedStderr();
  }

  TemporaryFolder folder_;
  const fs::path file_ = folder_.path() / "kept" / "choices.txt";
  Variable named_{"BIQA_CUBLASLT_CACHE", file_.string()};
};

TEST_F(CudaProductChoices, ALaterProcessTakesThem) {
  EXPECT_GT(choose(), 0);
  const std::string text = read_file(file_);
  EXPECT_THAT(text, HasSubstr("emulated device (sm_"));
  EXPECT_THAT(text, HasSubstr("multiprocessors), host loops 1, driver for CUDA 13.0\n"));
  std::int64_t rows = 0;
  EXPECT_THAT(told(rows), IsEmpty());
  EXPECT_EQ(rows, 0);
  EXPECT_EQ(read_file(file_), text);
}

TEST_F(CudaProductChoices, AFileThatCannotBeUsedIsReplaced) {
  choose();
  const std::string text = read_file(file_);
  std::string foreign = text;
  foreign.replace(foreign.find("emulated"), 8, "imagined");
  for (const std::string& other :
       {text.substr(0, text.size() / 2), foreign, std::string("{}"), std::string()}) {
    std::ofstream(file_) << other;
    std::int64_t rows = 0;
    const std::string warning = told(rows);
    EXPECT_THAT(warning, HasSubstr("ignoring the saved choices of cuBLASLt algorithms in " + file_.string()));
    EXPECT_EQ(warning.find("ignoring"), warning.rfind("ignoring"));
    EXPECT_GT(rows, 0);
    EXPECT_EQ(read_file(file_), text);
  }
}

TEST_F(CudaProductChoices, AFileThatCannotBeReadOrWrittenOnlyWarns) {
  fs::create_directories(file_);  // a folder in its place
  std::int64_t rows = 0;
  const std::string warning = told(rows);
  EXPECT_THAT(warning, HasSubstr("ignoring the saved choices"));
  EXPECT_THAT(warning, HasSubstr("cannot save the choices of cuBLASLt algorithms, so the next start chooses "
                                 "again"));
  EXPECT_GT(rows, 0);
  EXPECT_TRUE(fs::is_directory(file_));
}

TEST_F(CudaProductChoices, OffKeepsNothing) {
  named_.set("off");
  EXPECT_GT(choose(), 0);
  EXPECT_GT(choose(), 0);
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

TEST_F(CudaProductChoices, PlaceOfTheFile) {
  EXPECT_EQ(choices_file("key"), file_);
  EXPECT_EQ(choices_file(""), std::nullopt);
  named_.set("");
  Variable cache("XDG_CACHE_HOME", "/x");
  Variable home("HOME", "/h");
  const auto a = choices_file("key"), b = choices_file("another key");
  ASSERT_TRUE(a && b);
  EXPECT_EQ(a->parent_path(), "/x/biqa");
  EXPECT_THAT(a->filename().string(), StartsWith("cublaslt-"));
  EXPECT_NE(*a, *b);
  cache.set("relative");
  EXPECT_EQ(choices_file("key")->parent_path(), "/h/.cache/biqa");
  home.set("");
  EXPECT_EQ(choices_file("key"), std::nullopt);
}

TEST_F(CudaProductChoices, SeveralProcessesMayWriteAtOnce) {
  choose();
  const std::string text = read_file(file_);
  fs::remove(file_);
  std::vector<pid_t> children;
  for (int i = 0; i < 3; ++i) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      for (int again = 0; again < 5; ++again) {
        choose();
        std::error_code ignored;
        if (again % 2 == i % 2) fs::resize_file(file_, 100, ignored);
      }
      _exit(0);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  choose();
  EXPECT_EQ(read_file(file_), text);
  EXPECT_EQ(std::distance(fs::directory_iterator(file_.parent_path()), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace biqa
