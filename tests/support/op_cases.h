// SPDX-License-Identifier: Apache-2.0
// The table of cases for every implementation of an operation: shapes of 1, not multiples of 32, larger than a warp and
// of a few thousand; types; seeds. Each check creates the inputs of a case and runs an implementation. It compares
// every output with a sum in double, within a bound computed from the length of the sum and the types
// (docs/numerics.md).
#pragma once

#include <cstdint>
#include <functional>
#include <ostream>
#include <vector>

#include "tensor/tensor.h"

namespace biqa::testing {

struct RmsNormCase {
  std::int64_t rows, columns;
  DType output;
  float epsilon;
  std::uint64_t seed;
};
struct LinearCase {
  std::int64_t tokens, in, out;
  DType input, output;
  bool bias;
  std::uint64_t seed;
};
struct BroadcastCase {
  int ranks, root;
  DType type;
  std::int64_t rows, columns;
};

const std::vector<RmsNormCase>& rms_norm_cases();
const std::vector<LinearCase>& linear_cases();
const std::vector<BroadcastCase>& broadcast_cases();

// GoogleTest prints a failing case with these.
std::ostream& operator<<(std::ostream& out, const RmsNormCase& c);
std::ostream& operator<<(std::ostream& out, const LinearCase& c);
std::ostream& operator<<(std::ostream& out, const BroadcastCase& c);

/// Unit roundoff: half the distance from 1 to the next number of this type.
double roundoff(DType type);

/// Bound on |y − Σ aᵢbᵢ| for a sum of `terms` products taken in f32 in any order and rounded to `output`,
/// where `magnitude` = Σ |aᵢbᵢ|: (min(n, 8·√n) + 2) · 2⁻²⁴ · magnitude + roundoff(output) · |y|. The worst
/// case of n roundings is n · 2⁻²⁴; independent ones stay below λ·√n · 2⁻²⁴ except with probability
/// 2·exp(−λ²/2) (Higham and Mary, "A new approach to probabilistic rounding error analysis", 2019), here λ = 8.
double sum_bound(std::int64_t terms, double magnitude, DType output, double y);

/// Relative bound for RMSNorm: half the bound of its sum of squares (all of one sign; the root halves it), five
/// roundings of mean, epsilon, root, quotient and products, and the rounding of the output.
double rms_norm_bound(std::int64_t columns, DType output);

/// Runs an implementation on host views. It must write y, whose rows are spaced, and nothing else.
using RunRmsNorm = std::function<void(ConstView x, ConstView weight, float epsilon, View y)>;
using RunLinear = std::function<void(ConstView x, ConstView weight, ConstView bias, View y)>;
/// Broadcasts the dense `data` as rank `rank` of the case's world. One thread per rank calls it at the same time.
using RunBroadcast = std::function<void(int rank, View data, int root)>;

/// Fails the current test if a result is out of bounds or a byte around the output has changed. Also compares with
/// `other`, a second implementation within bounds; the two may differ by twice the bound.
void check_rms_norm(const RmsNormCase& c, const RunRmsNorm& run, const RunRmsNorm& other = nullptr);
void check_linear(const LinearCase& c, const RunLinear& run, const RunLinear& other = nullptr);
/// Every rank must have the root's bits at the end.
void check_broadcast(const BroadcastCase& c, const RunBroadcast& run);

/// An output [rows, columns] inside a larger allocation. All of it is first filled with a known byte.
class GuardedOutput {
 public:
  GuardedOutput(DType type, std::int64_t rows, std::int64_t columns);
  View view() { return part_of(whole_.view()); }
  /// The whole allocation, for an implementation that copies it to a device and back.
  Tensor& whole() { return whole_; }
  /// The part of `whole`, a matrix with the shape of whole(), that corresponds to view().
  View part_of(View whole) const { return whole.row_range(1, rows_).column_range(kMargin, columns_); }
  /// Number of elements outside view() that have changed.
  std::int64_t damaged() const;

 private:
  static constexpr std::int64_t kMargin = 3;
  std::int64_t rows_, columns_;
  Tensor whole_;
};

}  // namespace biqa::testing
