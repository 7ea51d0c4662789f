// SPDX-License-Identifier: Apache-2.0
// Runs the same work on all ranks, and checks that they have read the same input.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "comm/communicator.h"

namespace biqa {

/// Runs the same `work` on every rank; it must not communicate. If it fails, the lowest failing rank throws. The others
/// wait until the job is ended, so that the reason is reported once. Collective.
void run_alike(Communicator& world, const std::function<void()>& work);

/// Throws (usage) on the first rank if another rank has a different `digest`; the others wait as in run_alike().
/// Without this check, ranks that read different files would wait for each other for ever. `what` completes the message
/// "rank 3 has … than rank 0", for example "other manifests". Collective.
void check_agreement(Communicator& world, const std::string& what, std::uint64_t digest);

/// Throws (usage) on the first rank if two ranks have the same `device` (Ops::device_name); the others wait as in run_alike().
/// A UUID names a device of any node, an address only a device of `node`. A rank without a device of its own passes an
/// empty name. Collective.
void check_own_devices(Communicator& world, const std::string& node, const std::string& device);

/// Throws (usage) on the first rank if another rank has a device of another type (Ops::device_type); the others wait as
/// in run_alike(). Collective.
void check_same_devices(Communicator& world, const std::string& type);

}  // namespace biqa
