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

}  // namespace

void AdapterInput::add(const LoraModule& module, std::int64_t column, ConstView flat, CudaMemory& memory,
                       const Stream& stream) {
  downs_.push_back(copied_to(memory, matrix_of(flat, module.a_offset, module.rank, module.in), "adapter"));
  Tensor up = memory.allocate(DType::f32, module.rank, module.out, "adapter");
  transpose(matrix_of(flat, module.b_offset, module.out, module.rank), up.view(), stream);
  parts_.push_back({module, column, rank_, std::move(up)});
  rank_ += module.rank;
}

void AdapterInput::finish(CudaMemory& memory) {
  if (parts_.empty()) return;
  down_ = memory.allocate(DType::f32, rank_, parts_.front().module.in, "adapter");
  for (std::size_t p = 0; p < parts_.size(); ++p) {
    memory.copy(downs_[p].view(), down_.view().row_range(parts_[p].rank_offset, parts_[p].module.rank));
  }
  downs_.clear();
}

DropoutMask AdapterInput::mask(const InputDropout& dropout, std::size_t projection) const {
  return {dropout.rate, dropout.key, projection, dropout.token_keys};
}

void AdapterInput::forward(ConstView x, const InputDropout& dropout, View u, View y,
                           const Stream& stream) const {
  if (dropout.rate <= 0) {
    reduce(x, down_.view(), {}, u, stream);
  } else {  // every projection sees other elements of x
    for (std::size_t p = 0; p < parts_.size(); ++p) {
      const Part& part = parts_[p];
      reduce(x, down_.view().row_range(part.rank_offset, part.module.rank), mask(dropout, p),
             u.column_range(part.rank_offset, part.module.rank), stream);
    }
  }
  for (const Part& part : parts_) {
    expand(u.column_range(part.rank_offset, part.module.rank), part.up.view(), part.module.scale, {},
           y.column_range(part.column, part.module.out), stream);
  }
}

void AdapterInput::backward(ConstView x, ConstView u, ConstView dy, const InputDropout& dropout, View d_x,
                            View gradient, View scratch, const Stream& stream) const {
  for (std::size_t p = 0; p < parts_.size(); ++p) {
    const Part& part = parts_[p];
    const LoraModule& module = part.module;
    const ConstView dy_part = dy.column_range(part.column, module.out);
    const View g = scratch.column_range(part.rank_offset, module.rank);
    const DropoutMask kept = mask(dropout, p);
    reduce(dy_part, part.up.view(), {}, g, stream);
    outer(g, x, kept, module.scale, false, matrix_of(gradient, module.a_offset, module.rank, module.in),
          stream);
    outer(u.column_range(part.rank_offset, module.rank), dy_part, {}, module.scale, true,
          matrix_of(gradient, module.b_offset, module.out, module.rank), stream);
    if (d_x.empty()) continue;
    expand(g, down_.view().row_range(part.rank_offset, module.rank), module.scale, kept, d_x, stream);
  }
}

}  // namespace biqa::cuda
