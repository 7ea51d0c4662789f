// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>

namespace biqa {

/// Set once this process has opened a GPU. From then on it must not fork: CUDA does not support a child with a copy of its
/// state. Child processes that check files must run before this; io/child.h refuses later ones.
inline std::atomic<bool> device_is_open{false};

}  // namespace biqa
