// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/products.h"

#include <oneapi/dnnl/dnnl.hpp>

#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "ops/cpu/onednn_compat.h"

namespace biqa::cpu {
namespace {

using dnnl::memory;
using dnnl::primitive_attr;
using Tag = dnnl::memory::format_tag;

/// Rows that one call works on; larger products run in steps of this many.
constexpr std::int64_t kBlockRows = 512;
/// Up to here every row count has its own primitive, beyond it multiples of 32 and a rest.
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
  CHECK(type == DType::f32 || type == DType::bf16) << name_of(type);
  return type == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

/// oneDNN takes mutable pointers even for what it only reads.
void* mutable_pointer(const void* pointer) {
  return const_cast<void*>(pointer);  // NOLINT(cppcoreguidelines-pro-type-const-cast)
}

Buffer claim(const ArenaPlace* place, const char* suffix, const memory::desc& layout) {
  if (place == nullptr) return {layout.get_size(), "weights"};
  return place->arena->take(place->name + suffix, place->part, layout.get_size(), layout_fingerprint(layout));
}

}  // namespace

struct PackedMatrix::Implementation {
  std::int64_t inner = 0, columns = 0;
  DType compute = DType::f32;
  Buffer storage, bias_storage;
  memory weights, bias;
  struct Product {
    dnnl::matmul primitive;
    memory::desc source, destination;
  };
  std::unordered_map<std::int64_t, Product> products;  // by 2·rows + accumulate

  dnnl::matmul::primitive_desc describe(std::int64_t rows, const memory::desc& weight,
                                        bool accumulate) const {
    const memory::desc source({rows, inner}, type_of(compute), Tag::ab);
    const memory::desc destination({rows, columns}, memory::data_type::f32, Tag::ab);
    primitive_attr attributes;
    if (accumulate) {
      dnnl::post_ops post;
      post.append_sum(1.0F);
      attributes.set_post_ops(post);
    }
    const memory::desc bias_layout({1, columns}, memory::data_type::f32, Tag::ab);
    return describe_matmul(library().engine, source, weight,
                           bias_storage.bytes() != 0 ? &bias_layout : nullptr, destination, attributes);
  }

  void run(const void* x, float* y, std::int64_t rows, bool accumulate) {
    const std::int64_t key = 2 * rows + (accumulate ? 1 : 0);
    auto found = products.find(key);
    if (found == products.end()) {
      const auto description = describe(rows, weights.get_desc(), accumulate);
      found = products
                  .emplace(key,
                           Product{dnnl::matmul(description), description.src_desc(), description.dst_desc()})
                  .first;
    }
    const Product& product = found->second;
    std::unordered_map<int, memory> arguments{
        {DNNL_ARG_SRC, memory(product.source, library().engine, mutable_pointer(x))},
        {DNNL_ARG_WEIGHTS, weights},
        {DNNL_ARG_DST, memory(product.destination, library().engine, y)}};
    if (bias_storage.bytes() != 0) arguments.emplace(DNNL_ARG_BIAS, bias);
    product.primitive.execute(library().stream, arguments);
    library().stream.wait();
  }
};

PackedMatrix::PackedMatrix(ConstView weight, bool transposed, std::span<const float> bias, DType compute,
                           const ArenaPlace* place)
    : implementation_(std::make_unique<Implementation>()) {
  Implementation& self = *implementation_;
  CHECK(weight.dense());
  self.inner = transposed ? weight.columns() : weight.rows();
  self.columns = transposed ? weight.rows() : weight.columns();
  self.compute = compute;
  const bool write = place == nullptr || place->arena->filling();
  try {
    if (!bias.empty()) {
      CHECK_EQ(static_cast<std::int64_t>(bias.size()), self.columns);
      const memory::desc layout({1, self.columns}, memory::data_type::f32, Tag::ab);
      self.bias_storage = claim(place, ".bias", layout);
      if (write) std::copy(bias.begin(), bias.end(), static_cast<float*>(self.bias_storage.data()));
      self.bias = memory(layout, library().engine, self.bias_storage.data());
    }
    const auto layout =
        self.describe(kLayoutRows, memory::desc({self.inner, self.columns}, type_of(compute), Tag::any),
                      false)
            .weights_desc();
    self.storage = claim(place, "", layout);
    self.weights = memory(layout, library().engine, self.storage.data());
    if (write) {
      memory plain({{self.inner, self.columns}, type_of(weight.type()), transposed ? Tag::ba : Tag::ab},
                   library().engine, mutable_pointer(weight.data()));
      dnnl::reorder(plain, self.weights).execute(library().stream, plain, self.weights);
      library().stream.wait();
    }
  } catch (const dnnl::error& error) {
    fail("cannot prepare a {}x{} {} product: oneDNN says {}; use dtype f32 on this machine", self.inner,
         self.columns, name_of(compute), error.message);
  }
}
PackedMatrix::~PackedMatrix() = default;
PackedMatrix::PackedMatrix(PackedMatrix&&) noexcept = default;

void PackedMatrix::multiply(ConstView x, View y, bool accumulate) {
  Implementation& self = *implementation_;
  CHECK(x.dense() && y.dense());
  CHECK(x.type() == self.compute && y.type() == DType::f32);
  CHECK(x.rows() == y.rows() && x.columns() == self.inner && y.columns() == self.columns)
      << x.rows() << "x" << x.columns() << " by " << self.inner << "x" << self.columns << " into " << y.rows()
      << "x" << y.columns();
  try {
    for (std::int64_t first = 0; first < x.rows();) {
      const std::int64_t rest = x.rows() - first;
      const std::int64_t rows = rest >= kBlockRows   ? kBlockRows
                                : rest <= kExactRows ? rest
                                                     : rest & ~std::int64_t{31};
      self.run(x.row_range(first, rows).data(), y.row<float>(first), rows, accumulate);
      first += rows;
    }
  } catch (const dnnl::error& error) {
    fail(
        "cannot multiply {} rows by a {}x{} {} matrix: oneDNN says {}; lower micro_batch_tokens or use dtype "
        "f32",
        x.rows(), self.inner, self.columns, name_of(self.compute), error.message);
  }
}

std::size_t PackedMatrix::bytes() const {
  return implementation_->storage.bytes() + implementation_->bias_storage.bytes();
}

}  // namespace biqa::cpu
