// SPDX-License-Identifier: Apache-2.0
// Ranks as threads. A sender puts a pointer to its bytes into the receiver's mailbox, and the receiver copies them.
#include <glog/logging.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "comm/transport.h"

namespace biqa {
namespace {

struct Posted {
  std::span<const std::byte> bytes;
  std::atomic<bool> taken = false;
};

struct Mailbox {
  std::mutex mutex;
  std::condition_variable changed;
  /// Counts events for the owner, so that an event between its check and its wait does not get lost.
  std::uint64_t events = 0;
  std::map<std::pair<int, int>, std::deque<std::shared_ptr<Posted>>> waiting;  // by (sender, channel)
};

void signal(Mailbox& box) {
  {
    const std::lock_guard lock(box.mutex);
    ++box.events;
  }
  box.changed.notify_one();
}

using Mailboxes = std::shared_ptr<std::vector<Mailbox>>;

class ThreadSend final : public Transfer {
 public:
  ThreadSend(Mailboxes boxes, int to, std::pair<int, int> key, std::span<const std::byte> bytes)
      : boxes_(std::move(boxes)), box_((*boxes_)[static_cast<std::size_t>(to)]), key_(key) {
    posted_->bytes = bytes;
    {
      const std::lock_guard lock(box_.mutex);
      box_.waiting[key_].push_back(posted_);
      ++box_.events;
    }
    box_.changed.notify_one();
  }
  ~ThreadSend() override {
    if (done()) return;
    // The receiver copies under this lock. After this, nobody reads the sender's bytes.
    const std::lock_guard lock(box_.mutex);
    std::erase(box_.waiting[key_], posted_);
  }
  bool done() override { return posted_->taken.load(std::memory_order_acquire); }

 private:
  Mailboxes boxes_;
  Mailbox& box_;
  std::pair<int, int> key_;
  std::shared_ptr<Posted> posted_ = std::make_shared<Posted>();
};

class Received final : public Transfer {
 public:
  bool done() override { return true; }
};

class ThreadTransport final : public Transport {
 public:
  ThreadTransport(Mailboxes boxes, int rank)
      : boxes_(std::move(boxes)), own_((*boxes_)[static_cast<std::size_t>(rank)]), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(boxes_->size()); }
  int channels() const override { return std::numeric_limits<int>::max(); }

  std::unique_ptr<Transfer> start_send(int to, int channel, std::span<const std::byte> bytes) override {
    return std::make_unique<ThreadSend>(boxes_, to, std::pair(rank_, channel), bytes);
  }

  std::optional<std::size_t> probe(int from, int channel) override {
    const std::lock_guard lock(own_.mutex);
    const auto found = own_.waiting.find({from, channel});
    if (found == own_.waiting.end() || found->second.empty()) return std::nullopt;
    return found->second.front()->bytes.size();
  }

  std::optional<int> probe_any(int channel) override {
    const std::lock_guard lock(own_.mutex);
    for (const auto& [key, messages] : own_.waiting) {
      if (key.second == channel && !messages.empty()) return key.first;
    }
    return std::nullopt;
  }

  std::unique_ptr<Transfer> start_receive(int from, int channel, std::span<std::byte> bytes) override {
    {
      const std::lock_guard lock(own_.mutex);
      const auto found = own_.waiting.find({from, channel});
      CHECK(found != own_.waiting.end() && !found->second.empty()) << "nothing was probed";
      Posted& posted = *found->second.front();
      CHECK_EQ(posted.bytes.size(), bytes.size());
      if (!bytes.empty()) std::memcpy(bytes.data(), posted.bytes.data(), bytes.size());
      posted.taken.store(true, std::memory_order_release);
      found->second.pop_front();
      if (found->second.empty()) own_.waiting.erase(found);
    }
    signal((*boxes_)[static_cast<std::size_t>(from)]);
    return std::make_unique<Received>();
  }

  void idle(Seconds at_most) override {
    std::unique_lock lock(own_.mutex);
    own_.changed.wait_for(lock, at_most, [this] { return own_.events != seen_; });
    seen_ = own_.events;
  }

 private:
  Mailboxes boxes_;
  Mailbox& own_;
  int rank_;
  std::uint64_t seen_ = 0;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_thread_world(int ranks, Seconds deadline) {
  CHECK_GE(ranks, 1);
  const auto boxes = std::make_shared<std::vector<Mailbox>>(static_cast<std::size_t>(ranks));
  std::vector<std::unique_ptr<Communicator>> world;
  world.reserve(boxes->size());
  for (int rank = 0; rank < ranks; ++rank)
    world.push_back(make_communicator(std::make_unique<ThreadTransport>(boxes, rank), deadline));
  return world;
}

std::unique_ptr<Communicator> make_local(Seconds deadline) {
  return std::move(make_thread_world(1, deadline).front());
}

}  // namespace biqa
