// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/cpu_ops.h"

#include <omp.h>

#include <utility>

#include "core/error.h"
#include "core/processors.h"
#include "core/threads.h"
#include "ops/adamw.h"
#include "ops/cpu/cpu_network.h"
#include "ops/cpu/instruction_set.h"
#include "ops/cpu/row_check.h"

namespace biqa {
namespace {

struct CpuLinear final : FrozenLinear {
  CpuLinear(std::int64_t in_width, std::int64_t out_width, cpu::PackedMatrix forward_matrix)
      : FrozenLinear(in_width, out_width), forward(std::move(forward_matrix)) {}
  // A product with a new row count fills a cache, which callers need not know.
  mutable cpu::PackedMatrix forward;
  mutable std::optional<cpu::PackedMatrix> backward;
};

}  // namespace

CpuOps::CpuOps(DType compute, int threads)
    : CpuOps(compute, threads,
             compute == DType::bf16 && cpu::instruction_set() == cpu::InstructionSet::amx ? cpu::amx_tiles()
                                                                                          : nullptr) {}

CpuOps::CpuOps(DType compute, int threads, const cpu::TileSet* tiles)
    : compute_(compute), threads_(threads_for(usable_processors(), threads)), tiles_(tiles) {
  CHECK(compute == DType::f32 || compute == DType::bf16);
  CHECK(compute == DType::bf16 || tiles == nullptr);
  omp_set_num_threads(threads_);  // oneDNN takes OpenMP's number of threads
}

KvLayout CpuOps::kv_layout(const HeadShape& shape) const {
  return {kPageTokens, kv_page_elements(shape, compute_) * static_cast<std::int64_t>(size_of(compute_))};
}

std::unique_ptr<FrozenLinear> CpuOps::pack(ConstView weight, std::span<const float> bias, bool backward) {
  auto linear = std::make_unique<CpuLinear>(weight.columns(), weight.rows(),
                                            cpu::PackedMatrix({weight, true, bias, compute_, nullptr}));
  if (backward) linear->backward.emplace(cpu::MatrixSource{weight, false, {}, compute_, nullptr});
  return linear;
}

std::unique_ptr<FrozenLinear> CpuOps::pack_into(WeightArena& arena, const std::string& name, ConstView weight,
                                                std::span<const float> bias, bool backward) {
  const cpu::ArenaPlace forward{&arena, name + ".forward", WeightPart::forward};
  auto linear = std::make_unique<CpuLinear>(weight.columns(), weight.rows(),
                                            cpu::PackedMatrix({weight, true, bias, compute_, &forward}));
  const cpu::ArenaPlace place{&arena, name + ".backward", WeightPart::backward};
  if (backward) linear->backward.emplace(cpu::MatrixSource{weight, false, {}, compute_, &place});
  return linear;
}

void CpuOps::check_rows(const FrozenLinear& w, std::span<const std::int64_t> counts) {
  const auto& linear = dynamic_cast<const CpuLinear&>(w);
  check_matrix(linear.forward, w.in, w.out, counts);
  if (linear.backward) check_matrix(*linear.backward, w.out, w.in, counts);
}

void CpuOps::check_matrix(cpu::PackedMatrix& matrix, std::int64_t inner, std::int64_t columns,
                          std::span<const std::int64_t> counts) const {
  const auto multiply = [&](ConstView x, View y) { matrix.multiply(x, y, false, threads_); };
  const auto alone = [&](ConstView x, View y) { matrix.multiply(x, y, false, 1); };
  const char* const way_out = compute_ == DType::bf16 ? "AVX512_CORE" : "AVX2";
  const auto rows = cpu::rows_with_other_bits(inner, columns, compute_, counts, multiply);
  if (!rows) {
    // If other ranks have more threads, each of them compares its own number with one.
    if (counts.empty() || threads_ == 1 ||
        !cpu::threads_change_bits(inner, columns, compute_, counts.front(), multiply, alone))
      return;
    fail(
        "cannot use {} on this processor: the bits of the {}x{} matrix product differ between {} threads and "
        "one ({}), so ranks could disagree; set ONEDNN_MAX_CPU_ISA={} in the environment to use biqa's own "
        "matrix products",
        name_of(compute_), inner, columns, threads_, cpu::library_version(), way_out);
  }
  fail(
      "cannot use {} on this processor: the bits of a row of the {}x{} matrix product differ between a batch "
      "of {} and a larger one ({}), so ratings would depend on the batch and actors would disagree with "
      "learners; set ONEDNN_MAX_CPU_ISA={} in the environment to use biqa's own matrix products",
      name_of(compute_), inner, columns, *rows, cpu::library_version(), way_out);
}

void CpuOps::linear(ConstView x, const FrozenLinear& w, View y, bool accumulate) {
  dynamic_cast<const CpuLinear&>(w).forward.multiply(x, y, accumulate, threads_);
}

void CpuOps::linear_backward(ConstView dy, const FrozenLinear& w, View dx, bool accumulate) {
  const auto& linear = dynamic_cast<const CpuLinear&>(w);
  CHECK(linear.backward.has_value()) << "packed without backward";
  linear.backward->multiply(dy, dx, accumulate, threads_);
}

void CpuOps::on_threads_of_library(int threads, std::int64_t count, bool dynamic,
                                   void (*body)(const void*, std::int64_t, int), const void* context) {
  FirstFailure failure;
  if (dynamic) {  // NOLINT(bugprone-branch-clone): clang-tidy does not see the pragmas without -fopenmp
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (std::int64_t i = 0; i < count; ++i) failure.guard([&] { body(context, i, omp_get_thread_num()); });
  } else {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (std::int64_t i = 0; i < count; ++i) failure.guard([&] { body(context, i, omp_get_thread_num()); });
  }
  failure.rethrow();
}

std::unique_ptr<Decoder> CpuOps::make_decoder(const DecoderShape& shape, DecoderWeights weights) {
  return cpu::make_decoder(*this, shape, std::move(weights));
}

std::unique_ptr<VisionEncoder> CpuOps::make_vision(const VisionShape& shape, VisionWeights weights) {
  return cpu::make_vision(*this, shape, std::move(weights));
}

double CpuOps::squared_norm(ConstView gradient) {
  return biqa::squared_norm(gradient.span<const float>());
}

void CpuOps::adamw(View values, ConstView gradient, View m, View v, const AdamWStep& step) {
  adamw_update<float>(values.span<float>(), gradient.span<const float>(), m.span<float>(), v.span<float>(),
                      step);
}

std::unique_ptr<CpuOps> make_cpu_ops(DType compute, int threads) {
  return std::make_unique<CpuOps>(compute, threads);
}

}  // namespace biqa
