// SPDX-License-Identifier: Apache-2.0
// The classes as a text of lines: format, key, one line per product, digest of all lines before. A product's line has
// its parts in the order of Product, then the anchor and the choice of each bucket as 128 hex digits.
#include <fmt/format.h>

#include <charconv>
#include <optional>
#include <string_view>

#include "core/random.h"
#include "ops/cuda/product_classes.h"

namespace biqa::cuda {
namespace {

constexpr std::string_view kFormat = "biqa products 1\n";
constexpr std::string_view kDigest = "digest ";
constexpr std::size_t kWordDigits = 16;

std::string text_of(const Algorithm& algorithm) {
  std::string text;
  for (const std::uint64_t word : algorithm.words) text += fmt::format("{:016x}", word);
  return text;
}

std::string line_of(const Product& product, const ProductClass& chosen) {
  std::string line =
      fmt::format("{} {} {} {} {} {} {} {:d} {:d} {} {}", name_of(product.input), name_of(product.output),
                  product.inner, product.outer, product.x_stride, product.weight_stride, product.y_stride,
                  product.transposed, product.bias, product.alignment, text_of(chosen.anchor));
  for (const Algorithm& choice : chosen.choices) line += " " + text_of(choice);
  return line + "\n";
}

std::string digest_line(std::string_view lines) {
  return fmt::format("{}{:016x}\n", kDigest, hash_text(lines));
}

/// Takes words from the beginning of a line, separated by single spaces. After the first word that does not fit, ok()
/// is false.
class Words {
 public:
  explicit Words(std::string_view line) : rest_(line) {}

  template <typename Number>
  Number number(int base = 10) {
    return parsed<Number>(next(), base);
  }
  DType type() {
    const std::string_view name = next();
    for (const DType type : {DType::f32, DType::bf16}) {
      if (name == name_of(type)) return type;
    }
    ok_ = false;
    return DType::f32;
  }
  Algorithm algorithm() {
    const std::string_view digits = next();
    Algorithm result;
    if (digits.size() != kWordDigits * result.words.size()) {
      ok_ = false;
      return result;
    }
    for (std::size_t i = 0; i < result.words.size(); ++i)
      result.words[i] = parsed<std::uint64_t>(digits.substr(i * kWordDigits, kWordDigits), 16);
    return result;
  }
  bool ok() const { return ok_; }
  bool at_end() const { return rest_.empty(); }

 private:
  std::string_view next() {
    const std::string_view word = rest_.substr(0, rest_.find(' '));
    rest_.remove_prefix(std::min(word.size() + 1, rest_.size()));
    return word;
  }
  template <typename Number>
  Number parsed(std::string_view digits, int base) {
    Number value{};
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
    if (error != std::errc{} || end != digits.data() + digits.size()) ok_ = false;
    return value;
  }

  std::string_view rest_;
  bool ok_ = true;
};

std::optional<std::pair<Product, ProductClass>> parsed_line(std::string_view line) {
  Words words(line);
  Product product;
  product.input = words.type();
  product.output = words.type();
  for (std::int64_t* size :
       {&product.inner, &product.outer, &product.x_stride, &product.weight_stride, &product.y_stride})
    *size = words.number<std::int64_t>();
  product.transposed = words.number<unsigned>() != 0;
  product.bias = words.number<unsigned>() != 0;
  product.alignment = words.number<std::uint32_t>();
  ProductClass chosen;
  chosen.anchor = words.algorithm();
  for (Algorithm& choice : chosen.choices) choice = words.algorithm();
  if (!words.ok() || !words.at_end()) return std::nullopt;
  return std::pair(product, chosen);
}

}  // namespace

std::string ProductClasses::saved(const std::string& key) const {
  std::map<Product, ProductClass> all = classes_;
  all.insert(restored_.begin(), restored_.end());
  std::string text = fmt::format("{}{}\n", kFormat, key);
  for (const auto& [product, chosen] : all) text += line_of(product, chosen);
  return text + digest_line(text);
}

std::string ProductClasses::restore(const std::string& text, const std::string& key) {
  std::string_view rest = text;
  if (!rest.starts_with(kFormat)) return "it has another format";
  const std::size_t last = text.rfind(kDigest);
  if (last == std::string::npos || text.substr(last) != digest_line(rest.substr(0, last)))
    return "it is damaged (its digest differs)";
  rest = rest.substr(kFormat.size(), last - kFormat.size());
  const auto next_line = [&] {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    return line;
  };
  if (const std::string_view written = next_line(); written != key)
    return fmt::format("it was made for another device or library ({} instead of {})", written, key);
  std::map<Product, ProductClass> read;
  while (!rest.empty()) {
    const auto entry = parsed_line(next_line());
    if (!entry) return "it is damaged (a line cannot be read)";
    read.insert(*entry);
  }
  restored_ = std::move(read);
  return {};
}

}  // namespace biqa::cuda
