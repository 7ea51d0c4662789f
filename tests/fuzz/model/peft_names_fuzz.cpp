// SPDX-License-Identifier: Apache-2.0
// Names of an adapter's tensors, one a line, with "rows columns" behind a tab where the shape matters.
#include <glog/logging.h>

#include <charconv>
#include <cstdint>
#include <map>
#include <string>

#include "fuzz/harness.h"
#include "model/frozen_parts.h"
#include "model/lora.h"
#include "model/peft.h"

namespace biqa::fuzz {
namespace {

std::vector<std::int64_t> numbers_of(std::string_view text) {
  std::vector<std::int64_t> numbers;
  while (!text.empty()) {
    std::int64_t number = 0;
    const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (problem != std::errc()) break;
    numbers.push_back(number);
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    while (text.starts_with(' ')) text.remove_prefix(1);
  }
  return numbers;
}

void run(std::string_view input) {
  std::map<std::string, std::vector<std::int64_t>> shapes;
  bool trained = false;
  while (!input.empty()) {
    const std::string_view line = input.substr(0, input.find('\n'));
    input.remove_prefix(std::min(line.size() + 1, input.size()));
    const std::string key(line.substr(0, line.find('\t')));
    shapes[key] = numbers_of(line.substr(std::min(key.size() + 1, line.size())));
    const auto parsed = parse_peft_key(key);
    if (!parsed) continue;
    CHECK(parsed->layer >= 0 && (parsed->part == 'A' || parsed->part == 'B'));
    CHECK(parsed->frozen.empty() || is_frozen_module(parsed->frozen)) << parsed->frozen;
    trained = trained || parsed->frozen.empty();
  }
  ModelConfig config;
  if (!accepted([&] { config = config_of_adapter(shapes, "the input"); })) return;
  CHECK_EQ(config.text.layers > 0, trained);
}

const Registered kRegistered("peft_names", run);

}  // namespace
}  // namespace biqa::fuzz
