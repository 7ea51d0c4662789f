// SPDX-License-Identifier: Apache-2.0
#include "core/failure.h"

#include <cstdio>
#include <utility>

#include "core/error.h"

namespace biqa {
namespace {

std::function<void(const std::string&)>& failure_handler() {
  static std::function<void(const std::string&)> handler;
  return handler;
}

}  // namespace

void on_failure(std::function<void(const std::string& message)> handler) {
  failure_handler() = std::move(handler);
}

bool has_failure_handler() {
  return static_cast<bool>(failure_handler());
}

void report_failure(const std::string& message) {
  if (has_failure_handler()) {
    failure_handler()(message);
  } else {
    say("error: {}\n", message);
  }
  std::fflush(stderr);
}

}  // namespace biqa
