// SPDX-License-Identifier: Apache-2.0
// Tables with the names of an enumeration's values, for configuration, files and messages.
#pragma once

#include <glog/logging.h>

#include <algorithm>
#include <iterator>

namespace biqa {

/// A row of such a table. A table may also use another type with these two members.
template <typename E>
struct Named {
  const char* name;
  E value;
};

/// The row of a value; the table must have it (CHECK).
template <typename Table, typename T>
const auto& row_of(const Table& table, const T& value) {
  const auto row = std::find_if(std::begin(table), std::end(table),
                                [&](const auto& candidate) { return candidate.value == value; });
  CHECK(row != std::end(table)) << "a value without a name";
  return *row;
}

}  // namespace biqa
