// SPDX-License-Identifier: Apache-2.0
#include "support/sha256.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

namespace biqa {
namespace {

/// The constants of the standard: the first 32 fractional bits of a root of each of the first primes.
template <std::size_t N>
std::array<std::uint32_t, N> root_bits(long double (*root)(long double)) {
  std::array<std::uint32_t, N> bits{};
  std::size_t found = 0;
  for (unsigned candidate = 2; found < N; ++candidate) {
    bool prime = true;
    for (unsigned divisor = 2; divisor * divisor <= candidate; ++divisor) {
      prime = prime && candidate % divisor != 0;
    }
    if (prime) {
      const long double value = root(candidate);
      bits[found++] = static_cast<std::uint32_t>(std::ldexp(value - std::floor(value), 32));
    }
  }
  return bits;
}

}  // namespace

std::string sha256(std::span<const std::byte> bytes) {
  static const auto kRounds = root_bits<64>([](long double x) { return std::cbrt(x); });
  auto state = root_bits<8>([](long double x) { return std::sqrt(x); });
  std::vector<std::byte> message(bytes.begin(), bytes.end());
  message.push_back(std::byte{0x80});
  message.resize((message.size() + 8 + 63) / 64 * 64);
  for (std::size_t i = 0; i < 8; ++i) {
    message[message.size() - 1 - i] = static_cast<std::byte>(bytes.size() * 8 >> (8 * i));
  }
  for (std::size_t block = 0; block < message.size(); block += 64) {
    std::array<std::uint32_t, 64> w{};
    for (std::size_t i = 0; i < 64; ++i) {
      w[i / 4] |= std::to_integer<std::uint32_t>(message[block + i]) << (24 - i % 4 * 8);
    }
    for (std::size_t i = 16; i < 64; ++i) {
      const std::uint32_t a = w[i - 15];
      const std::uint32_t b = w[i - 2];
      w[i] = w[i - 16] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ a >> 3) + w[i - 7] +
             (std::rotr(b, 17) ^ std::rotr(b, 19) ^ b >> 10);
    }
    auto [a, b, c, d, e, f, g, h] = state;
    for (std::size_t i = 0; i < 64; ++i) {
      const std::uint32_t added = h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) +
                                  ((e & f) ^ (~e & g)) + kRounds[i] + w[i];
      const std::uint32_t mixed =
          (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g;
      g = f;
      f = e;
      e = d + added;
      d = c;
      c = b;
      b = a;
      a = added + mixed;
    }
    const std::array<std::uint32_t, 8> next = {a, b, c, d, e, f, g, h};
    for (std::size_t i = 0; i < 8; ++i) {
      state[i] += next[i];
    }
  }
  std::string hex;
  for (const std::uint32_t word : state) {
    hex += fmt::format("{:08x}", word);
  }
  return hex;
}

}  // namespace biqa
