// SPDX-License-Identifier: Apache-2.0
#include "training/group_inbox.h"

#include <glog/logging.h>

#include <utility>

#include "data/wire.h"

namespace biqa {

Group GroupInbox::next(std::int64_t step) {
  const auto waiting = early_.find(step);
  if (waiting != early_.end()) {
    Group group = std::move(waiting->second);
    early_.erase(waiting);
    return group;
  }
  for (;;) {
    Group group = parse_group(world_.receive(kAnyRank, tag_, purpose_).bytes);
    if (group.step == step) return group;
    CHECK_GT(group.step, step) << "a group of an earlier step arrived late";
    early_.emplace(group.step, std::move(group));
  }
}

}  // namespace biqa
