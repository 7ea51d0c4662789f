// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <omp.h>

#include <oneapi/dnnl/dnnl.hpp>

#include <cstring>
#include <string>
#include <unordered_map>

#include "core/error.h"
#include "ops/cpu/onednn_compat.h"
#include "ops/cpu/products.h"

namespace biqa::cpu {
namespace {

using dnnl::memory;
using dnnl::primitive_attr;
using Tag = dnnl::memory::format_tag;

/// Rows that one call works on; larger products run in steps of this many.
constexpr std::int64_t kBlockRows = 512;
/// Up to this count, every row count has its own primitive. Above it there are multiples of 32 and a rest, so few
/// primitives are made.
constexpr std::int64_t kExactRows = 64;
/// Row count for which oneDNN is asked to choose the layout of the weights.
constexpr std::int64_t kLayoutRows = 256;

struct Library {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
};
Library& library() {
  static Library instance;
  return instance;
}

memory::data_type type_of(DType type) {
  return type == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

/// oneDNN takes mutable pointers even for memory that it only reads.
void* mutable_pointer(const void* pointer) {
  return const_cast<void*>(pointer);  // NOLINT(cppcoreguidelines-pro-type-const-cast)
}

/// While it lives, oneDNN uses this many threads for calls of this thread. It takes as many as OpenMP would.
class ThreadsOfLibrary {
 public:
  explicit ThreadsOfLibrary(int threads) : before_(omp_get_max_threads()), changed_(threads != before_) {
    if (changed_) omp_set_num_threads(threads);
  }
  ~ThreadsOfLibrary() {
    if (changed_) omp_set_num_threads(before_);
  }
  ThreadsOfLibrary(const ThreadsOfLibrary&) = delete;
  ThreadsOfLibrary& operator=(const ThreadsOfLibrary&) = delete;

 private:
  int before_;
  bool changed_;
};

class OneDnnMatrix final : public PackedMatrix::Implementation {
 public:
  explicit OneDnnMatrix(const MatrixSource& source)
      : inner_(source.inner()), columns_(source.columns()), compute_(source.compute) {
    try {
      pack(source);
    } catch (const dnnl::error& error) {
      fail("cannot prepare a {}x{} {} product: oneDNN says {}; use dtype f32 on this machine", inner_,
           columns_, name_of(compute_), error.message);
    }
  }

  void multiply(ConstView x, View y, bool accumulate, int threads) override {
    const ThreadsOfLibrary used(threads);
    try {
      for (std::int64_t first = 0; first < x.rows();) {
        const std::int64_t rest = x.rows() - first;
        const std::int64_t rows = rest >= kBlockRows   ? kBlockRows
                                  : rest <= kExactRows ? rest
                                                       : rest & ~std::int64_t{31};
        if (rows < kLeastRows)
          run_repeated(x.row_range(first, rows), y.row_range(first, rows), accumulate, threads);
        else
          run(x.row_range(first, rows).data(), y.row<float>(first), rows, accumulate, threads);
        first += rows;
      }
    } catch (const dnnl::error& error) {
      fail(
          "cannot multiply {} rows by a {}x{} {} matrix: oneDNN says {}; lower micro_batch_tokens or use "
          "dtype f32",
          x.rows(), inner_, columns_, name_of(compute_), error.message);
    }
  }

  std::size_t bytes() const override { return storage_.bytes() + bias_storage_.bytes(); }

 private:
  struct Product {
    dnnl::matmul primitive;
    memory::desc source, destination;
  };

  void pack(const MatrixSource& source) {
    const bool write = source.filled_here();
    if (!source.bias.empty()) {
      const memory::desc layout({1, columns_}, memory::data_type::f32, Tag::ab);
      bias_storage_ = source.claim(".bias", layout.get_size(), layout_fingerprint(layout));
      if (write) std::copy(source.bias.begin(), source.bias.end(), static_cast<float*>(bias_storage_.data()));
      bias_ = memory(layout, library().engine, bias_storage_.data());
    }
    const auto layout =
        describe(kLayoutRows, memory::desc({inner_, columns_}, type_of(compute_), Tag::any), false)
            .weights_desc();
    storage_ = source.claim("", layout.get_size(), layout_fingerprint(layout));
    weights_ = memory(layout, library().engine, storage_.data());
    if (!write) return;
    memory plain({{inner_, columns_}, type_of(source.weight.type()), source.transposed ? Tag::ba : Tag::ab},
                 library().engine, mutable_pointer(source.weight.data()));
    dnnl::reorder(plain, weights_).execute(library().stream, plain, weights_);
    library().stream.wait();
  }

  dnnl::matmul::primitive_desc describe(std::int64_t rows, const memory::desc& weight,
                                        bool accumulate) const {
    const memory::desc source({rows, inner_}, type_of(compute_), Tag::ab);
    const memory::desc destination({rows, columns_}, memory::data_type::f32, Tag::ab);
    primitive_attr attributes;
    if (accumulate) {
      dnnl::post_ops post;
      post.append_sum(1.0F);
      attributes.set_post_ops(post);
    }
    const memory::desc bias_layout({1, columns_}, memory::data_type::f32, Tag::ab);
    return describe_matmul(library().engine, source, weight,
                           bias_storage_.bytes() != 0 ? &bias_layout : nullptr, destination, attributes);
  }

  /// Multiplies one row as kLeastRows equal ones and keeps the first result.
  void run_repeated(ConstView x, View y, bool accumulate, int threads) {
    CHECK_EQ(x.rows(), 1);
    const std::size_t x_bytes = static_cast<std::size_t>(inner_) * size_of(compute_);
    const std::size_t y_bytes = static_cast<std::size_t>(columns_) * sizeof(float);
    thread_local Buffer scratch;  // the results, then the rows
    constexpr auto kRows = static_cast<std::size_t>(kLeastRows);
    if (scratch.bytes() < kRows * (y_bytes + x_bytes)) {
      scratch = Buffer();
      scratch = Buffer(kRows * (y_bytes + x_bytes), "scratch");
    }
    auto* results = static_cast<float*>(scratch.data());
    auto* rows = static_cast<std::byte*>(scratch.data()) + kRows * y_bytes;
    for (std::size_t row = 0; row < kRows; ++row) {
      std::memcpy(rows + row * x_bytes, x.data(), x_bytes);
      if (accumulate) std::memcpy(results + row * (y_bytes / sizeof(float)), y.data(), y_bytes);
    }
    run(rows, results, kLeastRows, accumulate, threads);
    std::memcpy(y.data(), results, y_bytes);
  }

  void run(const void* x, float* y, std::int64_t rows, bool accumulate, int threads) {
    // A primitive divides its work by the threads that there were when it was made.
    const std::int64_t key = 2 * (threads * (kBlockRows + 1) + rows) + (accumulate ? 1 : 0);
    auto found = products_.find(key);
    if (found == products_.end()) {
      const auto description = describe(rows, weights_.get_desc(), accumulate);
      found = products_
                  .emplace(key,
                           Product{dnnl::matmul(description), description.src_desc(), description.dst_desc()})
                  .first;
    }
    const Product& product = found->second;
    std::unordered_map<int, memory> arguments{
        {DNNL_ARG_SRC, memory(product.source, library().engine, mutable_pointer(x))},
        {DNNL_ARG_WEIGHTS, weights_},
        {DNNL_ARG_DST, memory(product.destination, library().engine, y)}};
    if (bias_storage_.bytes() != 0) arguments.emplace(DNNL_ARG_BIAS, bias_);
    product.primitive.execute(library().stream, arguments);
    library().stream.wait();
  }

  std::int64_t inner_, columns_;
  DType compute_;
  Buffer storage_, bias_storage_;
  memory weights_, bias_;
  std::unordered_map<std::int64_t, Product> products_;  // by threads, rows and accumulate
};

}  // namespace

std::unique_ptr<PackedMatrix::Implementation> make_onednn_matrix(const MatrixSource& source) {
  return std::make_unique<OneDnnMatrix>(source);
}

std::string library_version() {
  const dnnl::version_t* version = dnnl::version();
  return fmt::format("oneDNN {}.{}.{}", version->major, version->minor, version->patch);
}

}  // namespace biqa::cpu
