// SPDX-License-Identifier: Apache-2.0
// The inner loops of the CPU backend. They are compiled once per instruction set (kernels_*.cpp) and chosen at run time.
// Each kernel works on a few rows in one thread. The interface has only plain types. So no inline function of the
// standard library is compiled for an instruction set that the machine may lack.
#pragma once

#include <cstdint>

namespace biqa::cpu {

/// Rows of f32 or bf16 elements.
struct Rows {
  const void* data;
  bool bf16;
  std::int64_t stride;  ///< elements
};
struct MutableRows {
  void* data;
  bool bf16;
  std::int64_t stride;
};

/// Largest number of queries that attend() takes at once.
inline constexpr int kQueryBlock = 8;

/// Queries that share a kv head. Keys are stored in pages of 16. The p-th page of the sequence has the index pages[p],
/// or p if `pages` is null.
struct AttendBlock {
  int queries;
  int head_dim;
  const float* q[kQueryBlock];
  std::int64_t lengths[kQueryBlock];  ///< number of keys that each query attends to
  const std::int32_t* pages;
  const void*
      keys;  ///< of this kv head in page 0: [head_dim, 16], or in bf16 pairs of rows [head_dim / 2, 16, 2]
  const void*
      values;  ///< of this kv head in page 0: [16, padded_dim], or in bf16 pairs of rows [8, padded_dim, 2]
  std::int64_t page_elements;
  bool bf16;
  float scale;
  float* scores;               ///< scratch [kQueryBlock, scores_stride]
  std::int64_t scores_stride;  ///< at least the longest length rounded up to 16
  float* out[kQueryBlock];     ///< padded_dim floats each
  float lse[kQueryBlock];
};

/// The backward pass for queries that share a kv head. Keys and values are contiguous copies, not pages.
struct AttendBackwardBlock {
  int queries;
  int head_dim;
  std::int64_t padded_dim;          ///< head_dim rounded up to 16
  const float* q[kQueryBlock];      ///< padded_dim floats each
  const float* d_out[kQueryBlock];  ///< padded_dim floats each
  float lse[kQueryBlock];
  float delta[kQueryBlock];  ///< Σ d_out ⊙ out
  std::int64_t lengths[kQueryBlock];
  const float* keys_transposed;    ///< [length/16, head_dim, 16]
  const float* values_transposed;  ///< [length/16, head_dim, 16]
  const float* keys;               ///< [length, padded_dim]
  float scale;
  float* scores;  ///< scratch [2, kQueryBlock, scores_stride]
  std::int64_t scores_stride;
  float* d_q[kQueryBlock];  ///< padded_dim floats each, written
  float* d_keys;            ///< [length, padded_dim], +=
  float* d_values;          ///< [length, padded_dim], +=
};

/// Softmax of one query's scores.
struct ScoreRow {
  float* scores;               ///< [padded_length]; overwritten
  std::int64_t length;         ///< number of keys that the query attends to
  std::int64_t padded_length;  ///< number of weights to write, a multiple of 16; those from `length` on are 0
  float scale;
  std::uint16_t* weights;  ///< bf16 exp(scale · score − maximum)
  float sum;               ///< of the weights before their rounding
  float lse;
};

/// The backward pass of softmax for 16 keys of a page and 32 queries. Writes bf16: the gradients d of the scores as
/// rows [query][key], and both weights and d as pairs of queries [query / 2][key][2].
struct ScoreGradients {
  const float* scores;          ///< [32, 16]
  const float* d_weights;       ///< [32, 16]: d_out · valuesᵀ
  const float* lse;             ///< [32]
  const float* delta;           ///< [32]: Σ d_out ⊙ out
  const std::int64_t* lengths;  ///< [32]; 0: no query
  std::int64_t first_key;
  float scale;
  std::uint16_t* rows;  ///< of d, `rows_stride` apart
  std::int64_t rows_stride;
  std::uint32_t* weight_pairs;  ///< [16, 16]
  std::uint32_t* d_pairs;       ///< [16, 16]
};

/// Softmax statistics of one row of scaled logits.
struct RowStatistics {
  float maximum;
  float sum;       ///< Σ exp(z − maximum)
  float weighted;  ///< Σ (z − maximum) exp(z − maximum)
};

/// sums += x · weights, for a few rows of x and a few panels of weights.
struct PanelProduct {
  const float* x;  ///< [rows, inner], `x_stride` apart
  std::int64_t x_stride;
  int rows;    ///< 1 … product_rows
  int panels;  ///< 1, or 2 with up to three rows, or 4 with one row
  std::int64_t inner;
  const void* weights;  ///< per panel [inner, product_columns], f32 or bf16
  bool bf16;
  std::int64_t panel_stride;  ///< elements from one panel to the next
  float* sums;                ///< [rows, panels · product_columns], `sums_stride` apart
  std::int64_t sums_stride;
};

struct Kernels {
  void (*convert)(Rows x, MutableRows y, std::int64_t rows, std::int64_t columns);
  void (*rms_norm)(const float* x, const float* weight, float eps, std::int64_t n, void* y, bool bf16);
  void (*rms_norm_backward)(const float* x, const float* weight, float eps, const float* dy, std::int64_t n,
                            float* d_x);
  void (*swiglu)(const float* gate, const float* up, std::int64_t n, void* h, bool bf16);
  void (*swiglu_backward)(const float* gate, const float* up, const float* dh, std::int64_t n, void* d_gate,
                          void* d_up, bool bf16);
  void (*rotate)(float* x, std::int64_t heads, std::int64_t head_dim, const float* cosines,
                 const float* sines, bool inverse);
  /// u[row][0..rank) = Σ_k x[row][k] · table[k][·]; table [n, padded_rank], padded_rank a multiple of 16.
  void (*reduce)(Rows x, std::int64_t rows, std::int64_t n, const float* table, std::int64_t rank,
                 std::int64_t padded_rank, float* u, std::int64_t u_stride);
  /// y[row][·] += Σ_j scale · u[row][j] · table[j][·]; table [rank, n].
  void (*expand)(const float* u, std::int64_t u_stride, std::int64_t rows, std::int64_t rank,
                 const float* table, std::int64_t table_stride, float scale, std::int64_t n, float* y,
                 std::int64_t y_stride);
  /// sum[j][begin … end) += Σ_row scale · u[row][j] · x[row][·], in order of rows; sum [rank, sum_stride].
  void (*outer)(const float* u, std::int64_t u_stride, Rows x, std::int64_t rows, std::int64_t rank,
                float scale, std::int64_t begin, std::int64_t end, float* sum, std::int64_t sum_stride);
  /// Interleaves the rows 2i and 2i + 1 of x (32 columns, up to 32 rows, bf16). `pairs` is [2][16][16]: half of the
  /// columns, pair i, column within the half. Row 2i is in the lower 16 bits. Rows from `rows` on are zero.
  void (*pair_rows)(const std::uint16_t* x, std::int64_t stride, std::int64_t rows, std::uint32_t* pairs);
  void (*attend)(AttendBlock& block);
  void (*attend_backward)(AttendBackwardBlock& block);
  void (*softmax)(ScoreRow& row);
  void (*score_gradients)(const ScoreGradients& gradients);
  float (*dot)(const float* a, const float* b, std::int64_t n);
  /// y += factor · x
  void (*add_scaled)(const float* x, float factor, std::int64_t n, float* y);
  void (*scaled)(const float* x, float factor, std::int64_t n, float* y);
  RowStatistics (*row_statistics)(const float* logits, std::int64_t n, float inverse_temperature);
  /// y = exp(logits · inverse_temperature − maximum) · factor.
  void (*row_exp)(const float* logits, std::int64_t n, float inverse_temperature, float maximum, float factor,
                  void* y, bool bf16);
  void (*panel_product)(const PanelProduct& product);
  int product_rows, product_columns;
};

const Kernels& kernels();  ///< the kernels of the best instruction set of this machine

namespace baseline {
const Kernels& table();
}
namespace avx2 {
const Kernels& table();
}
namespace avx512 {
const Kernels& table();
}

}  // namespace biqa::cpu
