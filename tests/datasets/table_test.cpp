// SPDX-License-Identifier: Apache-2.0
// The table of data sets, against figures and folders as published: written out again, so that a slip in the table shows.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fmt/format.h>
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "datasets/data_set.h"
#include "datasets/fixture.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

struct Published {
  std::string name;
  std::vector<ScoreScale> scales;
  std::vector<PublishedCount> counts;
  std::string deqa_folder;
};

const std::vector<Published> kPublished{
    {"koniq10k",
     {{"zscore", 3.91176470588, 88.3888888889}, {"raw", 1.09615384615385, 4.31}},
     {{"", 10073}, {"train", 7058}, {"val", 1000}, {"test", 2015}},
     "KONIQ"},
    {"spaq", {{"MOS", 2, 96}}, {{"", 11125}}, "SPAQ"},
    {"livewild", {{"MOS", 3.42, 92.4319526627219}}, {{"", 1162}}, "LIVE-WILD"},
    {"kadid10k", {{"dmos", 1, 4.93}}, {{"", 10125}}, "KADID10K"},
    {"pipal", {{"Elo", 916.7136, 1835.9856}}, {{"", 23200}, {"deqa", 4640}}, "PIPAL"},
    {"csiq", {{"DMOS", 1, 0}}, {{"", 866}}, "CSIQ"},
    {"agiqa3k", {{"mos_quality", 0, 4.488740784}}, {{"", 2982}}, "AGIQA3K"},
    {"tid2013", {{"MOS", 0.24242, 7.21429}}, {{"", 3000}}, "TID2013"},
    {"flive", {{"mos", 0, 100}}, {{"", 39810}, {"test", 1827}}, ""},
    {"deqa", {}, {}, ""},
    {"q-reasoning", {{"quality", 0, 4}}, {{"train", 7058}, {"test", 1013}}, ""},
    {"csv", {}, {}, ""},
    {"pyiqa", {}, {}, ""}};

TEST(DataSetTable, RangesAndCountsAreThePublishedOnes) {
  ASSERT_EQ(data_sets().size(), kPublished.size());
  for (const Published& published : kPublished) {
    SCOPED_TRACE(published.name);
    const DataSet& set = find_data_set(published.name);
    ASSERT_EQ(set.scales.size(), published.scales.size());
    for (std::size_t i = 0; i < set.scales.size(); ++i) {
      EXPECT_EQ(set.scales[i].name, published.scales[i].name);
      EXPECT_EQ(set.scales[i].worst, published.scales[i].worst);
      EXPECT_EQ(set.scales[i].best, published.scales[i].best);
    }
    ASSERT_EQ(set.counts.size(), published.counts.size());
    for (std::size_t i = 0; i < set.counts.size(); ++i) {
      EXPECT_EQ(set.counts[i].split, published.counts[i].split);
      EXPECT_EQ(set.counts[i].rows, published.counts[i].rows);
    }
    EXPECT_EQ(set.deqa_folder, published.deqa_folder);
    EXPECT_EQ(set.tutorial_images, published.name == "livewild" ? 7 : 0);
    EXPECT_EQ(set.resized_side, published.name == "spaq" ? 512 : 0);
  }
}

TEST(DataSetTable, ReferencesOfDeqasListOfPipal) {
  const std::vector<std::string> references{
      "A0006", "A0024", "A0027", "A0029", "A0031", "A0040", "A0043", "A0056", "A0057", "A0066",
      "A0069", "A0072", "A0083", "A0086", "A0088", "A0101", "A0103", "A0105", "A0119", "A0120",
      "A0130", "A0137", "A0148", "A0156", "A0163", "A0176", "A0177", "A0181", "A0182", "A0190",
      "A0193", "A0197", "A0207", "A0214", "A0220", "A0227", "A0230", "A0243", "A0245", "A0248"};
  for (int number = 1; number <= 300; ++number) {
    const std::string name = fmt::format("A{:04}", number);
    const bool is_listed = std::find(references.begin(), references.end(), name) != references.end();
    EXPECT_EQ(is_deqa_reference(name + ".bmp"), is_listed) << name;
  }
  EXPECT_TRUE(is_deqa_reference("a0248.BMP"));
}

/// One row of labels and where its picture lies, below the root.
struct Layout {
  std::string set, labels, row, picture;
};

const std::vector<Layout> kLayouts{
    {"koniq10k", "koniq10k_scores_and_distributions.csv",
     "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,MOS_zscore\n1.jpg,0,0,2,6,2,10,4,0.5,50\n", "1024x768/1.jpg"},
    {"koniq10k", "labels.csv",
     "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,MOS_zscore\n1.jpg,0,0,2,6,2,10,4,0.5,50\n", "512x384/1.jpg"},
    {"koniq10k", "labels.csv",
     "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,MOS_zscore\n1.jpg,0,0,2,6,2,10,4,0.5,50\n", "images/1.jpg"},
    {"spaq", "Annotations/MOS and Image attribute scores.csv", "Image name,MOS\n1.jpg,50\n",
     "TestImage/1.jpg"},
    {"spaq", "MOS and Image attribute scores.csv", "Image name,MOS\n1.jpg,50\n", "SPAQ/TestImage/1.jpg"},
    {"spaq", "MOS and Image attribute scores.csv", "Image name,MOS\n1.jpg,50\n", "images/1.jpg"},
    {"kadid10k", "dmos.csv", "dist_img,ref_img,dmos,var\nI01_02_03.png,I01.png,4,0.5\n",
     "images/I01_02_03.png"},
    // The authors', pyiqa's and DeQA's.
    {"pipal", "Train_Label/A0001.txt", "A0001_00_00.bmp,1500\n", "Distortion_1/A0001_00_00.bmp"},
    {"pipal", "training/MOS_Scores_train/A0001.txt", "A0001_00_00.bmp,1500\n",
     "training/Distortion/Distortion_1/A0001_00_00.bmp"},
    {"pipal", "MOS_Scores_train/A0001.txt", "A0001_00_00.bmp,1500\n",
     "Distortion/Distortion_4/A0001_00_00.bmp"},
    {"pipal", "Train_Label/A0001.txt", "A0001_00_00.bmp,1500\n", "Dist_Imgs/A0001_00_00.bmp"},
    {"pipal", "PIPAL_train.txt", "A0001_00_00.bmp, 1500\n", "images/Distortion_2/A0001_00_00.bmp"},
    {"csiq", "csiq_label.txt", "1600.AWGN.1.png 0.25\n", "dst_imgs/awgn/1600.AWGN.1.png"},
    {"csiq", "csiq_label.txt", "1600.AWGN.1.png 0.25\n", "dst_imgs/AWGN/1600.AWGN.1.png"},
    {"csiq", "csiq_label.txt", "1600.AWGN.1.png 0.25\n", "awgn/1600.AWGN.1.png"},
    {"csiq", "csiq_label.txt", "1600.AWGN.1.png 0.25\n", "dst_imgs_all/1600.AWGN.1.png"},
    {"csiq", "csiq_label.txt", "1600.AWGN.1.png 0.25\n", "images/dst_imgs/awgn/1600.AWGN.1.png"},
    {"agiqa3k", "data.csv", "name,mos_quality,std_quality\na.jpg,2,0.5\n", "images/a.jpg"},
    {"agiqa3k", "data.csv", "name,mos_quality,std_quality\na.jpg,2,0.5\n", "Images/a.jpg"},
    {"tid2013", "mos_with_names.txt", "5 I01_01_1.bmp\n", "distorted_images/I01_01_1.bmp"},
    {"tid2013", "mos_with_names.txt", "5 I01_01_1.bmp\n", "images/distorted_images/I01_01_1.bmp"},
    {"tid2013", "mos_with_names.txt", "5 I01_01_1.bmp\n", "I01_01_1.bmp"},
    {"flive", "database/labels_image.csv", "name,mos\r\nvoc/1.jpg,50\r\n", "database/voc/1.jpg"},
    {"flive", "labels_image.csv", "name,mos\r\nvoc/1.jpg,50\r\n", "voc/1.jpg"}};

TEST_F(DataSetFixture, ImagesAndLabelsInTheFoldersOfEveryLayout) {
  for (const Layout& layout : kLayouts) {
    SCOPED_TRACE(layout.set + ", " + layout.picture);
    fs::remove_all(folder_.path() / "root");
    labels(layout.labels, layout.row);
    picture(layout.picture);
    const std::vector<nlohmann::json> rows = import(options(layout.set));
    ASSERT_EQ(rows.size(), 1U);
    EXPECT_EQ(rows[0]["image"], "../root/" + layout.picture);
  }
}

TEST_F(DataSetFixture, CountsAreComparedWithThePublishedOnes) {
  using ::testing::HasSubstr;
  using ::testing::Not;
  labels("mixed_cot.json", R"([{"image": "1.jpg", "quality": 50.5, "normalized_score": 3.2}])");
  labels("cot_reasoning_test.json", R"([{"image": "3.jpg", "quality": 1}])");
  ImportOptions reasoning = options("q-reasoning");
  reasoning.check_images = false;
  import(reasoning);
  EXPECT_THAT(said_, HasSubstr("; the published train and test of Q-Reasoning has 8,071"));
  reasoning.splits = {"train"};
  import(reasoning);
  EXPECT_THAT(said_, HasSubstr("; the published train of Q-Reasoning has 7,058"));
  reasoning.splits.clear();
  reasoning.labels = fs::path(reasoning.root) / "cot_reasoning_test.json";
  import(reasoning);
  EXPECT_THAT(said_, HasSubstr("; the published test of Q-Reasoning has 1,013"));
  // A split that is named twice counts once.
  labels("koniq10k_distributions_sets.csv",
         "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set\n1.jpg,0,0,0.2,0.6,0.2,100,50,0.5,validation\n"
         "2.jpg,0,0,0.2,0.6,0.2,100,50,0.5,test\n");
  ImportOptions koniq = options("koniq10k");
  koniq.check_images = false;
  koniq.splits = {"val", "test", "val"};
  EXPECT_EQ(import(koniq).size(), 2U);
  EXPECT_THAT(said_, HasSubstr("; the published val and test of KonIQ-10k has 3,015"));
  // A table of the user has no published count.
  ImportOptions own = options("csv");
  own.check_images = false;
  own.labels = labels("own.csv", "image,score\n1.jpg,1\n");
  own.scale = "0..5";
  import(own);
  EXPECT_THAT(said_, Not(HasSubstr("published")));
}

}  // namespace
}  // namespace biqa
