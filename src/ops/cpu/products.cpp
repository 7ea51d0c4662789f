// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/products.h"

#include <utility>

#include "ops/cpu/instruction_set.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/tile_set.h"

namespace biqa::cpu {
namespace {

MatrixWrapper& wrapper() {
  static MatrixWrapper wrap;
  return wrap;
}

std::unique_ptr<PackedMatrix::Implementation> make_fastest(const MatrixSource& source) {
  const InstructionSet set = instruction_set();
  const InstructionSet needed =
      source.compute == DType::bf16 ? InstructionSet::avx512_bf16 : InstructionSet::avx512;
  if (set < needed) return make_vector_matrix(source, kernels());
  if (source.compute == DType::bf16 && set == InstructionSet::amx)
    return make_tile_matrix(source, amx_tiles()->product);
  return make_onednn_matrix(source);
}

}  // namespace

void set_matrix_wrapper(MatrixWrapper wrap) {
  wrapper() = std::move(wrap);
}

std::unique_ptr<PackedMatrix::Implementation> make_matrix(const MatrixSource& source) {
  auto made = make_fastest(source);
  return wrapper() ? wrapper()(std::move(made)) : std::move(made);
}

Buffer MatrixSource::claim(const char* suffix, std::size_t bytes, std::uint64_t fingerprint) const {
  if (place == nullptr) return {bytes, "weights"};
  return place->arena->take(place->name + suffix, place->part, bytes, fingerprint);
}

PackedMatrix::PackedMatrix(const MatrixSource& source)
    : inner_(source.inner()), columns_(source.columns()), compute_(source.compute) {
  CHECK(source.weight.dense());
  CHECK(compute_ == DType::f32 || compute_ == DType::bf16) << name_of(compute_);
  CHECK(source.bias.empty() || static_cast<std::int64_t>(source.bias.size()) == columns_);
  implementation_ = make_matrix(source);
}

void PackedMatrix::multiply(ConstView x, View y, bool accumulate, int threads) {
  CHECK(x.dense() && y.dense());
  CHECK(x.type() == compute_ && y.type() == DType::f32);
  CHECK(x.rows() == y.rows() && x.columns() == inner_ && y.columns() == columns_)
      << x.rows() << "x" << x.columns() << " by " << inner_ << "x" << columns_ << " into " << y.rows() << "x"
      << y.columns();
  implementation_->multiply(x, y, accumulate, threads);
}

}  // namespace biqa::cpu
