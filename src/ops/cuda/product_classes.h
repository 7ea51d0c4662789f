// SPDX-License-Identifier: Apache-2.0
// Which algorithm of the library computes a product with a given number of rows. The bits of a row must not depend on
// the number of rows. But the fastest algorithm does depend on it. So for each product, one algorithm is the anchor:
// the library's first answer for 256 rows. The algorithms that give the same bits as the anchor are its class. Only
// they are used. docs/decisions/0030-classes-of-algorithms.md explains why. This file has no CUDA types.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "ops/cuda/product_library.h"
#include "tensor/device_memory.h"

namespace biqa::cuda {

/// The library is asked for these numbers of rows. A product uses the answer for the next larger number. More rows than the
/// largest use the anchor.
inline constexpr std::array<std::int64_t, 6> kRowBuckets{16, 64, 256, 1024, 4096, 8192};
inline constexpr std::int64_t kAnchorRows = 256;
/// Number of algorithms of each bucket that are compared with the anchor. The comparison stops at the first that gives
/// the anchor's bits.
inline constexpr int kCandidates = 8;
/// kRowBuckets.size() for more rows than the largest.
std::size_t bucket_of(std::int64_t rows);

struct ProductClass {
  Algorithm anchor;
  std::array<Algorithm, kRowBuckets.size()> choices{};  ///< by bucket
  bool operator==(const ProductClass&) const = default;
};

/// All algorithms that the library proposes for a product, compared with the anchor. For measurements.
struct ClassReport {
  int proposed = 0;  ///< different algorithms, the anchor among them
  int members = 0;   ///< those of the class, the anchor among them
};

class ProductProbe;

class ProductClasses {
 public:
  /// `most_probed_bytes`: a bucket whose operands take more device memory is not compared and uses the anchor.
  explicit ProductClasses(ProductLibrary& library, std::int64_t most_probed_bytes = std::int64_t{2} << 30)
      : library_(library), most_probed_bytes_(most_probed_bytes) {}

  /// Enqueues the product. Uses the anchor if the product has no class, or if the chosen algorithm cannot compute this
  /// number of rows. Throws Error if the library has no algorithm, or cannot compute the product with the anchor.
  void multiply(const ProductOperands& operands);

  /// Chooses the algorithms of a product of dense operands, unless restore() or an earlier call did. Takes memory for a
  /// probe (product_probe.h). Also checks the anchor: its bits must be the same for different numbers of rows, in every
  /// bucket that fits into `most_probed_bytes`. A library with rows_are_independent() needs no such check. Waits.
  /// Throws Error as multiply() does, and if the anchor's bits depend on the number of rows.
  void classify(const Product& product, DeviceMemory& memory);
  /// Compares everything that the library proposes with the anchor. Changes nothing, and does not check the anchor.
  /// Otherwise as classify().
  ClassReport report(const Product& product, DeviceMemory& memory);
  /// nullptr: not classified.
  const ProductClass* find(const Product& product) const;

  /// All classes as a text: of this process, and those that it restored. `key` names everything on which they depend.
  std::string saved(const std::string& key) const;
  /// Takes the classes of a text that saved() made with the same key. If the text is not valid, takes none and
  /// returns what is wrong with it. A restored class is used if the library still has the same anchor.
  std::string restore(const std::string& text, const std::string& key);

 private:
  Algorithm first_answer(const Product& product);
  ProductClass compared(const Product& product, const Algorithm& anchor, DeviceMemory& memory);

  /// Throws Error if the anchor's own bits depend on the number of rows.
  void require_one_result(ProductProbe& probe, const Product& product, const Algorithm& anchor) const;
  bool belongs(ProductProbe& probe, const Algorithm& algorithm, std::size_t bucket) const;

  ProductLibrary& library_;
  std::int64_t most_probed_bytes_;
  std::map<Product, Algorithm> anchors_;     // of products without a class
  std::map<Product, ProductClass> classes_;  // used by multiply()
  std::map<Product, ProductClass> restored_;
};

}  // namespace biqa::cuda
