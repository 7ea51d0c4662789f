// SPDX-License-Identifier: Apache-2.0
// The table of cases for every implementation of an operation: shapes of 1, not multiples of 32, larger than a warp and
// of a few thousand; types; seeds. op_tables.cpp has the table. tests/ops runs it on the backends of operations.h.
// The tensors of a case are drawn from its seed and, where there are several, the numbers that follow it.
//
// Some operations also have their checks here, for implementations outside operations.h. Such a check creates the inputs of
// a case and runs an implementation. It compares every output with a sum in double, within a bound computed from the
// length of the sum and the types (docs/numerics.md).
#pragma once

#include <cstdint>
#include <functional>
#include <ostream>
#include <vector>

#include "ops/batch.h"
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

const std::vector<RmsNormCase>& rms_norm_cases();
const std::vector<LinearCase>& linear_cases();

/// --- products ---
struct LinearBackwardCase {
  std::int64_t tokens, in, out;
  DType type;
  std::uint64_t seed;
};
/// Products whose rows must have the same bits in batches of each of these numbers of rows, the last ones of `tokens`.
struct LinearBatchCase {
  std::int64_t tokens, in, out;
  DType type;
  std::uint64_t seed;
  std::vector<std::int64_t> batches;
};
const std::vector<LinearBackwardCase>& linear_backward_cases();
/// A product with bias that is added to what its output holds.
const std::vector<LinearBackwardCase>& linear_accumulate_cases();
const std::vector<LinearBatchCase>& linear_batch_cases();
/// Every number of rows up to `tokens`.
const std::vector<LinearBatchCase>& linear_every_batch_cases();

/// --- rows ---
struct RmsNormBackwardCase {
  std::int64_t rows, columns;
  float epsilon;
  std::uint64_t seed;
};
/// An operation on elements; `columns` and `output` are those of its result.
struct ElementsCase {
  std::int64_t rows, columns;
  DType output;
  std::uint64_t seed;
};
struct RotateCase {
  std::int64_t rows, heads, head_dim;
  std::uint64_t seed;
};
/// Rows that are gathered, embedded or added to, and factors of as many others.
struct SelectCase {
  std::int64_t rows, columns;
  std::vector<std::int64_t> selected;
  std::vector<float> factors;
  std::uint64_t seed;
};
/// RMSNorm over norm_columns and SwiGLU to swiglu_columns, in batches as in LinearBatchCase.
struct RowBatchCase {
  std::int64_t rows, norm_columns, swiglu_columns;
  DType output;
  std::uint64_t seed;
  std::vector<std::int64_t> batches;
};
const std::vector<RmsNormBackwardCase>& rms_norm_backward_cases();
const std::vector<ElementsCase>& swiglu_cases();
const std::vector<ElementsCase>& swiglu_backward_cases();
const std::vector<ElementsCase>& gelu_cases();
const std::vector<RotateCase>& rotate_cases();
const std::vector<SelectCase>& select_cases();
const std::vector<RowBatchCase>& row_batch_cases();

/// --- adapters ---
/// An adapted projection: columns [offset, offset + out) of a fused output.
struct LoraPart {
  std::int64_t rank, out, offset;
  float scale;
};
/// `batches`: as in LinearBatchCase.
struct LoraCase {
  std::int64_t rows, in, total_out;
  std::vector<LoraPart> parts;
  DType type;
  double rate;  ///< of dropout
  std::uint64_t seed;
  std::vector<std::int64_t> batches{};
};
const std::vector<LoraCase>& lora_cases();
const std::vector<LoraCase>& lora_batch_cases();

/// --- attention ---
/// Sequences of packed queries, each after keys that were stored before. Attention of one sequence of `length` tokens, in batches
/// of its last rows. Segments of a vision tower.
struct AttentionCase {
  struct Sequence {
    std::int64_t rows, preceding;
  };
  HeadShape shape;
  DType type;
  std::uint64_t seed;
  std::vector<Sequence> sequences;
  std::int64_t length;
  std::vector<std::int64_t> batches;
  std::vector<std::int64_t> boundaries;  ///< of the segments
  /// Of a sequence whose keys and values may be no numbers after the first `finite_tokens`.
  std::int64_t tokens, finite_tokens;
};
/// Prompts with their members (rows of each completion). `last`: only the prompts' last rows have queries.
struct AttentionBackwardCase {
  struct Group {
    std::int64_t prompt;
    std::vector<std::int64_t> members;
  };
  HeadShape shape;
  DType type;
  bool last;
  std::uint64_t seed;
  std::vector<Group> groups;
};
const std::vector<AttentionCase>& attention_cases();
const std::vector<AttentionBackwardCase>& attention_backward_cases();

/// --- head ---
/// `batches`: as in LinearBatchCase.
struct HeadCase {
  std::int64_t rows, hidden, vocabulary;
  float temperature;
  DType type;
  std::uint64_t seed;
  std::vector<std::int64_t> batches{};
};
const std::vector<HeadCase>& head_cases();
const std::vector<HeadCase>& head_batch_cases();
/// One row of which is made no number.
const std::vector<HeadCase>& head_not_finite_cases();

// GoogleTest prints a failing case with these.
std::ostream& operator<<(std::ostream& out, const RmsNormCase& c);
std::ostream& operator<<(std::ostream& out, const LinearCase& c);
std::ostream& operator<<(std::ostream& out, const LinearBackwardCase& c);
std::ostream& operator<<(std::ostream& out, const LinearBatchCase& c);
std::ostream& operator<<(std::ostream& out, const RmsNormBackwardCase& c);
std::ostream& operator<<(std::ostream& out, const ElementsCase& c);
std::ostream& operator<<(std::ostream& out, const RotateCase& c);
std::ostream& operator<<(std::ostream& out, const SelectCase& c);
std::ostream& operator<<(std::ostream& out, const RowBatchCase& c);
std::ostream& operator<<(std::ostream& out, const LoraCase& c);
std::ostream& operator<<(std::ostream& out, const AttentionCase& c);
std::ostream& operator<<(std::ostream& out, const AttentionBackwardCase& c);
std::ostream& operator<<(std::ostream& out, const HeadCase& c);

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

/// Fails the current test if a result is out of bounds or a byte around the output has changed. Also compares with
/// `other`, a second implementation within bounds; the two may differ by twice the bound.
void check_rms_norm(const RmsNormCase& c, const RunRmsNorm& run, const RunRmsNorm& other = nullptr);
void check_linear(const LinearCase& c, const RunLinear& run, const RunLinear& other = nullptr);

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
