// SPDX-License-Identifier: Apache-2.0
// SHA-256, for comparison with digests computed by Python.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace biqa {

/// 64 lower-case hex digits. Source: FIPS 180-4.
std::string sha256(std::span<const std::byte> bytes);

}  // namespace biqa
