// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/product_classes.h"

#include <algorithm>
#include <set>
#include <vector>

#include "core/error.h"
#include "ops/cuda/product_probe.h"

namespace biqa::cuda {
namespace {

/// Numbers of rows of a bucket: the least, one between, and the most.
std::array<std::int64_t, 3> rows_of_bucket(std::size_t bucket) {
  const std::int64_t least = bucket == 0 ? 1 : kRowBuckets[bucket - 1] + 1;
  const std::int64_t most = kRowBuckets[bucket];
  return {least, (least + most) / 2, most};
}

}  // namespace

std::size_t bucket_of(std::int64_t rows) {
  const auto found = std::lower_bound(kRowBuckets.begin(), kRowBuckets.end(), rows);
  return static_cast<std::size_t>(found - kRowBuckets.begin());
}

/// Whether the algorithm has the bits of the reference for the rows of a bucket.
bool ProductClasses::belongs(ProductProbe& probe, const Algorithm& algorithm, std::size_t bucket) const {
  if (probe.bytes(kRowBuckets[bucket]) > most_probed_bytes_) return false;
  const auto counts = rows_of_bucket(bucket);
  return std::all_of(counts.begin(), counts.end(),
                     [&](std::int64_t rows) { return probe.agrees(algorithm, rows); });
}

Algorithm ProductClasses::first_answer(const Product& product) {
  const std::vector<Algorithm> answers = library_.candidates(product, kAnchorRows, 1);
  if (answers.empty()) {
    fail(
        "cuBLASLt has no algorithm for the {}x{} product of {} (strides {} and {}); use another CUDA version "
        "or "
        "device cpu",
        product.inner, product.outer, name_of(product.input), product.x_stride, product.weight_stride);
  }
  return answers.front();
}

void ProductClasses::multiply(const ProductOperands& operands) {
  const Product product = product_of(operands);
  const Algorithm* anchor = nullptr;
  if (const auto found = classes_.find(product); found != classes_.end()) {
    anchor = &found->second.anchor;
    const std::size_t bucket = bucket_of(operands.y.rows());
    const Algorithm& choice = bucket < kRowBuckets.size() ? found->second.choices[bucket] : *anchor;
    if (choice != *anchor && library_.multiply(operands, choice)) return;
  } else {
    auto known = anchors_.find(product);
    if (known == anchors_.end()) known = anchors_.emplace(product, first_answer(product)).first;
    anchor = &known->second;
  }
  if (library_.multiply(operands, *anchor)) return;
  fail(
      "cuBLASLt refuses {} rows for its algorithm of the {}x{} product ({}); use another CUDA version or "
      "device cpu",
      operands.y.rows(), product.inner, product.outer, name_of(product.input));
}

void ProductClasses::classify(const Product& product, DeviceMemory& memory) {
  if (classes_.contains(product)) return;
  const Algorithm anchor = first_answer(product);
  const auto restored = restored_.find(product);
  const bool known = restored != restored_.end() && restored->second.anchor == anchor;
  classes_.emplace(product, known ? restored->second : compared(product, anchor, memory));
}

void ProductClasses::require_one_result(ProductProbe& probe, const Product& product,
                                        const Algorithm& anchor) const {
  for (std::size_t bucket = 0; bucket < kRowBuckets.size(); ++bucket) {
    if (probe.bytes(kRowBuckets[bucket]) > most_probed_bytes_) return;
    for (const std::int64_t rows : rows_of_bucket(bucket)) {
      if (probe.agrees(anchor, rows)) continue;
      fail(
          "cuBLASLt's algorithm for the {}x{} product of {} cannot be used for a batch of {} rows: it "
          "refuses the batch, or it computes other bits of a row than in a batch of {}. Ratings would depend "
          "on the batch, and actors would disagree with learners; use another CUDA version or device cpu",
          product.inner, product.outer, name_of(product.input), rows, probe.reference_rows());
    }
  }
}

ProductClass ProductClasses::compared(const Product& product, const Algorithm& anchor, DeviceMemory& memory) {
  ProductClass result{anchor, {}};
  result.choices.fill(anchor);
  std::unique_ptr<ProductProbe> probe;
  if (!library_.rows_are_independent()) {
    probe = std::make_unique<ProductProbe>(product, library_, memory);
    if (!probe->set_reference(anchor)) return result;
    require_one_result(*probe, product, anchor);
  }
  for (std::size_t bucket = 0; bucket < kRowBuckets.size(); ++bucket) {
    for (const Algorithm& candidate : library_.candidates(product, kRowBuckets[bucket], kCandidates)) {
      if (candidate == anchor) break;
      if (probe == nullptr) {
        probe = std::make_unique<ProductProbe>(product, library_, memory);
        if (!probe->set_reference(anchor)) return result;
      }
      if (!belongs(*probe, candidate, bucket)) continue;
      result.choices[bucket] = candidate;
      break;
    }
  }
  return result;
}

ClassReport ProductClasses::report(const Product& product, DeviceMemory& memory) {
  const Algorithm anchor = first_answer(product);
  ProductProbe probe(product, library_, memory);
  if (!probe.set_reference(anchor)) return {1, 1};
  std::set<Algorithm> proposed{anchor};
  std::set<Algorithm> members{anchor};
  for (std::size_t bucket = 0; bucket < kRowBuckets.size(); ++bucket) {
    for (const Algorithm& candidate : library_.candidates(product, kRowBuckets[bucket], kCandidates)) {
      proposed.insert(candidate);
      if (candidate != anchor && belongs(probe, candidate, bucket)) members.insert(candidate);
    }
  }
  return {static_cast<int>(proposed.size()), static_cast<int>(members.size())};
}

const ProductClass* ProductClasses::find(const Product& product) const {
  const auto found = classes_.find(product);
  return found == classes_.end() ? nullptr : &found->second;
}

}  // namespace biqa::cuda
