// SPDX-License-Identifier: Apache-2.0
// A network of BERT's shape (Devlin et al., 2018), which gives texts their meaning as vectors. It runs on the CPU in f32,
// beside the device of the language model: it is small, and ranks that only compute rewards have no device.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace biqa {

struct TextEncoderShape {
  std::int64_t hidden = 0, intermediate = 0;
  std::int64_t heads = 0;  ///< divides hidden
  float epsilon = 0;       ///< of the layer norms
};

/// Everything is f32 in host memory.
struct TextEncoderWeights {
  struct Norm {
    Tensor weight, bias;  ///< [1, hidden]
  };
  struct Linear {
    Tensor weight;  ///< [out, in]
    Tensor bias;    ///< [1, out]
  };
  struct Layer {
    Linear qkv;  ///< query, key and value stacked row by row
    Linear output;
    Norm attention_norm;
    Linear up, down;
    Norm output_norm;
  };
  Tensor words;      ///< [vocabulary, hidden]
  Tensor positions;  ///< [most tokens of a text, hidden]
  Tensor type;       ///< [1, hidden]: embedding of the first segment, to which every token belongs
  Norm embedding_norm;
  std::vector<Layer> layers;
};

class TextEncoder {
 public:
  TextEncoder() = default;
  virtual ~TextEncoder() = default;
  TextEncoder(const TextEncoder&) = delete;
  TextEncoder& operator=(const TextEncoder&) = delete;

  /// states [tokens, hidden] f32, host: the last layer's output for packed texts. Text i has the tokens
  /// [boundaries[i], boundaries[i + 1]) of `ids`, which attend only to each other. `boundaries` starts with 0 and ends
  /// with the number of ids. Ids and lengths must be within the weights (CHECK). A text's states do not depend on the
  /// other texts or on the number of threads.
  virtual void encode(std::span<const std::int64_t> ids, std::span<const std::int64_t> boundaries,
                      View states) = 0;
};

/// `threads`: as in DeviceChoice. Throws Error if a product's rows would depend on their batch (Ops::check_rows).
std::unique_ptr<TextEncoder> make_text_encoder(const TextEncoderShape& shape, TextEncoderWeights weights,
                                               int threads);

}  // namespace biqa
