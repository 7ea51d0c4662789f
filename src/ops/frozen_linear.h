// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace biqa {

/// Frozen W [out, in] and bias [out] in the backend's own layout; made by Ops::pack.
class FrozenLinear {
 public:
  FrozenLinear(std::int64_t in_width, std::int64_t out_width) : in(in_width), out(out_width) {}
  virtual ~FrozenLinear() = default;
  FrozenLinear(const FrozenLinear&) = delete;
  FrozenLinear& operator=(const FrozenLinear&) = delete;
  const std::int64_t in, out;
};

}  // namespace biqa
