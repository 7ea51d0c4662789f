// SPDX-License-Identifier: Apache-2.0
#include "training/picture_check.h"

#include <glog/logging.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <sstream>
#include <thread>
#include <tuple>

#include "io/image.h"

namespace biqa {
namespace {

using Clock = std::chrono::steady_clock;

/// A picture may take much memory while it is decoded.
constexpr int kMostThreads = 8;
constexpr std::chrono::seconds kTellEvery{15};

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

/// This rank's share: its first line is the number of pictures, the others are set, row and reason of damaged ones.
std::string check_share(Communicator& world, std::span<const std::vector<Sample>* const> sets, int threads,
                        Seconds patience, const std::function<bool()>& stopped) {
  const std::vector<Place> places = places_in(sets);
  const auto stride = static_cast<std::size_t>(world.size());
  const auto start = Clock::now();
  std::atomic<std::size_t> next = static_cast<std::size_t>(world.rank());
  std::atomic<std::size_t> checked = 0;
  std::mutex mutex;
  std::string findings;
  const auto work = [&](bool tells) {
    auto told = start;
    for (std::size_t i = next.fetch_add(stride); i < places.size(); i = next.fetch_add(stride)) {
      const auto now = Clock::now();
      if (now - start > patience || stopped()) return;
      if (tells && now - told > kTellEvery) {
        told = now;
        LOG(INFO) << "decoding the pictures before the first step: " << checked * stride << " of "
                  << places.size();
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
  std::vector<std::thread> others;
  for (int i = 1; i < std::min(threads, kMostThreads); ++i) others.emplace_back(work, false);
  work(world.rank() == 0);
  for (std::thread& thread : others) thread.join();
  return std::to_string(checked) + '\n' + findings;
}

}  // namespace

PictureCheck check_pictures(Communicator& world, std::span<const std::vector<Sample>* const> sets,
                            int threads, Seconds patience, const std::function<bool()>& stopped) {
  const std::string own = check_share(world, sets, threads, patience, stopped);
  std::vector<std::byte> all;
  for (const std::vector<std::byte>& one : world.gather_bytes(std::as_bytes(std::span(own)), 0))
    all.insert(all.end(), one.begin(), one.end());
  world.broadcast_bytes(all, 0);
  PictureCheck check;
  for (const std::vector<Sample>* set : sets) check.pictures += set->size();
  std::istringstream lines(std::string(reinterpret_cast<const char*>(all.data()), all.size()));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    DamagedPicture found;
    if (fields >> found.set >> found.row && fields.get() == ' ' && std::getline(fields, found.reason))
      check.damaged.push_back(std::move(found));
    else
      check.checked += found.set;
  }
  std::sort(check.damaged.begin(), check.damaged.end(), [](const DamagedPicture& a, const DamagedPicture& b) {
    return std::tie(a.set, a.row) < std::tie(b.set, b.row);
  });
  return check;
}

}  // namespace biqa
