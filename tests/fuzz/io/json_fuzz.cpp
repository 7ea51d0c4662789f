// SPDX-License-Identifier: Apache-2.0
// JSON, strictly read, and its typed fields.
#include "io/json.h"

#include <glog/logging.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "fuzz/harness.h"

namespace biqa::fuzz {
namespace {

void check_fields(const JsonFields& fields, const nlohmann::json& object) {
  for (const auto& [key, value] : object.items()) {
    CHECK_EQ(fields.has(key), !value.is_null());
    accepted([&, &name = key] { (void)fields.integer(name, -5, 5); });
    accepted([&, &name = key] { CHECK(std::isfinite(fields.number(name).value_or(0))); });
    accepted([&, &name = key] { (void)fields.boolean(name); });
    accepted([&, &name = key] { (void)fields.text(name); });
    accepted([&, &name = key] { (void)fields.integers(name); });
    accepted([&, &name = key] { (void)fields.texts(name); });
    accepted([&, &name = key, &member = value] {
      if (const auto inner = fields.object(name)) check_fields(*inner, member);
    });
  }
}

void run(std::string_view input) {
  nlohmann::json value;
  if (!accepted([&] { value = parse_json(input, "input"); })) return;
  check_message(Error("shown: " + shown(value)));
  CHECK(parse_json(value.dump(), "again") == value);
  accepted([&] { check_fields(JsonFields(value, "input"), value); });
}

const Registered kRegistered("json", run);

}  // namespace
}  // namespace biqa::fuzz
