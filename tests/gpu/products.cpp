// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <utility>

#include "core/bf16.h"
#include "core/error.h"
#include "gpu/measures.h"
#include "ops/cuda/buffers.h"
#include "ops/cuda/product_classes.h"
#include "ops/cuda/product_probe.h"

namespace biqa::gpu {
namespace {

constexpr std::int64_t kMostProbed = std::int64_t{2} << 30;  // bytes of a product's operands
constexpr std::int64_t kMostProbedOfTiny = std::int64_t{1} << 16;
constexpr std::int64_t kDetails = 5;

/// The library, and the choices of algorithms as a run makes them.
struct Products {
  Products(const ModelShape& shape, std::filesystem::path classes_file)
      : library(cuda::make_product_library(ops.stream())),
        classes(*library, shape.tiny ? kMostProbedOfTiny : kMostProbed),
        file(std::move(classes_file)),
        key(library->version() + " on " + ops.device_type()) {
    std::ifstream in(file);
    std::stringstream text;
    if (in && text << in.rdbuf()) classes.restore(text.str(), key);
  }
  void classify(const std::vector<cuda::Product>& products) {
    for (const cuda::Product& product : products) classes.classify(product, memory());
    if (!file.empty()) std::ofstream(file) << classes.saved(key);
  }
  DeviceMemory& memory() { return ops.memory(); }

  cuda::CudaOps ops{DType::bf16};
  std::unique_ptr<cuda::ProductLibrary> library;
  cuda::ProductClasses classes;
  std::filesystem::path file;
  std::string key;
};

std::string name_of_product(const ModelProduct& product, bool forward) {
  return product.name + (forward ? "" : " backward");
}

// --- products of ones --------------------------------------------------------------------------------------------------

/// A matrix of ones in device memory. What lies beyond its rows and columns is 2.
struct Ones {
  Ones(std::int64_t rows, std::int64_t columns, DeviceMemory& memory) {
    constexpr std::int64_t kBeyond = 64;
    const std::int64_t stride = (columns + cuda::kTileUnit - 1) / cuda::kTileUnit * cuda::kTileUnit + kBeyond;
    Tensor host(DType::bf16, rows + kBeyond, stride, "ones");
    for (Bf16& value : host.span<Bf16>()) value = to_bf16(2.0F);
    for (std::int64_t r = 0; r < rows; ++r) std::fill_n(host.row<Bf16>(r), columns, to_bf16(1.0F));
    values = copied_to(memory, host.view(), "ones");
    ones = values.view().row_range(0, rows).column_range(0, columns);
  }
  Tensor values;
  View ones;
};

std::vector<std::int64_t> inner_widths(const ModelShape& shape) {
  std::set<std::int64_t> widths{7038};
  for (const ModelProduct& product : model_products(shape)) {
    widths.insert({product.inner, product.inner + 1, product.inner - 1});
    if (!product.head) widths.insert(product.outer);
  }
  const std::int64_t all = shape.tiny ? 20 : 130;
  for (std::int64_t width = 1; width <= all; ++width) widths.insert(width);
  if (shape.tiny) widths.erase(widths.upper_bound(130), widths.end());
  return {widths.begin(), widths.end()};
}

/// The elements of a product of ones that are not the inner width, and one of them.
struct WrongSums {
  std::int64_t count = 0;
  float example = 0;
};
WrongSums wrong_sums(const Tensor& y, std::int64_t inner, DeviceMemory& memory) {
  WrongSums wrong;
  const Tensor sums = copied_to_host(memory, y.view(), "ones");
  for (std::int64_t r = 0; r < sums.rows(); ++r) {
    for (std::int64_t c = 0; c < sums.columns(); ++c) {
      const float sum = sums.row<float>(r)[c];
      if (sum == static_cast<float>(inner)) continue;
      ++wrong.count;
      wrong.example = sum;
    }
  }
  return wrong;
}

}  // namespace

void check_ones(const ModelShape& shape, Report& report) {
  constexpr std::int64_t kOuter = 40;
  constexpr int kAlgorithms = 8;
  Products products(shape, {});
  DeviceMemory& memory = products.memory();
  std::int64_t computed = 0;
  std::int64_t wrong = 0;
  std::int64_t without = 0;
  const std::vector<std::int64_t> widths = inner_widths(shape);
  for (const std::int64_t inner : widths) {
    for (const std::int64_t rows : {1, 48, 256}) {
      const Ones x(rows, inner, memory);
      for (const bool transposed : {true, false}) {
        const Ones weight(transposed ? kOuter : inner, transposed ? inner : kOuter, memory);
        Tensor y = memory.allocate(DType::f32, rows, kOuter, "ones");
        const cuda::ProductOperands operands{x.ones, weight.ones, {}, y.view(), transposed};
        const auto algorithms = products.library->candidates(cuda::product_of(operands), rows, kAlgorithms);
        if (algorithms.empty()) ++without;
        for (const cuda::Algorithm& algorithm : algorithms) {
          memory.zero(y.view());
          if (!products.library->multiply(operands, algorithm)) continue;
          ++computed;
          const WrongSums found = wrong_sums(y, inner, memory);
          if (found.count == 0) continue;
          ++wrong;
          if (wrong <= kDetails)
            report.detail(fmt::format("{} rows, inner width {}, weight {}: {} elements are wrong, such as {}",
                                      rows, inner, transposed ? "transposed" : "as it is", found.count,
                                      found.example));
        }
      }
    }
  }
  report.figure("inner widths", static_cast<double>(widths.size()), "");
  report.figure("products of ones", static_cast<double>(computed), "");
  report.figure("wrong ones", static_cast<double>(wrong), "");
  report.figure("shapes without an algorithm", static_cast<double>(without), "");
  report.ok = wrong == 0 && computed > 0;
}

// --- what batch invariance costs -----------------------------------------------------------------------------------------

namespace {

/// Operands of a product in device memory. The weight is there several times, so that repeated calls do not find it in the cache.
struct Operands {
  Operands(const cuda::Product& product, std::int64_t rows, bool tiny, DeviceMemory& memory)
      : transposed(product.transposed),
        x(random_numbers(product.input, rows, product.inner, memory)),
        y(memory.allocate(product.output, rows, product.outer, "numbers")) {
    constexpr std::int64_t kCache = 200'000'000;
    const std::int64_t bytes =
        product.inner * product.outer * static_cast<std::int64_t>(size_of(product.input));
    const std::int64_t copies = tiny ? 1 : std::clamp<std::int64_t>(kCache / bytes, 1, 100);
    for (std::int64_t i = 0; i < copies; ++i) {
      weights.push_back(random_numbers(product.input, transposed ? product.outer : product.inner,
                                       transposed ? product.inner : product.outer, memory));
    }
    if (product.bias) bias = random_numbers(product.output, 1, product.outer, memory);
  }
  cuda::ProductOperands at(std::size_t call, std::int64_t rows) {
    return {x.view().row_range(0, rows), weights[call % weights.size()].view(),
            bias.bytes() == 0 ? ConstView() : bias.view(), y.view().row_range(0, rows), transposed};
  }
  bool transposed;
  Tensor x, y, bias;
  std::vector<Tensor> weights;
};

struct Price {
  double ours = 0, fastest = 0;  // seconds
};
Price price_of(const cuda::Product& product, Operands& operands, std::int64_t rows, bool tiny,
               Products& products, cuda::ProductLibrary& free_library) {
  Price price;
  price.ours = seconds_of(products.memory(), tiny,
                          [&](std::size_t call) { products.classes.multiply(operands.at(call, rows)); });
  price.fastest = price.ours;
  for (const cuda::Algorithm& algorithm : free_library.candidates(product, rows, cuda::kCandidates)) {
    if (!free_library.multiply(operands.at(0, rows), algorithm)) continue;
    price.fastest = std::min(price.fastest, seconds_of(products.memory(), tiny, [&](std::size_t call) {
                               free_library.multiply(operands.at(call, rows), algorithm);
                             }));
  }
  return price;
}

/// The numbers of rows with which a run computes a product.
std::vector<std::int64_t> usual_rows(const ModelProduct& product, bool forward, bool tiny) {
  if (tiny) return {16};
  if (product.vision) return {4096, 8192};
  if (product.head) return forward ? std::vector<std::int64_t>{1, 64, 256} : std::vector<std::int64_t>{256};
  return forward ? std::vector<std::int64_t>{1, 64, 256, 1024, 8192} : std::vector<std::int64_t>{8192};
}

/// Calls f(product, forward) for all products of the network.
void for_products(const ModelShape& shape, const std::function<void(const ModelProduct&, bool)>& f) {
  for (const ModelProduct& product : model_products(shape)) {
    f(product, true);
    if (product.backward) f(product, false);
  }
}
std::vector<cuda::Product> all_products(const ModelShape& shape) {
  std::vector<cuda::Product> all;
  for_products(
      shape, [&](const ModelProduct& product, bool forward) { all.push_back(product_of(product, forward)); });
  return all;
}

}  // namespace

void measure_invariance(const ModelShape& shape, const std::filesystem::path& classes, Report& report) {
  Products products(shape, classes);
  products.classify(all_products(shape));
  const auto free_library = cuda::make_free_product_library(products.ops.stream());
  std::map<std::int64_t, Price> layer;  // by rows: the products of a decoder layer
  for_products(shape, [&](const ModelProduct& product, bool forward) {
    const cuda::Product asked = product_of(product, forward);
    const std::vector<std::int64_t> counts = usual_rows(product, forward, shape.tiny);
    Operands operands(asked, counts.back(), shape.tiny, products.memory());
    for (const std::int64_t rows : counts) {
      const Price price = price_of(asked, operands, rows, shape.tiny, products, *free_library);
      report.detail(fmt::format("{}, {} rows: {:.1f} us, the fastest {:.1f} us",
                                name_of_product(product, forward), rows, price.ours * 1e6,
                                price.fastest * 1e6));
      if (product.vision || product.head) continue;
      layer[rows].ours += price.ours;
      layer[rows].fastest += price.fastest;
    }
  });
  for (const auto& [rows, price] : layer) {
    const bool judged = rows == 256 || rows == 8192;  // decoding of many sequences, and the learner
    report.figure(fmt::format("price of batch invariance for {} rows", rows),
                  100 * (price.ours / price.fastest - 1), "% of a layer's products", judged ? "<=|5" : "");
  }
}

// --- every number of rows --------------------------------------------------------------------------------------------------

std::vector<RowCount> order_of_rows(std::int64_t most) {
  constexpr std::int64_t kFirst = 64;
  std::vector<RowCount> order;
  for (std::int64_t rows = 1; rows <= std::min(kFirst, most); ++rows) order.push_back({rows, 0});
  std::set<std::int64_t> done;
  for (std::int64_t stride = most; stride > 0; stride /= 2) {
    for (std::int64_t rows = stride; rows <= most; rows += stride) {
      if (rows > kFirst && done.insert(rows).second) order.push_back({rows, 0});
    }
    order.back().stride = stride;
  }
  return order;
}

void check_rows(const ModelShape& shape, const std::filesystem::path& classes, double seconds,
                Report& report) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  Products products(shape, classes);
  products.classify(all_products(shape));
  struct Probed {
    std::string name;
    const cuda::ProductClass* chosen;
    std::unique_ptr<cuda::ProductProbe> probe;
    std::int64_t most;  // rows
  };
  std::vector<Probed> all;
  for_products(shape, [&](const ModelProduct& product, bool forward) {
    const cuda::Product asked = product_of(product, forward);
    Probed& one = all.emplace_back(
        Probed{name_of_product(product, forward), products.classes.find(asked),
               std::make_unique<cuda::ProductProbe>(asked, *products.library, products.memory()),
               product.head ? cuda::kLogitRows : std::numeric_limits<std::int64_t>::max()});
    if (!one.probe->set_reference(one.chosen->anchor))
      fail("cuBLASLt refuses its own algorithm for {}", one.name);
  });
  std::int64_t done = 0;
  std::int64_t stride = 0;
  std::int64_t wrong = 0;
  const std::int64_t most = shape.tiny ? 24 : 8192;
  for (const RowCount& next : order_of_rows(most)) {
    if (std::chrono::duration<double>(Clock::now() - start).count() > seconds) break;
    for (Probed& one : all) {
      if (next.rows > one.most || one.probe->bytes(next.rows) > kMostProbed) continue;
      const cuda::Algorithm& choice = one.chosen->choices[cuda::bucket_of(next.rows)];
      if (one.probe->agrees(choice, next.rows)) continue;
      // A run then takes the anchor.
      if (!one.probe->accepts(choice, next.rows) && one.probe->agrees(one.chosen->anchor, next.rows))
        continue;
      if (++wrong <= kDetails)
        report.detail(fmt::format("{}: other bits among {} rows", one.name, next.rows));
    }
    ++done;
    if (next.stride > 0) stride = next.stride;
  }
  report.figure("numbers of rows", static_cast<double>(done), fmt::format("of {}", most));
  report.figure("products", static_cast<double>(all.size()), "");
  report.figure("other bits", static_cast<double>(wrong), "times");
  if (done < most)
    report.detail(
        stride == 0
            ? "the time was over before every multiple of one number was done"
            : fmt::format("the time was over: 1 to 64, every multiple of {} and some others were done",
                          stride));
  report.ok = wrong == 0 && done > 0;
}

}  // namespace biqa::gpu
