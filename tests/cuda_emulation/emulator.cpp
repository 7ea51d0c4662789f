// SPDX-License-Identifier: Apache-2.0
#include "cuda_emulation/emulator.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <string_view>
#include <system_error>

namespace biqa::emulation {
namespace {

constexpr std::array<const char*, 3> kOrders{"forward", "backward", "shuffled"};
constexpr std::array<const char*, 2> kStreams{"at_once", "late"};

/// Which of the words the environment's variable is; the first one without it.
template <std::size_t kCount>
int choice(const char* variable, const std::array<const char*, kCount>& words) {
  const char* value = std::getenv(variable);
  if (value == nullptr) return 0;
  const auto* found = std::find(words.begin(), words.end(), std::string_view(value));
  CHECK(found != words.end()) << variable << "=" << value << " is none of "
                              << fmt::format("{}", fmt::join(words, ", "));
  return static_cast<int>(found - words.begin());
}

struct Settings {
  Order order = static_cast<Order>(choice("BIQA_EMULATOR_ORDER", kOrders));
  Streams streams = static_cast<Streams>(choice("BIQA_EMULATOR_STREAMS", kStreams));
  std::uint64_t seed = 1;
};

Settings& settings() {
  static Settings settings = [] {
    Settings from_environment;
    if (const char* seed = std::getenv("BIQA_EMULATOR_SEED"); seed != nullptr) {
      const std::string_view text = seed;
      const auto read = std::from_chars(text.begin(), text.end(), from_environment.seed);
      CHECK(read.ec == std::errc() && read.ptr == text.end())
          << "BIQA_EMULATOR_SEED=" << seed << " is no number from 0 to 2^64 - 1";
    }
    return from_environment;
  }();
  return settings;
}

}  // namespace

void set_order(Order order) {
  settings().order = order;
}

Order order() {
  return settings().order;
}

void set_seed(std::uint64_t seed) {
  settings().seed = seed;
}

std::uint64_t seed() {
  return settings().seed;
}

void set_streams(Streams streams) {
  settings().streams = streams;
}

bool late_streams() {
  return settings().streams == Streams::late;
}

bool checks_accesses() {
#ifdef BIQA_EMULATOR_HOOKS
  return true;
#else
  return false;
#endif
}

std::string settings_text() {
  return fmt::format("BIQA_EMULATOR_ORDER={} BIQA_EMULATOR_SEED={} BIQA_EMULATOR_STREAMS={}",
                     kOrders.at(static_cast<std::size_t>(order())), seed(),
                     kStreams.at(late_streams() ? 1 : 0));
}

}  // namespace biqa::emulation
