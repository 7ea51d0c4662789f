// SPDX-License-Identifier: Apache-2.0
// biqa_products: compares the matrix products of real models through the backend and through oneDNN. Prints times by
// number of rows, and the number of classes of row counts with equal bits (the backend must have 1).
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "app/program.h"
#include "core/processors.h"
#include "core/random.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/products.h"

namespace biqa {
namespace {

const ProgramInfo kInfo{
    "biqa_products",
    "time the matrix products of real models by number of rows, and those of oneDNN",
    "[--dtype f32|bf16] [--threads T]",
    "biqa_products --dtype bf16 --threads 2",
    {{"dtype", "TYPE", "f32 or bf16", "bf16"},
     {"threads", "T", "threads; 0: OMP_NUM_THREADS or, if that is unset, all processors", "0"},
     {"largest", "MIB", "leave out weights larger than this", "300"}}};

struct Shape {
  std::int64_t inner, columns;
  const char* name;
};
constexpr Shape kShapes[] = {
    {512, 1536, "41M qkv"},       {512, 2816, "41M gate, up"}, {1408, 512, "41M down"},
    {1280, 3840, "vision qkv"},   {3420, 1280, "vision down"}, {2048, 2560, "3B qkv"},
    {2048, 22016, "3B gate, up"}, {11008, 2048, "3B down"},    {3584, 4608, "7B qkv"},
    {3584, 37888, "7B gate, up"}, {18944, 3584, "7B down"}};
constexpr std::int64_t kRows[] = {1, 2, 3, 4, 5, 6, 7, 8, 16, 17, 32, 33, 48, 64, 128, 256, 512};

/// Random values and not zeros, because a processor multiplies zeros with less power and then runs faster.
Tensor random_matrix(DType type, std::int64_t rows, std::int64_t columns, std::uint64_t key) {
  Tensor tensor(type, rows, columns, "bench");
  const RandomStream stream({key});
  std::vector<float> values(4096);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(stream.uniform(i) - 0.5);
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    const float value = values[static_cast<std::size_t>((i * 7 + i / 4096 * 13) % 4096)];
    if (type == DType::bf16)
      tensor.span<Bf16>()[static_cast<std::size_t>(i)] = to_bf16(value);
    else
      tensor.span<float>()[static_cast<std::size_t>(i)] = value;
  }
  return tensor;
}

struct Timed {
  std::vector<double> microseconds;
  std::size_t classes = 0;
};
Timed time_product(cpu::PackedMatrix::Implementation& product, ConstView x, std::int64_t columns,
                   int threads) {
  Timed timed;
  std::vector<std::vector<float>> classes;
  Tensor y(DType::f32, x.rows(), columns, "bench");
  for (const std::int64_t rows : kRows) {
    const ConstView some = x.row_range(0, rows);
    const View out = y.view().row_range(0, rows);
    product.multiply(some, out, false, threads);
    const std::vector<float> first(y.row<float>(0), y.row<float>(0) + columns);
    if (std::find(classes.begin(), classes.end(), first) == classes.end()) classes.push_back(first);
    std::vector<double> times;
    double sum = 0;
    while (times.size() < 5 || (sum < 5e4 && times.size() < 200)) {
      const auto start = std::chrono::steady_clock::now();
      product.multiply(some, out, false, threads);
      times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() * 1e6);
      sum += times.back();
    }
    std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2),
                     times.end());
    timed.microseconds.push_back(times[times.size() / 2]);
  }
  timed.classes = classes.size();
  return timed;
}

ExitCode products(const CommandLine& line) {
  const DType type = line.choice("dtype", {"f32", "bf16"}) == "bf16" ? DType::bf16 : DType::f32;
  const int threads = threads_for(usable_processors(), static_cast<int>(line.integer("threads", 0, 1024)));
  const std::int64_t largest = line.integer("largest", 1, 1 << 20) << 20;
  const auto ops = make_cpu_ops(type, threads);  // sets the threads of the library too
  std::string rows;
  for (const std::int64_t count : kRows) rows += fmt::format("{:>9}", count);
  fmt::print("median microseconds by rows; {} threads, {}\n{:<34}classes{}\n", threads, name_of(type), "",
             rows);
  for (const Shape& shape : kShapes) {
    if (shape.inner * shape.columns * static_cast<std::int64_t>(size_of(type)) > largest) continue;
    const Tensor weight = random_matrix(type, shape.columns, shape.inner, 1);
    const Tensor x = random_matrix(type, 512, shape.inner, 2);
    const cpu::MatrixSource source{weight.const_view(), true, {}, type, nullptr};
    const auto print = [&](const char* who, const Timed& timed) {
      std::string times;
      for (const double time : timed.microseconds) times += fmt::format("{:>9.0f}", time);
      fmt::print("{:<13}{:>6}x{:<6} {:<7}{:>7}{}\n", shape.name, shape.inner, shape.columns, who,
                 timed.classes, times);
    };
    print("taken", time_product(*cpu::make_matrix(source), x.const_view(), shape.columns, threads));
    print("vector", time_product(*cpu::make_vector_matrix(source, cpu::kernels()), x.const_view(),
                                 shape.columns, threads));
    print("oneDNN", time_product(*cpu::make_onednn_matrix(source), x.const_view(), shape.columns, threads));
    std::fflush(stdout);
  }
  return ExitCode::done;
}

}  // namespace
}  // namespace biqa

int main(int argc, char** argv) {
  return biqa::run_program(argc, argv, biqa::kInfo, biqa::products);
}
