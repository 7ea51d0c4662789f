// SPDX-License-Identifier: Apache-2.0
#include "support/operations.h"

#include <fmt/format.h>

#include <cstdlib>
#include <map>

#include "core/error.h"

namespace biqa::testing {
namespace {

/// A function, because the variables of other files that register come first in no particular order.
std::map<std::string, MakeOperations>& backends() {
  static std::map<std::string, MakeOperations> all;
  return all;
}

}  // namespace

Registered::Registered(const std::string& name, MakeOperations make) {
  CHECK(backends().emplace(name, make).second) << "two backends are called " << name;
}

std::string tested_backend() {
  const char* name = std::getenv("BIQA_TEST_BACKEND");
  return name == nullptr ? "cpu" : name;
}

std::unique_ptr<Operations> make_operations(DType compute, int threads) {
  return make_operations_of(tested_backend(), compute, threads);
}

std::unique_ptr<Operations> make_operations_of(const std::string& backend, DType compute, int threads) {
  const auto found = backends().find(backend);
  if (found == backends().end()) {
    std::string names;
    for (const auto& [name, make] : backends()) names += (names.empty() ? "" : ", ") + name;
    fail("operations of backend {}: this test was built without it; use one of: {}", backend, names);
  }
  return found->second(compute, threads);
}

}  // namespace biqa::testing
