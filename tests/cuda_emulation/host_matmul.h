// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "ops/cuda/product_library.h"

namespace biqa::emulation {

/// If positive: products of this thread with so many rows have other bits, as in a library that breaks batch invariance.
inline thread_local std::int64_t altered_rows = 0;
/// By how much, relative to the sum and absolute.
inline thread_local float altered_share = 0, altered_value = 1;

/// What the library proposes besides its only algorithm, for this thread. `none` suits most tests, because comparing
/// algorithms takes time.
enum class Proposals {
  none,
  /// For up to 64 rows, first an algorithm that sums the halves of the inner width apart. For up to 64 rows and from
  /// 1024 rows on, also one with the same bits under another name. The library has a version, so results are kept.
  several
};
inline thread_local Proposals proposals = Proposals::none;
/// Rows that algorithms of this thread have multiplied, by their first word: the only one, halves, another name.
inline thread_local std::int64_t rows_of_algorithm[3] = {0, 0, 0};

/// Stands in for cuBLASLt: loops over device memory, sums in f32. Waits for all streams first, and is done when the call
/// returns.
class HostProducts : public cuda::ProductLibrary {
 public:
  std::string version() const override { return proposals == Proposals::none ? "" : "host loops 1"; }
  bool rows_are_independent() const override { return proposals == Proposals::none; }
  std::vector<cuda::Algorithm> candidates(const cuda::Product& product, std::int64_t rows, int most) override;
  bool multiply(const cuda::ProductOperands& operands, const cuda::Algorithm& algorithm) override;
};

}  // namespace biqa::emulation
