// SPDX-License-Identifier: Apache-2.0
// Image features of the CUDA backend wait in host memory. A batch copies them, and no bit changes.
#include <gtest/gtest.h>

#include "actor/pictures.h"
#include "cuda_emulation/emulator.h"
#include "ops/cuda/cuda_ops.h"
#include "support/compare.h"
#include "support/tiny_model.h"
#include "tensor/device_use.h"

namespace biqa {
namespace {

using testing::same_bits;
using testing::TinyModel;

class CudaPictures : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Types, CudaPictures, ::testing::Values(DType::f32, DType::bf16),
                         [](const auto& type) { return name_of(type.param); });

TEST_P(CudaPictures, FeaturesWaitOnTheHost) {
  const TinyModel files;
  const auto model = QwenVl::load(files.path(), std::make_shared<cuda::CudaOps>(GetParam()), {false, true});
  const PictureEncoder encoder(*model, {}, 0);
  std::vector<Patches> images;
  std::vector<ImagePatches> same;
  for (const std::int64_t columns : {4, 6}) {
    images.push_back({{1, 4, columns},
                      testing::random_values(static_cast<std::size_t>(4 * columns) * TinyModel::kPatchValues,
                                             2, static_cast<std::uint64_t>(columns))});
  }
  for (const Patches& image : images) same.push_back({image.grid, image.values});
  const Tensor on_device = model->encode_images(same);
  const std::size_t before = device_memory_report()["image_features"].now;

  emulation::set_streams(emulation::Streams::late);
  const auto encoded = encoder.encode(std::span<const Patches>(images));
  ASSERT_EQ(encoded.size(), 2U);
  EXPECT_EQ(device_memory_report()["image_features"].now, before);
  const Tensor expected = copied_to_host(model->ops().memory(), on_device.view(), "test");
  std::int64_t row = 0;
  for (const EncodedPicture& image : encoded) {
    ASSERT_EQ(image.features->memory(), Memory::host);
    EXPECT_TRUE(same_bits(image.features->view(), expected.view().row_range(row, image.tokens())));
    row += image.tokens();
  }

  Tensor unused;
  PromptInput prompt = testing::image_prompt(*model, 2, 3, 30, 1, unused);
  const auto hidden = [&](ConstView features) {
    prompt.features.front().features = features;
    return testing::hidden_of(*model, prompt, nullptr);
  };
  EXPECT_TRUE(
      same_bits(hidden(encoded[1].features->view()).view(), hidden(on_device.view().row_range(4, 6)).view()));
  emulation::set_streams(emulation::Streams::at_once);
}

}  // namespace
}  // namespace biqa
