// SPDX-License-Identifier: Apache-2.0
#include "io/image_png_parts.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <string_view>

namespace biqa::image {
namespace {

constexpr std::string_view kXmp = "XML:com.adobe.xmp", kProfile = "Raw profile type exif";

/// Texts longer than Pillow's limit of 1 MB are ignored.
constexpr std::size_t kMostText = std::size_t{1} << 20;

/// The content of a zlib stream, which may be incomplete; empty if it is damaged or too long.
std::string inflated(std::string_view packed) {
  z_stream stream{};
  if (inflateInit(&stream) != Z_OK) return {};
  std::string text(kMostText, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));  // zlib only reads there
  stream.avail_in = static_cast<uInt>(packed.size());
  stream.next_out = reinterpret_cast<Bytef*>(text.data());
  stream.avail_out = static_cast<uInt>(text.size());
  const int result = inflate(&stream, Z_SYNC_FLUSH);
  const bool whole =
      result == Z_STREAM_END || ((result == Z_OK || result == Z_BUF_ERROR) && stream.avail_in == 0);
  text.resize(whole ? text.size() - stream.avail_out : 0);
  inflateEnd(&stream);
  return text;
}

/// Takes the text up to the next zero byte, which is removed too; everything if there is none.
std::string_view take_word(std::string_view& text) {
  const std::size_t end = std::min(text.find('\0'), text.size());
  const std::string_view word = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return word;
}

/// Decodes a profile that ImageMagick wrote as text: an empty line, its name, its length, hexadecimal digits. Any other
/// text gives bytes that are not an EXIF block.
std::string bytes_of_profile(std::string_view text) {
  for (int line = 0; line < 3; ++line) {
    const std::size_t end = text.find('\n');
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  }
  std::string bytes;
  int high = -1;
  for (const char c : text) {
    if (std::isspace(static_cast<unsigned char>(c)) != 0) continue;
    if (std::isxdigit(static_cast<unsigned char>(c)) == 0) return "not hexadecimal";
    const int digit = c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
    if (high < 0) {
      high = digit;
    } else {
      bytes += static_cast<char>(high << 4 | digit);
      high = -1;
    }
  }
  return bytes;
}

}  // namespace

PngParts::PngParts(const PictureFile& file) : file_(file), rest_(file.content) {
  constexpr std::size_t kSignature = 8, kHeader = 13, kColourType = 9;
  pieces_.push_back(rest_.first(kSignature));
  rest_ = rest_.subspan(kSignature);
  for (;;) {
    const Bytes start = rest_;
    std::uint32_t length = 0;
    const std::optional<Chunk> chunk = next_chunk(length);
    if (!chunk)
      file.refuse(start.size() < 8 ? "the file ends too early" : "there is no chunk where one must begin");
    if (chunk->kind == "IDAT") {
      rest_ = start;
      return;
    }
    if (chunk->kind == "IEND") file.refuse("it has no pixels");
    if (rest_.size() < 4) file.refuse("the file ends too early");
    const std::uint8_t* sum = as_octets(rest_);
    const std::string_view summed = as_text(start.subspan(4, 4 + chunk->content.size()));
    const uLong expected = uLong{sum[0]} << 24 | uLong{sum[1]} << 16 | uLong{sum[2]} << 8 | uLong{sum[3]};
    if (crc32(0, reinterpret_cast<const Bytef*>(summed.data()), static_cast<uInt>(summed.size())) != expected)
      file.refuse(fmt::format("the checksum of its chunk {} is wrong", chunk->kind));
    rest_ = rest_.subspan(4);
    if (chunk->kind == "IHDR") {
      add(chunk->kind, chunk->content);
      if (chunk->content.size() >= kHeader) colour_type_ = as_octets(chunk->content)[kColourType];
    } else if (chunk->kind == "PLTE" && colour_type_ == 3) {
      palette_ = chunk->content.size() / 3;
      add(chunk->kind, chunk->content);
    } else if (chunk->kind == "tRNS") {
      read_transparency(chunk->content);
    } else {
      read_note(*chunk);
    }
  }
}

void PngParts::read_rest() {
  bool pixels = true;
  for (;;) {
    std::uint32_t length = 0;
    const std::optional<Chunk> chunk = next_chunk(length);
    // The first chunk of another kind ends the pixels.
    if (pixels && chunk && chunk->kind == "IDAT") {
      add(chunk->kind, chunk->content);
    } else {
      if (!chunk || chunk->kind == "IEND") break;
      pixels = false;
      if (chunk->content.size() < length)
        file_.refuse(fmt::format("the file ends within its chunk {}", chunk->kind));
      read_note(*chunk);
    }
    rest_ = rest_.subspan(std::min<std::size_t>(rest_.size(), 4));
  }
  add("IEND", {});
}

std::optional<PngParts::Chunk> PngParts::next_chunk(std::uint32_t& length) {
  constexpr std::size_t kFrame = 8;
  if (rest_.size() < kFrame) return std::nullopt;
  const std::uint8_t* head = as_octets(rest_);
  length =
      std::uint32_t{head[0]} << 24 | std::uint32_t{head[1]} << 16 | std::uint32_t{head[2]} << 8 | head[3];
  const std::string_view kind = as_text(rest_.subspan(4, 4));
  if (!std::all_of(kind.begin(), kind.end(),
                   [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; }))
    return std::nullopt;
  const Bytes content = rest_.subspan(kFrame, std::min<std::size_t>(length, rest_.size() - kFrame));
  rest_ = rest_.subspan(kFrame + content.size());
  return Chunk{kind, content};
}

/// Adds a chunk whose head has the length of `content`. Its checksum is 0, because libpng ignores it.
void PngParts::add(std::string_view kind, Bytes content) {
  static constexpr std::array<std::byte, 4> kSum{};
  std::array<std::byte, 8>& head = heads_.emplace_back();
  for (std::size_t i = 0; i < 4; ++i) head[i] = static_cast<std::byte>(content.size() >> (24 - 8 * i));
  std::memcpy(&head[4], kind.data(), 4);
  pieces_.insert(pieces_.end(), {head, content, kSum});
}

/// Adds the transparency in the expected length, because libpng ignores a chunk of another length.
void PngParts::read_transparency(Bytes content) {
  const std::size_t needed = colour_type_ == 0 ? 2 : colour_type_ == 2 ? 6 : 0;
  if (content.size() < needed) file_.refuse("its transparency is cut off");
  if (needed > 0) add("tRNS", content.first(needed));
  if (colour_type_ == 3 && !content.empty()) add("tRNS", content.first(std::min(content.size(), palette_)));
}

/// Reads a chunk that may contain the orientation. The last chunk of each kind counts.
void PngParts::read_note(const Chunk& chunk) {
  std::string_view text = as_text(chunk.content);
  if (chunk.kind == "eXIf") exif_ = std::string("Exif\0\0", 6) + std::string(text);
  const bool international = chunk.kind == "iTXt", packed = chunk.kind == "zTXt";
  if (chunk.kind != "tEXt" && !packed && !international) return;
  const std::string_view keyword = take_word(text);
  if (keyword == "exif" && chunk.kind == "tEXt") exif_ = text;
  if (keyword != kXmp && keyword != kProfile) return;
  Text found{text, packed};
  if (packed) {
    found.bytes.remove_prefix(std::min<std::size_t>(text.size(), 1));  // the method
  } else if (international) {
    if (text.size() < 2 || (text[0] != 0 && text[1] != 0)) return;
    found.packed = text[0] != 0;
    found.bytes.remove_prefix(2);
    take_word(found.bytes);  // language
    take_word(found.bytes);  // the keyword in that language
  }
  if (keyword == kXmp)
    xmp_ = found;
  else
    profile_ = found;
}

std::string PngParts::content_of(const Text& text) {
  return text.packed ? inflated(text.bytes) : std::string(text.bytes);
}

int PngParts::orientation() const {
  const std::string exif = exif_      ? *exif_
                           : profile_ ? bytes_of_profile(content_of(*profile_))
                                      : std::string();
  return stored_orientation(std::as_bytes(std::span(exif)), content_of(xmp_));
}

}  // namespace biqa::image
