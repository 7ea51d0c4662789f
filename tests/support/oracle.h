// SPDX-License-Identifier: Apache-2.0
// The operations as plain formulas in double, for comparison with the backends. Every function is a template over its
// arithmetic. With std::complex<double> the same formula gives its own derivative, Im f(x + ih) / h, exact to rounding
// for very small h (Squire and Trapp, "Using complex variables to estimate derivatives of real functions", 1998).
#pragma once

#include <cmath>
#include <complex>
#include <cstdint>
#include <functional>
#include <vector>

#include "support/compare.h"
#include "tensor/tensor.h"

namespace biqa::oracle {

template <typename T>
struct Matrix {
  Matrix(std::int64_t rows_, std::int64_t columns_)
      : rows(rows_), columns(columns_), values(static_cast<std::size_t>(rows_ * columns_)) {}
  T& operator()(std::int64_t r, std::int64_t c) { return values[static_cast<std::size_t>(r * columns + c)]; }
  const T& operator()(std::int64_t r, std::int64_t c) const {
    return values[static_cast<std::size_t>(r * columns + c)];
  }
  std::int64_t rows, columns;
  std::vector<T> values;
};
using Real = Matrix<double>;
using Complex = Matrix<std::complex<double>>;

inline Real matrix_of(ConstView view) {
  Real matrix(view.rows(), view.columns());
  for (std::int64_t r = 0; r < view.rows(); ++r) {
    for (std::int64_t c = 0; c < view.columns(); ++c) matrix(r, c) = testing::element_of(view, r, c);
  }
  return matrix;
}
/// The matrix, rounded to bf16 if `type` is bf16.
inline Real rounded(Real matrix, DType type) {
  if (type == DType::bf16) {
    for (double& value : matrix.values) value = to_float(to_bf16(static_cast<float>(value)));
  }
  return matrix;
}
inline Complex complex_of(const Real& x) {
  Complex z(x.rows, x.columns);
  for (std::size_t i = 0; i < x.values.size(); ++i) z.values[i] = x.values[i];
  return z;
}

/// ∂f/∂x at every `stride`-th element (the others stay 0). f takes a Complex and returns a std::complex<double>.
template <typename Function>
Real gradient(const Real& x, const Function& f, std::size_t stride = 1) {
  constexpr double kStep = 1e-40;
  Complex z = complex_of(x);
  Real result(x.rows, x.columns);
  for (std::size_t i = 0; i < x.values.size(); i += stride) {
    z.values[i] = {x.values[i], kStep};
    result.values[i] = std::imag(f(z)) / kStep;
    z.values[i] = x.values[i];
  }
  return result;
}

/// Σ w ⊙ y: the scalar whose derivative with respect to y is w.
template <typename T>
T contract(const Real& w, const Matrix<T>& y) {
  T sum{};
  for (std::size_t i = 0; i < w.values.size(); ++i) sum += w.values[i] * y.values[i];
  return sum;
}

/// x · Wᵀ
template <typename T>
Matrix<T> linear(const Matrix<T>& x, const Real& w) {
  Matrix<T> y(x.rows, w.rows);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t o = 0; o < w.rows; ++o) {
      for (std::int64_t i = 0; i < w.columns; ++i) y(t, o) += x(t, i) * w(o, i);
    }
  }
  return y;
}

template <typename T>
Matrix<T> rms_norm(const Matrix<T>& x, const Real& weight, double eps) {
  Matrix<T> y(x.rows, x.columns);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    T squares{};
    for (std::int64_t i = 0; i < x.columns; ++i) squares += x(t, i) * x(t, i);
    const T scale = 1.0 / std::sqrt(squares / static_cast<double>(x.columns) + eps);
    for (std::int64_t i = 0; i < x.columns; ++i) y(t, i) = x(t, i) * scale * weight(0, i);
  }
  return y;
}

/// silu(gate) ⊙ up of [gate | up].
template <typename T>
Matrix<T> swiglu(const Matrix<T>& gate_up) {
  const std::int64_t n = gate_up.columns / 2;
  Matrix<T> h(gate_up.rows, n);
  for (std::int64_t t = 0; t < h.rows; ++t) {
    for (std::int64_t i = 0; i < n; ++i)
      h(t, i) = gate_up(t, i) / (1.0 + std::exp(-gate_up(t, i))) * gate_up(t, n + i);
  }
  return h;
}

/// x · Φ(x)
inline double gelu(double x) {
  return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
}

/// Rotates the pairs (j, j + D/2) of every head by the angles with these cosines and sines.
inline Real rotate(const Real& x, std::int64_t head_dim, const Real& cosines, const Real& sines,
                   bool inverse) {
  Real y(x.rows, x.columns);
  const std::int64_t half = head_dim / 2;
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t head = 0; head < x.columns; head += head_dim) {
      for (std::int64_t j = 0; j < half; ++j) {
        const double c = cosines(t, j);
        const double s = inverse ? -sines(t, j) : sines(t, j);
        y(t, head + j) = x(t, head + j) * c - x(t, head + j + half) * s;
        y(t, head + j + half) = x(t, head + j + half) * c + x(t, head + j) * s;
      }
    }
  }
  return y;
}

/// visible[t]: the key rows that query row t attends to.
using Visible = std::vector<std::vector<std::int64_t>>;

/// Softmax over the visible keys of query row t, for one head: `head_dim` columns each from q_column and k_column.
template <typename T>
std::vector<T> probabilities(const Matrix<T>& q, const Matrix<T>& k, std::int64_t t, std::int64_t q_column,
                             std::int64_t k_column, std::int64_t head_dim,
                             const std::vector<std::int64_t>& keys, T* log_sum = nullptr) {
  std::vector<T> p;
  double highest = -HUGE_VAL;
  for (const std::int64_t j : keys) {
    T score{};
    for (std::int64_t d = 0; d < head_dim; ++d) score += q(t, q_column + d) * k(j, k_column + d);
    p.push_back(score / std::sqrt(static_cast<double>(head_dim)));
    highest = std::max(highest, std::real(p.back()));
  }
  T sum{};
  for (T& value : p) sum += value = std::exp(value - highest);
  for (T& value : p) value /= sum;
  if (log_sum != nullptr) *log_sum = highest + std::log(sum);
  return p;
}

/// softmax(q·Kᵀ/√D)·V with heads / kv_heads query heads to a key head.
template <typename T>
Matrix<T> attention(const Matrix<T>& q, const Matrix<T>& k, const Matrix<T>& v, std::int64_t heads,
                    std::int64_t kv_heads, const Visible& visible) {
  const std::int64_t head_dim = q.columns / heads;
  Matrix<T> out(q.rows, q.columns);
  for (std::int64_t t = 0; t < q.rows; ++t) {
    const auto& keys = visible[static_cast<std::size_t>(t)];
    for (std::int64_t h = 0; h < heads; ++h) {
      const std::int64_t k_column = h / (heads / kv_heads) * head_dim;
      const std::vector<T> p = probabilities(q, k, t, h * head_dim, k_column, head_dim, keys);
      for (std::size_t j = 0; j < keys.size(); ++j) {
        for (std::int64_t d = 0; d < head_dim; ++d)
          out(t, h * head_dim + d) += p[j] * v(keys[j], k_column + d);
      }
    }
  }
  return out;
}

/// scale · (mask ⊙ x)·Aᵀ·Bᵀ; B may also be complex.
template <typename T>
Matrix<T> lora(const Matrix<T>& x, const Matrix<T>& a, const Matrix<T>& b, const Real& mask, double scale) {
  Matrix<T> y(x.rows, b.rows);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t r = 0; r < a.rows; ++r) {
      T u{};
      for (std::int64_t i = 0; i < x.columns; ++i) u += mask(t, i) * x(t, i) * a(r, i);
      for (std::int64_t o = 0; o < b.rows; ++o) y(t, o) += scale * u * b(o, r);
    }
  }
  return y;
}

template <typename T>
struct LogProb {
  T logp{}, entropy{};
};
/// log softmax(h·Wᵀ/temperature)[target] of one row, and the softmax's entropy.
template <typename T>
LogProb<T> log_prob(const Matrix<T>& h, std::int64_t t, const Real& head, std::int64_t target,
                    double temperature) {
  std::vector<T> logits(static_cast<std::size_t>(head.rows));
  double highest = -HUGE_VAL;
  for (std::int64_t o = 0; o < head.rows; ++o) {
    T& z = logits[static_cast<std::size_t>(o)];
    for (std::int64_t i = 0; i < head.columns; ++i) z += h(t, i) * head(o, i);
    z /= temperature;
    highest = std::max(highest, std::real(z));
  }
  T sum{};
  T weighted{};
  for (const T& z : logits) {
    sum += std::exp(z - highest);
    weighted += (z - highest) * std::exp(z - highest);
  }
  return {logits[static_cast<std::size_t>(target)] - highest - std::log(sum), std::log(sum) - weighted / sum};
}

}  // namespace biqa::oracle
