// SPDX-License-Identifier: Apache-2.0
// Small versions of pictures, as a part of a page.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace biqa {

/// The base64 form of bytes (RFC 4648, with padding).
std::string base64(std::span<const std::byte> bytes);

/// An <img> element with the picture, scaled down so that no side is longer than `longest_side` pixels. Its alternative
/// text is `alt`. Throws Error if the picture cannot be read.
std::string embedded_picture(const std::filesystem::path& file, const std::string& alt,
                             std::int64_t longest_side = 352);

/// What stands in the place of a picture.
std::string missing_picture(const std::string& reason);

}  // namespace biqa
