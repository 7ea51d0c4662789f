// SPDX-License-Identifier: Apache-2.0
// Receives groups, ordered by step.
#pragma once

#include <cstdint>
#include <map>

#include "comm/communicator.h"
#include "data/trajectory.h"

namespace biqa {

/// Receives groups with one tag from any rank. Actors may already send groups of later steps. These are kept until
/// next() asks for their step.
class GroupInbox {
 public:
  /// Errors contain `purpose` ("a scored group").
  GroupInbox(Communicator& world, int tag, const char* purpose)
      : world_(world), tag_(tag), purpose_(purpose) {}

  /// Waits for the next group of this step and returns it. Groups come in the order of arrival. `step` must not
  /// decrease between calls.
  Group next(std::int64_t step);

 private:
  Communicator& world_;
  const int tag_;
  const char* const purpose_;
  std::multimap<std::int64_t, Group> early_;  // by step
};

}  // namespace biqa
