// SPDX-License-Identifier: Apache-2.0
// Groups as they arrive, step by step.
#pragma once

#include <cstdint>
#include <map>

#include "comm/communicator.h"
#include "data/trajectory.h"

namespace biqa {

/// Receives groups with one tag from any rank. Actors that run ahead send groups of later steps; those are kept until
/// their step is asked for.
class GroupInbox {
 public:
  /// `purpose` names what is waited for in errors ("a scored group").
  GroupInbox(Communicator& world, int tag, const char* purpose)
      : world_(world), tag_(tag), purpose_(purpose) {}

  /// The next group of this step, in the order of arrival. Waits for it. Steps must be asked for in ascending order.
  Group next(std::int64_t step);

 private:
  Communicator& world_;
  const int tag_;
  const char* const purpose_;
  std::multimap<std::int64_t, Group> early_;  // by step
};

}  // namespace biqa
