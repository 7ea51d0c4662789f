// SPDX-License-Identifier: Apache-2.0
#include "core/processors.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>

#include "support/temporary_folder.h"

namespace biqa {
namespace {

constexpr double kNoLimit = std::numeric_limits<double>::infinity();

/// launch/processors.sh, which scripts ask, with this folder for "/".
std::string said_to_scripts(const std::filesystem::path& root) {
  const std::string command =
      fmt::format("{}/launch/processors.sh '{}' 2>&1", BIQA_SOURCE_DIR, root.string());
  std::string said;
  FILE* const pipe = ::popen(command.c_str(), "r");
  std::array<char, 256> line{};
  while (pipe != nullptr && std::fgets(line.data(), line.size(), pipe) != nullptr) said += line.data();
  if (pipe != nullptr) ::pclose(pipe);
  return said;
}

/// A system with control groups of version 2 and this process in one of them.
class Unified : public testing::Test {
 protected:
  void put(const std::string& group, const std::string& mounted = "/") const {
    folder.write("proc/self/cgroup", fmt::format("0::{}\n", group));
    folder.write(
        "proc/self/mountinfo",
        fmt::format("22 1 8:1 / / rw,relatime - ext4 /dev/root rw\n"
                    "31 22 0:28 {} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
                    mounted));
  }
  void limit(const std::string& group, const std::string& text) const {
    folder.write("sys/fs/cgroup" + group + "/cpu.max", text);
  }
  double granted() const { return granted_processors(folder.path()); }

  TemporaryFolder folder;
};

TEST_F(Unified, NoLimitsAnywhere) {
  EXPECT_EQ(granted(), kNoLimit) << "no /proc at all";
  put("/a/b");
  EXPECT_EQ(granted(), kNoLimit);
  limit("/a/b", "max 100000\n");
  EXPECT_EQ(granted(), kNoLimit);
}

TEST_F(Unified, TheLeastOfAGroupAndAllAboveItHolds) {
  put("/job/step/task");
  limit("/job/step/task", "800000 100000\n");
  EXPECT_EQ(granted(), 8);
  limit("/job/step", "max 100000\n");
  limit("/job", "150000 50000\n");
  EXPECT_EQ(granted(), 3);
  limit("", "50000 100000\n");
  EXPECT_EQ(granted(), 0.5);
  limit("/job/step/task/child", "1000 100000\n");
  limit("/other", "1000 100000\n");
  EXPECT_EQ(granted(), 0.5) << "of groups that it is not in";
}

TEST_F(Unified, ContainersSeeOnlyTheirOwnPart) {
  put("/docker/abc/inner", "/docker/abc");  // shown from /docker/abc on
  limit("", "400000 100000\n");
  limit("/inner", "200000 100000\n");
  EXPECT_EQ(granted(), 2);
  put("/", "/");  // a namespace of its own
  EXPECT_EQ(granted(), 4);
  put("/../elsewhere", "/");
  EXPECT_EQ(granted(), 4);
  put("/docker/abcdef", "/docker/abc");
  EXPECT_EQ(granted(), 4);
}

TEST_F(Unified, NonsenseIsNoLimit) {
  put("/a");
  for (const char* text : {"", "0 100000\n", "-1 100000\n", "100000\n", "100000 0\n", "nan 5\n", "\n"}) {
    limit("/a", text);
    EXPECT_EQ(granted(), kNoLimit) << text;
  }
  folder.write("proc/self/cgroup", "\n::\n0:\nx\n");
  EXPECT_EQ(granted(), kNoLimit);
  folder.write("proc/self/mountinfo", "- - - - - -\n\n1 2 3 4 5 - cgroup2\n");
  EXPECT_EQ(granted(), kNoLimit);
}

TEST(FirstVersion, QuotaOfTheHierarchyThatRationsProcessors) {
  const TemporaryFolder folder;
  folder.write("proc/self/cgroup", "5:memory:/m\n4:cpuset:/set\n3:cpu,cpuacct:/kube\\x2dpods/pod 1\n0::/\n");
  folder.write("proc/self/mountinfo",
               "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
               "33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
               "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
  const std::string group = "sys/fs/cgroup/cpu,cpuacct/kube\\x2dpods/pod 1";
  const auto granted = [&] { return granted_processors(folder.path()); };
  EXPECT_EQ(granted(), kNoLimit);
  folder.write(group + "/cpu.cfs_quota_us", "-1\n");
  folder.write(group + "/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(granted(), kNoLimit);
  folder.write(group + "/cpu.cfs_quota_us", "600000\n");
  EXPECT_EQ(granted(), 6);
  folder.write("sys/fs/cgroup/cpu,cpuacct/kube\\x2dpods/cpu.cfs_quota_us", "250000\n");
  folder.write("sys/fs/cgroup/cpu,cpuacct/kube\\x2dpods/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(granted(), 2.5);
  folder.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "100000\n");
  folder.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(granted(), 1);
  EXPECT_EQ(said_to_scripts(folder.path()), "1\n");
  folder.write(
      "proc/self/mountinfo",
      "32 31 0:29 /kube\\134x2dpods/pod\\0401 /sys/fs/cgroup/cpu\\040here rw - cgroup cgroup rw,cpu\n");
  folder.write("sys/fs/cgroup/cpu here/cpu.cfs_quota_us", "700000\n");
  folder.write("sys/fs/cgroup/cpu here/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(granted(), 7);
}

TEST_F(Unified, ScriptsAreToldTheSame) {
  const std::string all = fmt::format("{}\n", allowed_processors().size());
  EXPECT_EQ(said_to_scripts(folder.path()), all);
  put("/job/task");
  limit("/job/task", "max 100000\n");
  limit("/other", "100000 100000\n");
  EXPECT_EQ(said_to_scripts(folder.path()), all);
  limit("/job", "150000 100000\n");
  EXPECT_EQ(said_to_scripts(folder.path()), "1\n");
  put("/docker/abc", "/docker/abc");
  EXPECT_EQ(said_to_scripts(folder.path()), all);
  limit("", "50000 100000\n");
  EXPECT_EQ(said_to_scripts(folder.path()), "1\n");
}

TEST(Processors, TheMaskOfThisProcessIsFollowed) {
  const std::vector<int> all = allowed_processors();
  ASSERT_FALSE(all.empty());
  EXPECT_LE(usable_processors(), static_cast<int>(all.size()));
  cpu_set_t before, one;
  ASSERT_EQ(::sched_getaffinity(0, sizeof before, &before), 0);
  CPU_ZERO(&one);
  CPU_SET(static_cast<std::size_t>(all.back()), &one);
  ASSERT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(allowed_processors(), std::vector<int>{all.back()});
  EXPECT_EQ(usable_processors(), 1);
  ASSERT_EQ(::sched_setaffinity(0, sizeof before, &before), 0);
  EXPECT_EQ(allowed_processors(), all);
}

TEST(Processors, ListsOfThreadsAsOpenMpReadsThem) {
  for (const auto& [text, first] : std::vector<std::pair<const char*, int>>{
           {"8", 8}, {"8,4", 8}, {" 8 , 4,2 ", 8}, {"+3", 3}, {"1", 1}, {"99999999", 4096}})
    EXPECT_EQ(first_of_thread_list(text), first) << text;
  for (const char* text : {"", " ", "0", "-4", "four", "4x", "4 2", "8,", "8,,4", "8,x", ",8", "8,0", "1e2",
                           "99999999999999999999999"})
    EXPECT_EQ(first_of_thread_list(text), std::nullopt) << text;
}

TEST(Processors, ThreadsOfAProcess) {
  const auto threads = [](const char* asked, const char* limit, int processors, int configured = 0) {
    asked != nullptr ? ::setenv("OMP_NUM_THREADS", asked, 1) : ::unsetenv("OMP_NUM_THREADS");
    limit != nullptr ? ::setenv("OMP_THREAD_LIMIT", limit, 1) : ::unsetenv("OMP_THREAD_LIMIT");
    const int count = threads_for(processors, configured);
    ::unsetenv("OMP_NUM_THREADS");
    ::unsetenv("OMP_THREAD_LIMIT");
    return count;
  };
  EXPECT_EQ(threads(nullptr, nullptr, 4), 4);
  EXPECT_EQ(threads("8", nullptr, 4), 8);
  EXPECT_EQ(threads("8,4", nullptr, 2), 8);
  EXPECT_EQ(threads("many", nullptr, 4), 4);
  EXPECT_EQ(threads("8", nullptr, 4, 3), 3) << "what is configured wins";
  EXPECT_EQ(threads("8", "5", 4), 5);
  EXPECT_EQ(threads(nullptr, "2", 4), 2);
  EXPECT_EQ(threads(nullptr, "2", 4, 3), 2) << "no team is larger";
  EXPECT_EQ(threads(nullptr, "none", 4), 4);
  EXPECT_EQ(threads(nullptr, "16", 4), 4);
  EXPECT_EQ(threads(nullptr, nullptr, 0), 1);
}

}  // namespace
}  // namespace biqa
