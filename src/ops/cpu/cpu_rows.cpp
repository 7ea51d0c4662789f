// SPDX-License-Identifier: Apache-2.0
// Operations that take rows one by one.
#include <cmath>
#include <cstring>

#include "ops/cpu/cpu_ops.h"

namespace biqa {
namespace {

using cpu::row_pointer;
using cpu::rows_of;

}  // namespace

void CpuOps::rms_norm(ConstView x, ConstView weight, float eps, View y) {
  CHECK(x.rows() == y.rows() && x.columns() == y.columns() && weight.columns() == x.columns());
  parallel(x.rows(), 32, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t r = first; r < first + count; ++r) {
      k_.rms_norm(x.row<float>(r), weight.row<float>(0), eps, x.columns(), row_pointer(y, r),
                  y.type() == DType::bf16);
    }
  });
}

void CpuOps::rms_norm_backward(ConstView x, ConstView weight, float eps, ConstView dy, View d_x) {
  CHECK(x.rows() == dy.rows() && x.rows() == d_x.rows());
  parallel(x.rows(), 32, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t r = first; r < first + count; ++r) {
      k_.rms_norm_backward(x.row<float>(r), weight.row<float>(0), eps, dy.row<float>(r), x.columns(),
                           d_x.row<float>(r));
    }
  });
}

void CpuOps::swiglu(ConstView gate_up, View h) {
  const std::int64_t n = h.columns();
  CHECK(gate_up.columns() == 2 * n && gate_up.rows() == h.rows());
  parallel(h.rows(), 16, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t r = first; r < first + count; ++r) {
      k_.swiglu(gate_up.row<float>(r), gate_up.row<float>(r) + n, n, row_pointer(h, r),
                h.type() == DType::bf16);
    }
  });
}

void CpuOps::swiglu_backward(ConstView gate_up, ConstView dh, View d_gate_up) {
  const std::int64_t n = dh.columns();
  CHECK(gate_up.columns() == 2 * n && d_gate_up.columns() == 2 * n && gate_up.rows() == dh.rows());
  parallel(dh.rows(), 16, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t r = first; r < first + count; ++r) {
      k_.swiglu_backward(gate_up.row<float>(r), gate_up.row<float>(r) + n, dh.row<float>(r), n,
                         row_pointer(d_gate_up.column_range(0, n), r),
                         row_pointer(d_gate_up.column_range(n, n), r), d_gate_up.type() == DType::bf16);
    }
  });
}

void CpuOps::gelu(ConstView x, View y) {
  CHECK(x.rows() == y.rows() && x.columns() == y.columns());
  parallel(x.rows(), 8, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t r = first; r < first + count; ++r) {
      const float* source = x.row<float>(r);
      for (std::int64_t c = 0; c < x.columns(); ++c) {
        const float value = 0.5F * source[c] * (1.0F + std::erf(source[c] * 0.70710678118654752F));
        if (y.type() == DType::bf16)
          y.row<Bf16>(r)[c] = to_bf16(value);
        else
          y.row<float>(r)[c] = value;
      }
    }
  });
}

void CpuOps::rotate(View x, std::int64_t head_dim, ConstView cosines, ConstView sines, bool inverse) {
  CHECK(x.columns() % head_dim == 0 && cosines.rows() == x.rows() && cosines.columns() == head_dim / 2);
  parallel(x.rows(), 32, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t r = first; r < first + count; ++r) {
      k_.rotate(x.row<float>(r), x.columns() / head_dim, head_dim, cosines.row<float>(r), sines.row<float>(r),
                inverse);
    }
  });
}

void CpuOps::convert(ConstView x, View y) {
  CHECK(x.rows() == y.rows() && x.columns() == y.columns());
  parallel(x.rows(), 32, [&](std::int64_t first, std::int64_t count) {
    k_.convert(rows_of(x.row_range(first, count)), rows_of(y.row_range(first, count)), count, x.columns());
  });
}

void CpuOps::gather_rows(ConstView x, std::span<const std::int64_t> rows, View y) {
  CHECK(x.type() == y.type() && x.columns() == y.columns() &&
        static_cast<std::int64_t>(rows.size()) == y.rows());
  const std::size_t bytes = static_cast<std::size_t>(x.columns()) * size_of(x.type());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(row_pointer(y, static_cast<std::int64_t>(i)), row_pointer(x, rows[i]), bytes);
  }
}

void CpuOps::scatter_add_rows(ConstView x, std::span<const std::int64_t> rows, View y) {
  CHECK(static_cast<std::int64_t>(rows.size()) == x.rows() && x.columns() == y.columns());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    k_.add_scaled(x.row<float>(static_cast<std::int64_t>(i)), 1.0F, x.columns(), y.row<float>(rows[i]));
  }
}

void CpuOps::scale_rows(ConstView x, std::span<const float> factors, View y) {
  CHECK(static_cast<std::int64_t>(factors.size()) == x.rows());
  parallel(x.rows(), 64, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t r = first; r < first + count; ++r) {
      k_.scaled(x.row<float>(r), factors[static_cast<std::size_t>(r)], x.columns(), y.row<float>(r));
    }
  });
}

void CpuOps::embed(ConstView table, std::span<const std::int64_t> ids, View x) {
  CHECK(static_cast<std::int64_t>(ids.size()) == x.rows() && table.columns() == x.columns());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    CHECK(ids[i] >= 0 && ids[i] < table.rows()) << "token id " << ids[i] << " of " << table.rows();
    const auto row = static_cast<std::int64_t>(i);
    k_.convert(rows_of(table.row_range(ids[i], 1)), rows_of(x.row_range(row, 1)), 1, x.columns());
  }
}

}  // namespace biqa
