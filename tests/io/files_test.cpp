// SPDX-License-Identifier: Apache-2.0
#include "io/files.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <set>
#include <span>
#include <string>
#include <utility>

#include "core/error.h"
#include "io/append_file.h"
#include "support/failing_calls.h"
#include "support/temporary_folder.h"

namespace biqa {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
namespace fs = std::filesystem;

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename().string());
  return names;
}

TEST(Files, ReadsWholeFilesWithinALimit) {
  const TemporaryFolder folder;
  const std::string content("a\0b\n", 4);
  const fs::path file = folder.write("file", content);
  EXPECT_EQ(read_file(file), content);
  EXPECT_EQ(read_file(file, 4), content);
  EXPECT_THAT(error_of([&] { read_file(file, 3); }), AllOf(HasSubstr("4 bytes"), HasSubstr(file.string())));
  EXPECT_EQ(read_file(folder.write("empty", "")), "");
}

TEST(Files, EveryLegalNameCanBeWritten) {
  const TemporaryFolder folder;
  const std::string longest(255, 'x');
  write_file_atomically(folder.path() / longest, "content");
  EXPECT_EQ(read_file(folder.path() / longest), "content");
  AtomicFolder inner(folder.path() / std::string(255, 'y'));
  inner.commit();
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{longest, std::string(255, 'y')}));
  // Some encrypted file systems allow 143 bytes. A character of several bytes is not cut in two.
  std::string accents = "x";
  for (int i = 0; i < 127; ++i) accents += "\xC3\xA9";
  const std::string hidden = temporary_beside(folder.path() / accents).filename().string();
  EXPECT_LE(hidden.size(), 143U);
  EXPECT_THAT(hidden, HasSubstr("\xC3\xA9" + std::string(kTemporaryMark)));
}

TEST(Files, RefusesWhatIsNoRegularFile) {
  const TemporaryFolder folder;
  const fs::path absent = folder.path() / "absent";
  const fs::path pipe = folder.path() / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(error_of([&] { read_file(absent); }),
              AllOf(HasSubstr(absent.string()), HasSubstr("check the path")));
  EXPECT_THAT(error_of([&] { read_file(folder.path()); }), HasSubstr("it is a folder"));
  EXPECT_THAT(error_of([&] { read_file(pipe); }), HasSubstr("not a regular file"));
  EXPECT_THAT(error_of([&] { MappedFile{pipe}; }), HasSubstr("not a regular file"));
}

TEST(Files, MapsWithoutCopying) {
  const TemporaryFolder folder;
  const fs::path file = folder.write("file", "hello");
  MappedFile first(file);
  const std::byte* const address = first.bytes().data();
  MappedFile second(std::move(first));
  EXPECT_EQ(second.bytes().data(), address);
  EXPECT_EQ(second.bytes().size(), 5U);
  EXPECT_EQ(static_cast<char>(second.bytes()[4]), 'o');
  EXPECT_TRUE(MappedFile(folder.write("empty", "")).bytes().empty());
}

/// Bytes of the mapping that begins at `address` which are in the memory of this process.
std::size_t resident_bytes(const void* address) {
  std::ifstream maps("/proc/self/smaps");
  const std::string begin = fmt::format("{:x}-", reinterpret_cast<std::uintptr_t>(address));
  bool found = false;
  for (std::string line; std::getline(maps, line);) {
    found = found || line.starts_with(begin);
    if (found && line.starts_with("Rss:")) return std::stoul(line.substr(4)) * 1024;
  }
  ADD_FAILURE() << "no mapping begins at " << address;
  return 0;
}

TEST(Files, ReleasedBytesLeaveTheMemoryAndStayReadable) {
  const TemporaryFolder folder;
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  std::string content(40 * page + 17, 0);
  for (std::size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>('a' + i % 23);
  const MappedFile mapped(folder.write("file", content));
  const auto all = [&] {
    return std::string(reinterpret_cast<const char*>(mapped.bytes().data()), mapped.bytes().size());
  };
  EXPECT_EQ(all(), content);
  const std::size_t before = resident_bytes(mapped.bytes().data());
  EXPECT_GE(before, 40 * page);
  mapped.release(mapped.bytes().subspan(1, 39 * page));  // 38 pages lie within
  EXPECT_EQ(resident_bytes(mapped.bytes().data()), before - 38 * page);
  EXPECT_EQ(all(), content);
  mapped.release(mapped.bytes());
  EXPECT_EQ(all(), content);
}

TEST(Files, ReleasesNoMemoryOfOthers) {
  const TemporaryFolder folder;
  const std::string content(1 << 16, 'a');
  const MappedFile mapped(folder.write("file", content));
  const std::string other(1 << 20, 'b');
  mapped.release(std::as_bytes(std::span(other)));
  mapped.release({mapped.bytes().data(), mapped.bytes().size() + 1});
  EXPECT_EQ(other, std::string(1 << 20, 'b'));
}

TEST(Files, AppearsWholeOrNotAtAll) {
  const TemporaryFolder folder;
  const fs::path target = folder.path() / "file";
  {
    AtomicFile file(target);
    file.write("part");
    EXPECT_FALSE(fs::exists(target));
  }
  EXPECT_THAT(names_in(folder.path()), IsEmpty());
  {
    AtomicFile file(target);
    file.write("one ");
    file.write("two");
    file.commit();
  }
  EXPECT_EQ(read_file(target), "one two");
  write_file_atomically(target, "three");
  EXPECT_EQ(read_file(target), "three");
  EXPECT_EQ(names_in(folder.path()), std::set<std::string>{"file"});
}

TEST(Files, NamesTheFolderThatCannotBeWritten) {
  const TemporaryFolder folder;
  const fs::path file = folder.write("file", "");
  EXPECT_THAT(error_of([&] { write_file_atomically(folder.path() / "absent" / "x", ""); }),
              AllOf(HasSubstr("cannot write"), HasSubstr("absent/x")));
  EXPECT_THAT(error_of([&] { write_file_atomically(file / "x", ""); }), HasSubstr("cannot write"));
  EXPECT_THAT(error_of([&] { AtomicFolder{file / "x"}; }), HasSubstr("cannot write"));
}

TEST(Files, ReplacesNothingButFilesAndFolders) {
  const TemporaryFolder folder;
  const fs::path pipe = folder.path() / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(error_of([&] { write_file_atomically(pipe, "x"); }),
              AllOf(HasSubstr(pipe.string()), HasSubstr("neither a file nor a folder")));
  EXPECT_THAT(error_of([&] { AtomicFolder{pipe}; }), HasSubstr("neither a file nor a folder"));
  EXPECT_THAT(error_of([&] { publish(folder.write("new", "x"), pipe); }),
              HasSubstr("neither a file nor a folder"));
  EXPECT_TRUE(fs::is_fifo(pipe));
  fs::create_symlink(pipe, folder.path() / "link");
  EXPECT_THAT(error_of([&] { AtomicFile{folder.path() / "link"}; }),
              HasSubstr("neither a file nor a folder"));
  fs::create_directory(folder.path() / "empty");
  EXPECT_THAT(error_of([&] { AtomicFile{folder.path() / "empty"}; }), HasSubstr("it is a folder"));
  EXPECT_THAT(error_of([&] { AtomicFolder{folder.write("file", "")}; }), HasSubstr("it is a file"));
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"empty", "file", "link", "pipe"}));
}

TEST(Files, WritesThroughLinks) {
  const TemporaryFolder folder;
  fs::create_directory(folder.path() / "far");
  folder.write("far/file", "old");
  fs::create_symlink("far/file", folder.path() / "link");
  fs::create_symlink("link", folder.path() / "second");
  write_file_atomically(folder.path() / "second", "new");
  EXPECT_EQ(read_file(folder.path() / "far/file"), "new");
  EXPECT_TRUE(fs::is_symlink(folder.path() / "link"));
  EXPECT_TRUE(fs::is_symlink(folder.path() / "second"));

  fs::create_symlink("far/made", folder.path() / "dangling");
  write_file_atomically(folder.path() / "dangling", "made");
  EXPECT_EQ(read_file(folder.path() / "far/made"), "made");
  EXPECT_EQ(names_in(folder.path() / "far"), (std::set<std::string>{"file", "made"}));

  fs::create_symlink("far/folder", folder.path() / "out");
  AtomicFolder out(folder.path() / "out" / "");
  write_file_atomically(out.path() / "a", "1");
  out.commit();
  EXPECT_EQ(read_file(folder.path() / "far/folder/a"), "1");

  fs::create_symlink("loop", folder.path() / "loop");
  EXPECT_THAT(error_of([&] { write_file_atomically(folder.path() / "loop", "x"); }),
              AllOf(HasSubstr("loop"), HasSubstr("symbolic links")));
}

// A limit on the size of files stands in for a full disk; it holds for a process, hence the child.
TEST(FilesDeathTest, ReportsAFullDiskAndLeavesNothing) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const TemporaryFolder folder;
  const fs::path target = folder.path() / "file";
  const auto write_too_much = [&] {
    ASSERT_NE(std::signal(SIGXFSZ, SIG_IGN), SIG_ERR);
    const rlimit limit{4096, 4096};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
    const std::string message = error_of([&] { write_file_atomically(target, std::string(8192, 'x')); });
    std::fputs(message.c_str(), stderr);
    std::exit(names_in(folder.path()).empty() ? 3 : 4);
  };
  EXPECT_EXIT(write_too_much(), ::testing::ExitedWithCode(3), "cannot write .*/file: .*; free some space");
}

TEST(Files, RemovesWhatKilledProcessesLeft) {
  const TemporaryFolder folder;
  const fs::path left = temporary_beside(folder.path() / "file"),
                 other = temporary_beside(folder.path() / "folder");
  const fs::path kept = folder.path() / "my.tmp-notes";
  write_file_atomically(left, "half");
  fs::create_directories(other / "below");
  fs::create_directories(folder.path() / ".step-000007.token.partial");
  write_file_atomically(kept, "mine");
  write_file_atomically(folder.path() / ".hidden", "mine");
  remove_leftovers(folder.path());
  EXPECT_FALSE(fs::exists(left) || fs::exists(other) ||
               fs::exists(folder.path() / ".step-000007.token.partial"));
  EXPECT_TRUE(fs::exists(kept) && fs::exists(folder.path() / ".hidden"));
  remove_leftovers(folder.path() / "missing");
}

TEST(Files, PublishesFoldersWhole) {
  const TemporaryFolder folder;
  const fs::path target = folder.path() / "above" / "out";
  {
    const AtomicFolder abandoned(target);
    write_file_atomically(abandoned.path() / "a", "1");
  }
  EXPECT_THAT(names_in(target.parent_path()), IsEmpty());
  AtomicFolder first(target / "");  // a trailing slash changes nothing
  write_file_atomically(first.path() / "a", "1");
  EXPECT_FALSE(fs::exists(target));
  first.commit();
  EXPECT_EQ(read_file(target / "a"), "1");

  AtomicFolder second(target);
  write_file_atomically(second.path() / "b", "2");
  EXPECT_THAT(error_of([&] { second.commit(); }), AllOf(HasSubstr("cannot write"), HasSubstr("above/out")));
  EXPECT_EQ(names_in(target), std::set<std::string>{"a"});

  AtomicFolder third(target);
  write_file_atomically(third.path() / "c", "3");
  third.commit(true);
  EXPECT_EQ(names_in(target), std::set<std::string>{"c"});
  EXPECT_EQ(names_in(target.parent_path()), std::set<std::string>{"out"});
}

// Values of the reference program: printf '' | xxhsum -H2, and the same of "abc".
TEST(Files, DigestsAreThoseOfXxhsum) {
  const TemporaryFolder folder;
  EXPECT_EQ(digest_of_file(folder.write("empty", "")), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(digest_of_file(folder.write("abc", "abc")), "06b05ab6733a618578af5f94892f3950");
  EXPECT_EQ(digest_of_bytes({}), 0x2d06800538d394c2ULL);
}

TEST(AppendFile, IsNoLongerWrittenWhereNobodyWouldFindIt) {
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "run" / "metrics.jsonl";
  fs::create_directory(folder.path() / "run");
  AppendFile log(file);
  log.append("one\n");
  fs::rename(folder.path() / "run", folder.path() / "elsewhere");
  const auto refusal = AllOf(HasSubstr(file.string()), HasSubstr("removed or moved"), HasSubstr("resume"));
  EXPECT_THAT(error_of([&] { log.append("two\n"); }), refusal);
  folder.write("run/metrics.jsonl", "");  // another file of that name is not this one
  EXPECT_THAT(error_of([&] { log.append("two\n"); }), refusal);
  fs::remove_all(folder.path() / "run");
  fs::rename(folder.path() / "elsewhere", folder.path() / "run");
  log.append("three\n");
  EXPECT_EQ(read_file(file), "one\nthree\n");
}

// NFS, FUSE and cluster file systems have various numbers for this; 524 is the kernel's own.
TEST(Files, FoldersThatCannotBeSyncedAreTakenAsTheyAre) {
  const TemporaryFolder folder;
  const testing::FailingCallsReset reset;
  for (const int error : {EINVAL, ENOTSUP, ENOSYS, EBADF, EACCES, EPERM, 524}) {
    testing::failing_calls().sync_folder = error;
    const fs::path file = folder.path() / std::to_string(error);
    write_file_atomically(file, "whole");
    EXPECT_EQ(read_file(file), "whole");
    AtomicFolder made(folder.path() / ("folder-" + std::to_string(error)));
    fs::create_directory(made.path() / "below");
    EXPECT_NO_THROW(made.commit()) << error;
  }
  testing::failing_calls().sync_folder = EIO;
  EXPECT_THAT(error_of([&] { write_file_atomically(folder.path() / "lost", "x"); }),
              HasSubstr("Input/output error"));
}

TEST(Files, CallsThatSignalsInterruptAreRepeated) {
  const TemporaryFolder folder;
  const testing::FailingCallsReset reset;
  testing::failing_calls().signals = 2;
  write_file_atomically(folder.path() / "synced", "whole");
  EXPECT_EQ(testing::failing_calls().signals, 0);
  EXPECT_EQ(read_file(folder.path() / "synced"), "whole");
  // The first fsync of a file, then its rename.
  for (int signals = 1; signals < 5; ++signals) {
    testing::failing_calls().signals = signals;
    AtomicFolder made(folder.path() / ("folder-" + std::to_string(signals)));
    EXPECT_NO_THROW(made.commit()) << signals;
  }
}

TEST(Files, FilesThatCannotBeSyncedAreTakenToo) {
  const TemporaryFolder folder;
  const testing::FailingCallsReset reset;
  for (const int error : {EINVAL, ENOTSUP, ENOSYS, 524}) {
    testing::failing_calls().sync_file = error;
    EXPECT_NO_THROW(write_file_atomically(folder.path() / "file", "whole")) << error;
  }
  for (const int error : {EIO, ENOSPC, EBADF, EACCES}) {
    testing::failing_calls().sync_file = error;
    EXPECT_NE(error_of([&] { write_file_atomically(folder.path() / "other", "x"); }), "") << error;
  }
  EXPECT_EQ(names_in(folder.path()), std::set<std::string>{"file"});
}

}  // namespace
}  // namespace biqa
