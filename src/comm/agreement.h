// SPDX-License-Identifier: Apache-2.0
// Work that all ranks do alike, and whether they agree on what they read.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "comm/communicator.h"

namespace biqa {

/// Runs `work`, which every rank does alike and without the others. If it fails, the first rank on which it fails
/// throws. The others wait until the job is ended, so that the reason is reported once. Collective.
void run_alike(Communicator& world, const std::function<void()>& work);

/// Throws (usage) on the first rank if another rank has a different `digest`; the others wait as in run_alike().
/// Otherwise nodes that read different files would wait for each other for ever. `what`: "other manifests". Collective.
void check_agreement(Communicator& world, const std::string& what, std::uint64_t digest);

}  // namespace biqa
