// SPDX-License-Identifier: Apache-2.0
// Gathers, scatters, scales and adds rows.
#include "ops/cuda/rows.h"

#include "ops/cuda/kernel_support.h"

namespace biqa::cuda {
namespace {

template <typename T>
struct Gather {
  Rows<const T> x;
  const std::int64_t* rows;
  Rows<T> y;
  __device__ void operator()(std::int64_t row, int c, int count) const {
    store_elements(y[row] + c, count, load_elements(x[rows[row]] + c, count));
  }
};

struct Scatter {
  Rows<const float> x;
  const std::int64_t* rows;
  Rows<float> y;
  __device__ void operator()(std::int64_t row, int c, int count) const {
    store_elements(y[rows[row]] + c, count, load_elements(x[row] + c, count));
  }
};

struct AddRows {
  Rows<const float> x;
  const std::int64_t* targets;
  const std::int64_t* first;
  const std::int64_t* sources;
  Rows<float> y;
  __device__ void operator()(std::int64_t target, int c, int count) const {
    float* to = y[targets[target]] + c;
    Quad<float> sum = load_quad(to, count);
    for (std::int64_t i = first[target]; i < first[target + 1]; ++i) {
      const Quad<float> v = load_quad(x[sources[i]] + c, count);
      for (int j = 0; j < kQuad; ++j) sum.values[j] += v.values[j];
    }
    store_quad(to, count, sum);
  }
};

struct ScaleRows {
  Rows<const float> x;
  const float* factors;
  Rows<float> y;
  __device__ void operator()(std::int64_t row, int c, int count) const {
    Quad<float> v = load_quad(x[row] + c, count);
    for (int i = 0; i < kQuad; ++i) v.values[i] *= factors[row];
    store_quad(y[row] + c, count, v);
  }
};

template <typename T>
struct Embed {
  Rows<const T> table;
  const std::int64_t* ids;
  Rows<float> x;
  __device__ void operator()(std::int64_t row, int c, int count) const {
    store_quad(x[row] + c, count, load_quad(table[ids[row]] + c, count));
  }
};

/// Checks that `listed` has `rows` rows and the width of `other`.
void check_rows(std::int64_t rows, ConstView listed, ConstView other) {
  CHECK(rows == listed.rows() && listed.columns() == other.columns())
      << rows << " rows named, " << listed.rows() << "x" << listed.columns() << " and " << other.rows() << "x"
      << other.columns();
}

}  // namespace

void gather_rows(ConstView x, DeviceSpan<std::int64_t> rows, View y, const Stream& stream) {
  CHECK(x.type() == y.type()) << name_of(x.type()) << " to " << name_of(y.type());
  check_rows(rows.size, y, x);
  with_float_type(x.type(), [&](auto zero) {
    using T = decltype(zero);
    launch_for_quads(y.rows(), y.columns(), stream, Gather<T>{rows_of<T>(x), rows.data, rows_of<T>(y)});
  });
}

void scatter_rows(ConstView x, DeviceSpan<std::int64_t> rows, View y, const Stream& stream) {
  check_rows(rows.size, x, y);
  launch_for_quads(x.rows(), x.columns(), stream, Scatter{rows_of<float>(x), rows.data, rows_of<float>(y)});
}

void add_rows(ConstView x, const RowSums& sums, View y, const Stream& stream) {
  CHECK(x.columns() == y.columns()) << x.columns() << " and " << y.columns() << " columns";
  CHECK(sums.first.size == sums.targets.size + 1) << sums.first.size << " for " << sums.targets.size;
  launch_for_quads(
      sums.targets.size, y.columns(), stream,
      AddRows{rows_of<float>(x), sums.targets.data, sums.first.data, sums.sources.data, rows_of<float>(y)});
}

void scale_rows(ConstView x, DeviceSpan<float> factors, View y, const Stream& stream) {
  check_rows(factors.size, x, y);
  CHECK(x.rows() == y.rows()) << x.rows() << " and " << y.rows() << " rows";
  launch_for_quads(x.rows(), x.columns(), stream,
                   ScaleRows{rows_of<float>(x), factors.data, rows_of<float>(y)});
}

void embed(ConstView table, DeviceSpan<std::int64_t> ids, View x, const Stream& stream) {
  check_rows(ids.size, x, table);
  with_float_type(table.type(), [&](auto zero) {
    using T = decltype(zero);
    launch_for_quads(x.rows(), x.columns(), stream, Embed<T>{rows_of<T>(table), ids.data, rows_of<float>(x)});
  });
}

}  // namespace biqa::cuda
