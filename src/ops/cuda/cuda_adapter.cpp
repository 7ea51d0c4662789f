// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/cuda_adapter.h"

#include <array>
#include <utility>

#include "ops/cuda/transpose.h"

namespace biqa::cuda {
namespace {

/// [rows, columns] of the flat vector.
template <typename Flat>
Flat matrix_of(Flat flat, std::size_t offset, std::int64_t rows, std::int64_t columns) {
  const Flat range = flat.column_range(static_cast<std::int64_t>(offset), rows * columns);
  return {range.address(), range.type(), rows, columns, columns, range.memory()};
}

void reduce_rows(ConstView x, const Factors& factors, std::int64_t first, std::int64_t count,
                 const DropoutMask& mask, View u, Arena& arena, const Stream& stream) {
  if (factors.tiled())
    reduce(x, factors.split().row_range(first, count), mask, u, arena, stream);
  else
    reduce(x, factors.values().row_range(first, count), mask, u, stream);
}

}  // namespace

Factors::Factors(Tensor values, bool tiled, CudaMemory& memory, const Stream& stream) {
  if (!tiled) {
    values_ = std::move(values);
    return;
  }
  high_ = memory.allocate(DType::bf16, values.rows(), values.columns(), "adapter");
  low_ = memory.allocate(DType::bf16, values.rows(), values.columns(), "adapter");
  cuda::split(values.view(), high_.view(), low_.view(), stream);
}

void AdapterInput::add(const LoraModule& module, std::int64_t column, ConstView flat, CudaMemory& memory,
                       const Stream& stream) {
  Tensor down = copied_to(memory, matrix_of(flat, module.a_offset, module.rank, module.in), "adapter");
  Tensor up = memory.allocate(DType::f32, module.rank, module.out, "adapter");
  transpose(matrix_of(flat, module.b_offset, module.out, module.rank), up.view(), stream);
  parts_.push_back({module, column, rank_, std::move(down), std::move(up), {}});
  rank_ += module.rank;
}

void AdapterInput::finish(DType compute, std::int64_t outputs, CudaMemory& memory, const Stream& stream) {
  if (parts_.empty()) return;
  const std::int64_t in = parts_.front().module.in;
  std::vector<std::int64_t> widths{in, outputs};
  for (const Part& part : parts_) widths.insert(widths.end(), {part.column, part.module.out});
  const bool tiled = adapter_fits_tiles(compute, widths);
  Tensor down = memory.allocate(DType::f32, rank_, in, "adapter");
  for (Part& part : parts_) {
    memory.copy(part.down.view(), down.view().row_range(part.rank_offset, part.module.rank));
    part.down = {};
    part.up = Factors(std::move(part.up_values), tiled, memory, stream);
  }
  down_ = Factors(std::move(down), tiled, memory, stream);
}

template <typename Inner>
Inner AdapterInput::inner_of(const Part& part, Inner inner) {
  return inner.column_range(part.rank_offset, part.module.rank);
}

DropoutMask AdapterInput::mask(const InputDropout& dropout, std::size_t projection) const {
  return {dropout.rate, dropout.key, projection, dropout.token_keys};
}

void AdapterInput::reduce_input(ConstView x, const InputDropout& dropout, View u, Arena& arena,
                                const Stream& stream) const {
  if (dropout.rate <= 0) {
    reduce_rows(x, down_, 0, rank_, {}, u, arena, stream);
    return;
  }
  for (std::size_t p = 0; p < parts_.size(); ++p) {  // every projection sees other elements of x
    const Part& part = parts_[p];
    reduce_rows(x, down_, part.rank_offset, part.module.rank, mask(dropout, p), inner_of(part, u), arena,
                stream);
  }
}

void AdapterInput::add_output(ConstView u, View y, const Stream& stream) const {
  for (const Part& part : parts_) {
    const View columns = y.column_range(part.column, part.module.out);
    if (part.up.tiled())
      expand(std::array{output_term(u, part.column)}, columns, stream);
    else
      expand(inner_of(part, u), part.up.values(), part.module.scale, {}, columns, stream);
  }
}

LowRankTerm AdapterInput::output_term(ConstView u, std::int64_t column) const {
  for (const Part& part : parts_) {
    if (part.column == column) return {inner_of(part, u), part.up.split(), part.module.scale, {}};
  }
  return {};
}

void AdapterInput::reduce_gradient(ConstView dy, View g, Arena& arena, const Stream& stream) const {
  for (const Part& part : parts_) {
    reduce_rows(dy.column_range(part.column, part.module.out), part.up, 0, part.module.rank, {},
                inner_of(part, g), arena, stream);
  }
}

void AdapterInput::add_gradients(ConstView x, ConstView u, ConstView dy, ConstView g,
                                 const InputDropout& dropout, View gradient, Arena& arena,
                                 const Stream& stream) const {
  const bool tiled = down_.tiled();
  const auto add_outer = [&](ConstView inner, ConstView outside, const DropoutMask& kept, float scale,
                             bool transposed, View target) {
    if (tiled)
      outer(inner, outside, kept, scale, transposed, target, arena, stream);
    else
      outer(inner, outside, kept, scale, transposed, target, stream);
  };
  for (std::size_t p = 0; p < parts_.size(); ++p) {
    const Part& part = parts_[p];
    const LoraModule& module = part.module;
    add_outer(inner_of(part, g), x, mask(dropout, p), module.scale, false,
              matrix_of(gradient, module.a_offset, module.rank, module.in));
    add_outer(inner_of(part, u), dy.column_range(part.column, module.out), {}, module.scale, true,
              matrix_of(gradient, module.b_offset, module.out, module.rank));
  }
}

void AdapterInput::add_input_gradient(ConstView g, const InputDropout& dropout, View d_x,
                                      const Stream& stream) const {
  std::vector<LowRankTerm> terms;
  for (std::size_t p = 0; p < parts_.size(); ++p) {
    const Part& part = parts_[p];
    if (down_.tiled())
      terms.push_back(input_gradient_term(p, g, dropout));
    else
      expand(inner_of(part, g), down_.values().row_range(part.rank_offset, part.module.rank),
             part.module.scale, mask(dropout, p), d_x, stream);
  }
  if (!terms.empty()) expand(terms, d_x, stream);
}

LowRankTerm AdapterInput::input_gradient_term(std::size_t projection, ConstView g,
                                              const InputDropout& dropout) const {
  const Part& part = parts_[projection];
  return {inner_of(part, g), down_.split().row_range(part.rank_offset, part.module.rank), part.module.scale,
          mask(dropout, projection)};
}

LowRankTerm AdapterInput::input_gradient_term(ConstView g, const InputDropout& dropout) const {
  if (parts_.empty()) return {};
  CHECK_EQ(parts_.size(), std::size_t{1});
  return input_gradient_term(0, g, dropout);
}

}  // namespace biqa::cuda
