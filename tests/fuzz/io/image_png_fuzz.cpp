// SPDX-License-Identifier: Apache-2.0
// PNG pictures, as they are and with the checksums that make libpng look further.
#include <cstdint>
#include <string>

#include "fuzz/harness.h"
#include "fuzz/picture.h"

namespace biqa::fuzz {
namespace {

/// CRC-32 of ISO 3309, as the PNG specification gives it.
std::uint32_t crc_of(std::string_view bytes) {
  std::uint32_t crc = 0xFFFFFFFFU;
  for (const char c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ ((crc & 1) != 0 ? 0xEDB88320U : 0U);
  }
  return ~crc;
}

std::string with_checksums(std::string png) {
  constexpr std::size_t kSignature = 8, kNumber = 4;
  const auto byte = [&](std::size_t at) {
    return static_cast<std::size_t>(static_cast<unsigned char>(png[at]));
  };
  for (std::size_t at = kSignature; png.size() - at >= 3 * kNumber;) {
    const std::size_t length = byte(at) << 24 | byte(at + 1) << 16 | byte(at + 2) << 8 | byte(at + 3);
    if (length > png.size() - at - 3 * kNumber) break;
    const std::uint32_t crc = crc_of(std::string_view(png).substr(at + kNumber, kNumber + length));
    at += 2 * kNumber + length;
    for (int shift = 24; shift >= 0; shift -= 8) png[at++] = static_cast<char>(crc >> shift);
  }
  return png;
}

void run(std::string_view input) {
  if (!input.starts_with("\x89PNG\r\n\x1A\n")) return;
  check_picture(input);
  check_picture(with_checksums(std::string(input)));
}

const Registered kRegistered("image_png", run);

}  // namespace
}  // namespace biqa::fuzz
