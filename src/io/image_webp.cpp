// SPDX-License-Identifier: Apache-2.0
#include <webp/decode.h>
#include <webp/demux.h>

#include <algorithm>
#include <memory>

#include "io/image_formats.h"

namespace biqa::image {
namespace {

/// The first chunk of this kind; empty if there is none.
Bytes chunk_of(const WebPDemuxer* parts, const char* name) {
  WebPChunkIterator chunk{};
  Bytes content;
  if (WebPDemuxGetChunk(parts, name, 1, &chunk) != 0)
    content = std::as_bytes(std::span(chunk.chunk.bytes, chunk.chunk.size));  // of the file itself
  WebPDemuxReleaseChunkIterator(&chunk);
  return content;
}

/// The first frame of an animation, on its canvas.
bool decode_first_frame(const WebPData& data, Pixels& pixels) {
  const std::unique_ptr<WebPAnimDecoder, void (*)(WebPAnimDecoder*)> decoder(
      WebPAnimDecoderNew(&data, nullptr), WebPAnimDecoderDelete);
  std::uint8_t* canvas = nullptr;
  int time = 0;
  if (decoder == nullptr || WebPAnimDecoderGetNext(decoder.get(), &canvas, &time) == 0) {
    return false;
  }
  std::copy_n(canvas, pixels.samples.size(), pixels.samples.begin());
  return true;
}

bool decode_still(Bytes content, Pixels& pixels) {
  const auto decode = pixels.channels == 4 ? WebPDecodeRGBAInto : WebPDecodeRGBInto;
  const auto stride = static_cast<int>(pixels.width * pixels.channels);
  return decode(as_octets(content), content.size(), pixels.samples.data(), pixels.samples.size(), stride) !=
         nullptr;
}

}  // namespace

ImageSize size_of_webp(const PictureFile& file) {
  WebPBitstreamFeatures features{};
  if (WebPGetFeatures(as_octets(file.content), file.content.size(), &features) != VP8_STATUS_OK) {
    file.refuse("the WebP file is truncated or corrupt");
  }
  file.check_size(features.width, features.height);
  return {features.width, features.height};
}

Pixels decode_webp(const PictureFile& file) {
  const WebPData data = {as_octets(file.content), file.content.size()};
  // Fails unless all announced parts are present.
  const std::unique_ptr<WebPDemuxer, void (*)(WebPDemuxer*)> parts(WebPDemux(&data), WebPDemuxDelete);
  WebPBitstreamFeatures features{};
  if (parts == nullptr ||
      WebPGetFeatures(as_octets(file.content), file.content.size(), &features) != VP8_STATUS_OK) {
    file.refuse("the WebP file is truncated or corrupt");
  }
  file.check_size(features.width, features.height);
  Pixels pixels(features.width, features.height,
                features.has_alpha != 0 || features.has_animation != 0 ? 4 : 3);
  pixels.add_rows(features.height);
  const bool decoded =
      features.has_animation != 0 ? decode_first_frame(data, pixels) : decode_still(file.content, pixels);
  if (!decoded) {
    file.refuse("the WebP pixels are corrupt");
  }
  pixels.orientation =
      stored_orientation(chunk_of(parts.get(), "EXIF"), as_text(chunk_of(parts.get(), "XMP ")));
  return pixels;
}

}  // namespace biqa::image
