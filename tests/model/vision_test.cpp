// SPDX-License-Identifier: Apache-2.0
#include "model/vision_tower.h"

#include <gtest/gtest.h>

#include <deque>

#include <algorithm>
#include <numeric>

#include "support/compare.h"
#include "support/tiny_model.h"

namespace biqa {
namespace {

using testing::random_values;
using testing::same_bits;
using testing::TinyModel;
using Indices = std::vector<std::int64_t>;

WindowPlan plan(std::vector<Grid> grids) {
  return plan_windows(VisionConfig{}, grids);
}

// Golden values of the design page (cells are merged patches: half the grid's sides).
TEST(WindowPlan, EightByTenCells) {
  const WindowPlan p = plan({{1, 16, 20}});
  EXPECT_EQ(Indices(p.cells.begin(), p.cells.begin() + 20),
            (Indices{0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23, 30, 31, 32, 33, 4, 5, 6, 7}));
  EXPECT_EQ(Indices(p.cells.begin() + 32, p.cells.begin() + 40), (Indices{8, 9, 18, 19, 28, 29, 38, 39}));
  EXPECT_EQ(p.windows, (Indices{0, 64, 128, 160, 224, 288, 320}));
  EXPECT_EQ(p.frames, (Indices{0, 320}));
}
TEST(WindowPlan, OneFullWindow) {
  EXPECT_EQ(plan({{1, 8, 8}}).windows, (Indices{0, 64}));
}
TEST(WindowPlan, RaggedEdges) {
  EXPECT_EQ(plan({{1, 54, 74}}).windows.size(), 71U);
}

TEST(WindowPlan, ImagesAndFramesFollowOneAnother) {
  const WindowPlan p = plan({{1, 8, 10}, {2, 4, 2}, {1, 2, 2}});
  EXPECT_EQ(p.frames, (Indices{0, 80, 88, 96, 100}));
  Indices sorted = p.cells;
  std::sort(sorted.begin(), sorted.end());
  Indices all(25);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(sorted, all) << "every cell once";
  for (const std::int64_t frame : p.frames) {
    EXPECT_TRUE(std::binary_search(p.windows.begin(), p.windows.end(), frame))
        << "no window crosses frame end " << frame;
  }
}

struct Picture {
  Picture(std::int64_t rows, std::int64_t columns, std::uint64_t seed)
      : values(random_values(static_cast<std::size_t>(rows * columns * TinyModel::kPatchValues), 2, seed)),
        patches{{1, rows, columns}, values} {}
  Picture(const Picture&) = delete;
  Picture& operator=(const Picture&) = delete;
  std::vector<float> values;
  ImagePatches patches;
};

class Vision : public ::testing::TestWithParam<DType> {
 protected:
  TinyModel files_;
};
INSTANTIATE_TEST_SUITE_P(Types, Vision, ::testing::Values(DType::f32, DType::bf16),
                         [](const auto& type) { return name_of(type.param); });

TEST_P(Vision, APictureDoesNotDependOnItsCompanyOrTheThreads) {
  std::deque<Picture> pictures;  // never moved: the patches point into the values
  pictures.emplace_back(6, 10, 1);
  pictures.emplace_back(2, 2, 2);
  pictures.emplace_back(4, 4, 3);
  std::vector<Tensor> alone;
  for (const int threads : {1, 2}) {
    const auto model = testing::load(files_, GetParam(), threads);
    const auto encoded = [&](std::span<const ImagePatches> images) {
      return copied_to_host(model->ops().memory(), model->encode_images(images).view(), "test");
    };
    std::vector<ImagePatches> all;
    for (const Picture& picture : pictures) {
      all.push_back(picture.patches);
      if (threads == 1) alone.push_back(encoded(std::span(&picture.patches, 1)));
    }
    const Tensor together = encoded(all);
    std::int64_t row = 0;
    for (const Tensor& one : alone) {
      EXPECT_EQ(one.columns(), model->config().text.hidden);
      EXPECT_TRUE(same_bits(one.view(), together.view().row_range(row, one.rows()))) << threads << " threads";
      row += one.rows();
    }
    EXPECT_EQ(row, together.rows());
    EXPECT_EQ(row, 15 + 1 + 4) << "one feature per merged cell";
  }
}

// What one patch's change reaches: after a windowed block its own window, after a full block the whole
// picture, and never the other picture.
TEST_P(Vision, WindowsAndFullBlocksReachWhatTheyShould) {
  const auto model = testing::load(files_, GetParam());
  Picture changed(6, 10, 1);
  const Picture other(4, 4, 3);
  const auto run = [&] {
    std::vector<Tensor> blocks;
    const Observer observer = [&](const std::string& name, ConstView value) {
      if (name.rfind("vision_block_", 0) != 0) return;
      blocks.push_back(copied_to_host(model->ops().memory(), value, "test"));
    };
    const std::vector<ImagePatches> both{changed.patches, other.patches};
    (void)model->encode_images(both, &observer);
    return blocks;
  };
  const auto before = run();
  ASSERT_EQ(before.size(), 3U);
  for (float& value : std::span(changed.values).subspan(0, TinyModel::kPatchValues)) value = -value;
  changed.patches.values = changed.values;
  const auto after = run();
  // Windows are 2×2 cells, so the first patch's window holds the first 16 rows of the 60.
  for (std::int64_t row = 0; row < before[0].rows(); ++row) {
    const auto same = [&](std::size_t block) {
      return static_cast<bool>(
          same_bits(before[block].view().row_range(row, 1), after[block].view().row_range(row, 1)));
    };
    EXPECT_EQ(same(0), row >= 16) << "row " << row << " after the windowed block";
    EXPECT_EQ(same(1), row >= 60) << "row " << row << " after the full block";
  }
}

}  // namespace
}  // namespace biqa
