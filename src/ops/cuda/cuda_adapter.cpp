// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/cuda_adapter.h"

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
void expand_rows(ConstView u, const Factors& factors, std::int64_t first, std::int64_t count, float scale,
                 const DropoutMask& mask, View y, const Stream& stream) {
  if (factors.tiled())
    expand(u, factors.split().row_range(first, count), scale, mask, y, stream);
  else
    expand(u, factors.values().row_range(first, count), scale, mask, y, stream);
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

DropoutMask AdapterInput::mask(const InputDropout& dropout, std::size_t projection) const {
  return {dropout.rate, dropout.key, projection, dropout.token_keys};
}

void AdapterInput::forward(ConstView x, const InputDropout& dropout, View u, View y, Arena& arena,
                           const Stream& stream) const {
  if (dropout.rate <= 0) {
    reduce_rows(x, down_, 0, rank_, {}, u, arena, stream);
  } else {  // every projection sees other elements of x
    for (std::size_t p = 0; p < parts_.size(); ++p) {
      const Part& part = parts_[p];
      reduce_rows(x, down_, part.rank_offset, part.module.rank, mask(dropout, p),
                  u.column_range(part.rank_offset, part.module.rank), arena, stream);
    }
  }
  for (const Part& part : parts_) {
    expand_rows(u.column_range(part.rank_offset, part.module.rank), part.up, 0, part.module.rank,
                part.module.scale, {}, y.column_range(part.column, part.module.out), stream);
  }
}

void AdapterInput::backward(ConstView x, ConstView u, ConstView dy, const InputDropout& dropout, View d_x,
                            View gradient, Arena& arena, const Stream& stream) const {
  const bool tiled = down_.tiled();
  const auto add_outer = [&](ConstView g, ConstView input, const DropoutMask& kept, float scale,
                             bool transposed, View target) {
    if (tiled)
      outer(g, input, kept, scale, transposed, target, arena, stream);
    else
      outer(g, input, kept, scale, transposed, target, stream);
  };
  for (std::size_t p = 0; p < parts_.size(); ++p) {
    const Part& part = parts_[p];
    const LoraModule& module = part.module;
    const ConstView dy_part = dy.column_range(part.column, module.out);
    const DropoutMask kept = mask(dropout, p);
    const Arena::Scope scope(arena);
    const View g = arena.take(DType::f32, x.rows(), module.rank);
    reduce_rows(dy_part, part.up, 0, module.rank, {}, g, arena, stream);
    add_outer(g, x, kept, module.scale, false, matrix_of(gradient, module.a_offset, module.rank, module.in));
    add_outer(u.column_range(part.rank_offset, module.rank), dy_part, {}, module.scale, true,
              matrix_of(gradient, module.b_offset, module.out, module.rank));
    if (d_x.empty()) continue;
    expand_rows(g, down_, part.rank_offset, module.rank, module.scale, kept, d_x, stream);
  }
}

}  // namespace biqa::cuda
