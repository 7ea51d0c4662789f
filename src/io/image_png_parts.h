// SPDX-License-Identifier: Apache-2.0
// Private to io/image: splits a PNG file into chunks as Pillow does, because libpng refuses files that Pillow accepts.
#pragma once

#include <array>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/image_formats.h"

namespace biqa::image {

/// The input for libpng: the complete chunks of the image itself, and an end mark. All other chunks are left out, so
/// libpng cannot refuse one of them. Checksums of chunks before the pixels are checked. Later ones are ignored, because
/// the pixels have their own checksum. The bytes of the file are borrowed.
class PngParts {
 public:
  /// Reads everything before the pixels. Throws Error if the file is damaged or ends before them.
  explicit PngParts(const PictureFile& file);
  PngParts(const PngParts&) = delete;
  PngParts& operator=(const PngParts&) = delete;

  /// Reads the pixels and everything after them.
  void read_rest();
  /// Call this instead of read_rest() if only the header is needed. It adds an empty pixel chunk, because libpng ends
  /// the header there.
  void leave_out_rest() { add("IDAT", {}); }

  /// The input for libpng, in pieces.
  const std::vector<Bytes>& pieces() const { return pieces_; }
  /// Valid after read_rest(), because the orientation may follow the pixels.
  int orientation() const;

 private:
  struct Chunk {
    std::string_view kind;
    Bytes content;
  };
  /// A text chunk as stored.
  struct Text {
    std::string_view bytes;
    bool packed = false;
  };

  /// The chunk's kind and the available part of its content; nothing if no chunk begins here.
  std::optional<Chunk> next_chunk(std::uint32_t& length);
  void add(std::string_view kind, Bytes content);
  void read_transparency(Bytes content);
  void read_note(const Chunk& chunk);
  static std::string content_of(const Text& text);

  const PictureFile& file_;
  Bytes rest_;
  std::deque<std::array<std::byte, 8>> heads_;
  std::vector<Bytes> pieces_;
  int colour_type_ = -1;
  std::size_t palette_ = 0;  ///< number of colours
  std::optional<std::string> exif_;
  std::optional<Text> profile_;
  Text xmp_;
};

}  // namespace biqa::image
