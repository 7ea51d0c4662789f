// SPDX-License-Identifier: Apache-2.0
#include "training/picture_check.h"

#include <glog/logging.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <sstream>
#include <tuple>

#include "core/threads.h"
#include "io/image.h"

namespace biqa {
namespace {

using Clock = std::chrono::steady_clock;

/// Limits the threads, because decoding an image may take much memory.
constexpr int kMostThreads = 8;
constexpr std::chrono::seconds kTellEvery{15};
constexpr Seconds kLongestRound{30};

struct Place {
  std::size_t set = 0, row = 0;
};

std::vector<Place> places_in(std::span<const std::vector<Sample>* const> sets) {
  std::vector<Place> places;
  for (std::size_t set = 0; set < sets.size(); ++set) {
    for (std::size_t row = 0; row < sets[set]->size(); ++row) places.push_back({set, row});
  }
  return places;
}

/// The part of its share that a rank has decoded.
struct Share {
  std::size_t checked = 0;  ///< number of images, from the first of the share
  bool ended = false;       ///< no further image may be started
  std::string findings;     ///< one line per damaged image: set, row and reason
};

/// Decodes every `stride`-th place from `first` on, until `patience` is over or `stopped` returns true. `before`:
/// number that all ranks had decoded at the start, for the log of the rank that `tells`. `told`: time of its last log
/// line.
Share check_share(std::span<const std::vector<Sample>* const> sets, std::span<const Place> places,
                  std::size_t first, std::size_t stride, int threads, Clock::time_point end,
                  std::size_t before, bool tells, Clock::time_point& told,
                  const std::function<bool()>& stopped) {
  std::atomic<std::size_t> next = first, checked = 0;
  std::atomic<bool> ended = false;
  std::mutex mutex;
  std::string findings;
  const auto work = [&](bool tells_too) {
    while (Clock::now() < end) {
      if (stopped()) {
        ended = true;
        return;
      }
      const std::size_t i = next.fetch_add(stride);
      if (i >= places.size()) return;
      if (const auto now = Clock::now(); tells_too && now - told > kTellEvery) {
        told = now;
        LOG(INFO) << "decoding the images before the first step: " << before + checked * stride << " of "
                  << before + places.size();
      }
      const auto [set, row] = places[i];
      try {
        (void)read_image((*sets[set])[row].image);
      } catch (const std::exception& damage) {
        std::string reason = damage.what();
        std::replace(reason.begin(), reason.end(), '\n', ' ');  // of a file's name
        const std::lock_guard lock(mutex);
        findings += std::to_string(set) + ' ' + std::to_string(row) + ' ' + reason + '\n';
      }
      ++checked;
    }
  };
  on_threads(std::min(threads, kMostThreads), [&](std::int64_t thread) { work(tells && thread == 0); });
  return {checked, ended, findings};
}

/// Returns every rank's results on all ranks.
std::vector<Share> gathered(Communicator& world, const Share& own) {
  const std::string text =
      std::to_string(own.checked) + ' ' + std::to_string(own.ended ? 1 : 0) + '\n' + own.findings;
  std::vector<std::byte> all;
  for (const std::vector<std::byte>& one : world.gather_bytes(std::as_bytes(std::span(text)), 0)) {
    all.insert(all.end(), one.begin(), one.end());
    all.push_back(std::byte{});
  }
  world.broadcast_bytes(all, 0);
  std::istringstream texts(std::string(reinterpret_cast<const char*>(all.data()), all.size()));
  std::vector<Share> shares;
  for (std::string one; std::getline(texts, one, '\0');) {
    std::istringstream fields(one);
    Share& share = shares.emplace_back();
    fields >> share.checked >> share.ended;
    fields.get();
    share.findings = one.substr(std::min(one.find('\n') + 1, one.size()));
  }
  return shares;
}

}  // namespace

PictureCheck check_pictures(Communicator& world, std::span<const std::vector<Sample>* const> sets,
                            int threads, Seconds patience, const std::function<bool()>& stopped) {
  // Ranks meet long before a collective's deadline and divide the remaining images again, because some ranks may have
  // slow images or a slow disk.
  const Seconds round = std::min(kLongestRound, world.deadline() / 4);
  const auto start = Clock::now();
  auto told = start;
  const auto stride = static_cast<std::size_t>(world.size());
  std::vector<Place> places = places_in(sets);
  PictureCheck check;
  check.pictures = places.size();
  bool ended = false;
  while (!ended && !places.empty()) {
    const Seconds left = patience - (Clock::now() - start);
    const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::min(round, left));
    Share own = check_share(sets, places, static_cast<std::size_t>(world.rank()), stride, threads, end,
                            check.checked, world.rank() == 0, told, stopped);
    own.ended = own.ended || left < round;
    const std::vector<Share> shares = gathered(world, own);
    std::vector<Place> rest;
    for (std::size_t i = 0; i < places.size(); ++i) {
      if (i / stride >= shares.at(i % stride).checked) rest.push_back(places[i]);
    }
    places = std::move(rest);
    for (const Share& share : shares) {
      ended = ended || share.ended;
      check.checked += share.checked;
      std::istringstream lines(share.findings);
      for (std::string line; std::getline(lines, line);) {
        std::istringstream fields(line);
        DamagedPicture found;
        if (fields >> found.set >> found.row && fields.get() == ' ' && std::getline(fields, found.reason))
          check.damaged.push_back(std::move(found));
      }
    }
  }
  std::sort(check.damaged.begin(), check.damaged.end(), [](const DamagedPicture& a, const DamagedPicture& b) {
    return std::tie(a.set, a.row) < std::tie(b.set, b.row);
  });
  return check;
}

}  // namespace biqa
