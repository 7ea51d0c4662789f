// SPDX-License-Identifier: Apache-2.0
#include <libexif/exif-data.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "io/image_formats.h"

namespace biqa::image {

namespace {

/// A numeric entry's first value; nothing for texts and bytes, which are no numbers to Pillow either.
std::optional<double> number_of(const ExifEntry& entry, ExifByteOrder order) {
  if (entry.components < 1 || entry.size < exif_format_get_size(entry.format)) return std::nullopt;
  switch (entry.format) {
    case EXIF_FORMAT_SHORT:
      return exif_get_short(entry.data, order);
    case EXIF_FORMAT_LONG:
      return exif_get_long(entry.data, order);
    case EXIF_FORMAT_SBYTE:
      return static_cast<signed char>(entry.data[0]);
    case EXIF_FORMAT_SSHORT:
      return exif_get_sshort(entry.data, order);
    case EXIF_FORMAT_SLONG:
      return exif_get_slong(entry.data, order);
    case EXIF_FORMAT_RATIONAL: {
      const ExifRational ratio = exif_get_rational(entry.data, order);
      return static_cast<double>(ratio.numerator) / static_cast<double>(ratio.denominator);
    }
    case EXIF_FORMAT_SRATIONAL: {
      const ExifSRational ratio = exif_get_srational(entry.data, order);
      return static_cast<double>(ratio.numerator) / static_cast<double>(ratio.denominator);
    }
    case EXIF_FORMAT_FLOAT:
      return std::bit_cast<float>(exif_get_long(entry.data, order));
    case EXIF_FORMAT_DOUBLE: {
      const bool big = order == EXIF_BYTE_ORDER_MOTOROLA;
      const std::uint64_t high = exif_get_long(entry.data + (big ? 0 : 4), order);
      const std::uint64_t low = exif_get_long(entry.data + (big ? 4 : 0), order);
      return std::bit_cast<double>(high << 32 | low);
    }
    default:
      return std::nullopt;
  }
}

int valid_orientation(double code) {
  for (int known = 2; known <= 8; ++known) {
    if (code == known) return known;
  }
  return 1;
}

/// What an EXIF block says; nothing where it has no orientation, 1 where that is none of 1..8.
std::optional<int> exif_orientation(Bytes exif) {
  static constexpr std::array<std::uint8_t, 6> kPrefix = {'E', 'x', 'i', 'f', 0, 0};
  const auto begins_with_prefix = [](const std::vector<std::uint8_t>& bytes, std::size_t at) {
    return bytes.size() >= at + kPrefix.size() &&
           std::equal(kPrefix.begin(), kPrefix.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at));
  };
  // PNG and WebP mostly store the block without the prefix that libexif wants; some programs write it twice.
  std::vector<std::uint8_t> block(as_octets(exif), as_octets(exif) + exif.size());
  if (!begins_with_prefix(block, 0)) block.insert(block.begin(), kPrefix.begin(), kPrefix.end());
  if (begins_with_prefix(block, kPrefix.size())) block.erase(block.begin(), block.begin() + kPrefix.size());
  const std::unique_ptr<ExifData, void (*)(ExifData*)> data(exif_data_new(), exif_data_unref);
  if (data == nullptr || block.size() > std::numeric_limits<unsigned>::max()) {
    return std::nullopt;
  }
  // Only read: no repair of other entries.
  exif_data_unset_option(data.get(), EXIF_DATA_OPTION_FOLLOW_SPECIFICATION);
  exif_data_load_data(data.get(), block.data(), static_cast<unsigned>(block.size()));
  const ExifEntry* entry = exif_content_get_entry(data->ifd[EXIF_IFD_0], EXIF_TAG_ORIENTATION);
  if (entry == nullptr || entry->data == nullptr) return std::nullopt;
  return valid_orientation(number_of(*entry, exif_data_get_byte_order(data.get())).value_or(1));
}

/// What an XMP packet says, as attribute or as element; 1 where it says nothing.
int xmp_orientation(std::string_view packet) {
  constexpr std::string_view kName = "tiff:Orientation";
  for (std::size_t at = packet.find(kName); at != std::string_view::npos; at = packet.find(kName, at + 1)) {
    std::string_view rest = packet.substr(at + kName.size());
    if (rest.starts_with("=\""))
      rest.remove_prefix(2);
    else if (rest.starts_with(">"))
      rest.remove_prefix(1);
    else
      continue;
    if (!rest.empty() && rest[0] >= '0' && rest[0] <= '9') return valid_orientation(rest[0] - '0');
  }
  return 1;
}

}  // namespace

int stored_orientation(Bytes exif, std::string_view xmp) {
  const std::optional<int> told = exif.empty() ? std::nullopt : exif_orientation(exif);
  return told ? *told : xmp_orientation(xmp);
}

int stored_orientation(std::optional<int> tag, std::string_view xmp) {
  return tag ? valid_orientation(*tag) : xmp_orientation(xmp);
}

}  // namespace biqa::image
