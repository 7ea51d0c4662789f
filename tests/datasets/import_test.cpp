// SPDX-License-Identifier: Apache-2.0
// Each data set from its own files to a manifest.
#include "datasets/import.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>

#include "core/error.h"
#include "data/manifest.h"
#include "datasets/fixture.h"
#include "support/zip_of.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

const std::string kKoniqHead = "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set\n";
const std::string kKoniqRows =
    "1.jpg,0.5,0.5,0,0,0,10,3.91176470588,0.6,training\n"
    "2.jpg,0,0,0.25,0.5,0.25,100,88.3888888889,0.7,validation\n"
    "3.jpg,0,0,1,0,0,100,46.15032679739,0.7,test\n";

class Koniq : public DataSetFixture {
 protected:
  Koniq() {
    labels("koniq10k_distributions_sets.csv", kKoniqHead + kKoniqRows);
    for (const char* name : {"1.jpg", "2.jpg", "3.jpg"}) picture(std::string("1024x768/") + name);
  }
};

TEST_F(Koniq, DefaultScale) {
  const std::vector<json> rows = import(options("koniq10k"));
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(rows[0], json::parse(R"({"id": "1.jpg", "image": "../root/1024x768/1.jpg", "score": 1.0,
    "raw_score": 3.91176470588, "set": "koniq10k", "split": "train", "std": 0.6, "width": 6, "height": 4})"));
  EXPECT_EQ(rows[1]["score"], 5.0);
  EXPECT_NEAR(rows[2]["score"].get<double>(), 3, 1e-9);
  EXPECT_THAT(said_, HasSubstr("wrote 3 rows"));
  EXPECT_THAT(said_, HasSubstr("the published KonIQ-10k has 10,073"));
  EXPECT_THAT(
      said_,
      HasSubstr("MOS (scale zscore) mapped from 3.91176470588..88.3888888889 to 1..5; higher is better"));
  EXPECT_THAT(said_, HasSubstr("3 of 3 images do not have the native size 1024x768; most of them have 6x4"));
  // The manifest is one that every program reads.
  const std::vector<Sample> samples = read_manifest(options("koniq10k").out);
  EXPECT_EQ(samples.size(), 3U);
  EXPECT_EQ(samples[2].raw_score, 46.15032679739);
}

TEST_F(Koniq, ImagesMayLieElsewhere) {
  const fs::path elsewhere = options("koniq10k").root.parent_path() / "elsewhere";
  fs::rename(options("koniq10k").root / "1024x768", elsewhere);
  ImportOptions asked = options("koniq10k");
  EXPECT_THAT(refusal(asked), HasSubstr("1.jpg"));
  asked.images = elsewhere.string() + "/no";
  EXPECT_THAT(refusal(asked), HasSubstr("no such folder below"));
  asked.images = elsewhere.string();
  EXPECT_EQ(import(asked)[0]["image"], "../elsewhere/1.jpg");
}

TEST_F(Koniq, RawScaleIsTheMeanOfTheGrades) {
  ImportOptions raw = options("koniq10k");
  raw.scale = "raw";
  const std::vector<json> rows = import(raw);
  EXPECT_EQ(rows[0]["raw_score"], 1.5);
  EXPECT_EQ(rows[1]["raw_score"], 4.0);
  EXPECT_NEAR(rows[1]["score"].get<double>(), 1 + 4 * (4 - 1.09615384615385) / (4.31 - 1.09615384615385),
              1e-12);
}

TEST_F(Koniq, GradesAndTheirTotal) {
  ImportOptions counts = options("koniq10k");
  counts.labels = labels("counts.csv", kKoniqHead + "1.jpg,1,2,3,0,0,6,50,1,test\n");
  EXPECT_EQ(import(counts).size(), 1U);
  fs::remove(counts.out);
  counts.labels = labels("counts.csv", kKoniqHead + "1.jpg,1,2,3,0,0,7,50,1,test\n");
  EXPECT_THAT(refusal(counts),
              HasSubstr("counts.csv:2: c1 to c5 sum to 6, which is neither 1 nor c_total, 7"));
  counts.scale = "raw";
  EXPECT_THAT(refusal(counts), HasSubstr("neither 1 nor c_total"));
  counts.scale = "";
  counts.labels =
      labels("counts.csv", "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,MOS_zscore\n1.jpg,1,2,3,0,0,7,2,1,50\n");
  EXPECT_THAT(refusal(counts), HasSubstr("neither 1 nor c_total"));
}

TEST_F(Koniq, BadRowsOfOtherSplitsDoNotCount) {
  ImportOptions some = options("koniq10k");
  some.labels = labels(
      "bad.csv", kKoniqHead + kKoniqRows + "9.jpg,0,0,1,0,0,1,nan,1,test\n8.jpg,0,0,1,0,0,1,x,1,training\n");
  some.splits = {"val"};
  EXPECT_EQ(import(some).size(), 1U);
  EXPECT_THAT(said_, HasSubstr("2 bad rows are in other splits and do not count"));
  fs::remove(some.out);
  some.splits = {"test"};
  EXPECT_THAT(refusal(some), HasSubstr("bad.csv:5: MOS is 'nan'"));
  // A row whose split is unknown may be one of them.
  some.splits = {"val"};
  some.labels = labels("bad.csv", kKoniqHead + kKoniqRows + "9.jpg,0,0,1,0,0,1,50,1,\n");
  EXPECT_THAT(refusal(some), HasSubstr("bad.csv:5: set is empty"));
}

TEST_F(Koniq, OtherFileHasBothScalesAndNoSplit) {
  ImportOptions other = options("koniq10k");
  other.labels =
      labels("scores.csv",
             "\"image_name\",\"c1\",\"c2\",\"c3\",\"c4\",\"c5\",\"c_total\",\"MOS\",\"SD\",\"MOS_zscore\"\n"
             "1.jpg,1,1,1,1,1,5,3,1.4,50\n");
  EXPECT_EQ(import(other)[0]["raw_score"], 50);
  other.scale = "raw";
  EXPECT_EQ(import(other)[0]["raw_score"], 3);
  fs::remove(other.out);
  other.splits = {"train"};
  EXPECT_THAT(refusal(other), HasSubstr("scores.csv has no split"));
}

TEST_F(Koniq, Splits) {
  ImportOptions some = options("koniq10k");
  some.splits = {"validation", "test"};
  EXPECT_EQ(import(some).size(), 2U);
  EXPECT_THAT(said_, HasSubstr("val and test of KonIQ-10k has 3,015"));
  some.splits = {"train", "all"};
  EXPECT_EQ(import(some).size(), 3U);
  fs::remove(some.out);
  some.splits = {"nope"};
  EXPECT_THAT(refusal(some), HasSubstr("'nope'; KonIQ-10k has the splits train, val, test and all"));
}

TEST_F(Koniq, ValuesOfTheOtherScale) {
  ImportOptions wrong = options("koniq10k");
  wrong.labels = labels(
      "raw.csv", std::regex_replace(kKoniqHead + kKoniqRows,
                                    std::regex("3\\.91176470588|88\\.3888888889|46\\.15032679739"), "3.5"));
  EXPECT_THAT(refusal(wrong), HasSubstr("every MOS lies in 1.09615384615385..4.31, the range of the scale "
                                        "'raw'"));
  wrong.scale = "other";
  EXPECT_THAT(refusal(wrong), HasSubstr("'other'; it must be one of zscore, raw"));
}

TEST_F(Koniq, BadRows) {
  ImportOptions bad = options("koniq10k");
  bad.labels = labels(
      "bad.csv", kKoniqHead + kKoniqRows + "3.jpg,0,0,1,0,0,1,40,1,test\n4.jpg,0,0,1,0,0,1,nan,1,test\n");
  EXPECT_THAT(refusal(bad), HasSubstr("bad.csv:5: '3.jpg' is already in"));
  bad.labels = labels("bad.csv", kKoniqHead + "4.jpg,0,0,1,0,0,1,nan,1,test\n");
  EXPECT_THAT(refusal(bad), HasSubstr("bad.csv:2: MOS is 'nan', not a number"));
  bad.labels = labels("bad.csv", kKoniqHead + kKoniqRows + "5.jpg,0,0,1,0,0,1,88.4,1,test\n");
  EXPECT_THAT(refusal(bad),
              HasSubstr("bad.csv:5: MOS 88.4 is outside the range 3.91176470588..88.3888888889"));
  bad.labels = labels("bad.csv", kKoniqHead + kKoniqRows + "9.jpg,0,0,1,0,0,1,40,1,test\n");
  EXPECT_THAT(refusal(bad), HasSubstr("there is no image '9.jpg'"));
  bad.labels = labels("bad.csv", kKoniqHead + kKoniqRows + "../1024x768/3.jpg,0,0,1,0,0,1,40,1,test\n");
  EXPECT_THAT(refusal(bad), HasSubstr("leads out of the folder"));
  bad.skip_bad = true;
  bad.labels = labels(
      "bad.csv", kKoniqHead + kKoniqRows + "9.jpg,0,0,1,0,0,1,40,1,test\n1.jpg,0,0,1,0,0,1,40,1,test\nx,y\n");
  EXPECT_EQ(import(bad).size(), 3U);
  EXPECT_EQ(result_.left_out.size(), 3U);
  EXPECT_THAT(said_, HasSubstr("left out 3 of 6 rows"));
  EXPECT_THAT(said_, HasSubstr("'9.jpg'"));
}

// A score may leave the range in its last digits, and is then at its end.
TEST_F(Koniq, RoundingAtTheEnds) {
  labels("koniq10k_distributions_sets.csv", kKoniqHead + "1.jpg,0,0,1,0,0,1,88.388889,1,test\n");
  EXPECT_EQ(import(options("koniq10k"))[0]["score"], 5.0);
}

TEST_F(Koniq, Pictures) {
  picture("512x384/1.jpg", 512, 384);
  ImportOptions small = options("koniq10k");
  EXPECT_EQ(import(small)[0]["image"], "../root/1024x768/1.jpg") << "the folder with most images";
  small.images = "512x384";
  small.skip_bad = true;
  EXPECT_EQ(import(small)[0]["width"], 512);
  EXPECT_THAT(said_, HasSubstr("native size 1024x768; most of them have 512x384"));
  fs::remove(small.out);
  small.images = "nowhere";
  EXPECT_THAT(refusal(small), HasSubstr("nowhere: no such folder"));

  ImportOptions sized = options("koniq10k");
  sized.expected = {6, 4};
  EXPECT_EQ(import(sized).size(), 3U);
  fs::remove(sized.out);
  picture("1024x768/2.jpg", 7, 4);
  EXPECT_THAT(refusal(sized), HasSubstr("2.jpg has 7x4 pixels, not 6x4"));
  folder_.write("root/1024x768/2.jpg", "<html>");
  EXPECT_THAT(refusal(options("koniq10k")), HasSubstr("2.jpg: not a readable image"));
  fs::remove(folder_.path() / "root/1024x768/2.jpg");
  ImportOptions unchecked = options("koniq10k");
  unchecked.check_images = false;
  const std::vector<json> rows = import(unchecked);
  EXPECT_EQ(rows[1]["image"], "../root/1024x768/2.jpg");
  EXPECT_FALSE(rows[1].contains("width"));
}

TEST_F(Koniq, WrongPlaces) {
  ImportOptions wrong = options("koniq10k");
  wrong.root = folder_.path() / "nowhere";
  EXPECT_THAT(refusal(wrong), HasSubstr("nowhere: no such folder"));
  wrong = options("koniq");
  EXPECT_THAT(refusal(wrong), HasSubstr("unknown data set 'koniq'; it must be one of koniq10k, spaq"));
  wrong = options("koniq10k");
  wrong.root = folder_.path() / "root/1024x768";
  EXPECT_THAT(refusal(wrong), HasSubstr("none of koniq10k_distributions_sets.csv, "));
  wrong = options("koniq10k");
  wrong.labels = "absent.csv";
  EXPECT_THAT(refusal(wrong), HasSubstr("absent.csv: no such file"));
  wrong = options("koniq10k");
  wrong.out = folder_.path() / "missing" / "m.jsonl";
  EXPECT_THAT(error_of([&] { import(wrong); }), HasSubstr("make it first"));
}

TEST_F(DataSetFixture, SpaqWorkbook) {
  labels(
      "Annotations/MOS and Image attribute scores.xlsx",
      workbook_of(
          "<row><c t='inlineStr'><is><t>Image name</t></is></c><c t='inlineStr'><is><t>MOS</t></is></c></row>"
          "<row><c t='inlineStr'><is><t>00001.jpg</t></is></c><c><v>49</v></c></row>"));
  picture("TestImage/00001.png", 600, 512);
  const std::vector<json> rows = import(options("spaq"));
  EXPECT_EQ(rows[0]["id"], "00001.jpg");
  EXPECT_EQ(rows[0]["image"], "../root/TestImage/00001.png");
  EXPECT_EQ(rows[0]["score"], 3.0);
  EXPECT_THAT(said_, HasSubstr("1 images have another extension"));
  EXPECT_THAT(said_, HasSubstr("1 of 1 images have a shorter side of 512 pixels"));
  fs::remove(options("spaq").out);
  ImportOptions split = options("spaq");
  split.splits = {"train"};
  EXPECT_THAT(refusal(split), HasSubstr("SPAQ has no official split"));
  split = options("spaq");
  split.labels = labels("other.csv", "Image name,Brightness\n1.jpg,3\n");
  EXPECT_THAT(refusal(split),
              HasSubstr("no columns Image name or img_name, MOS; its first row is Image name, Brightness"));
}

TEST_F(DataSetFixture, ASheetIsChosenIfSeveralHaveTheColumns) {
  const std::string rows =
      "<row><c t='inlineStr'><is><t>Image name</t></is></c><c t='inlineStr'><is><t>MOS</t></is></c></row>"
      "<row><c t='inlineStr'><is><t>1.jpg</t></is></c><c><v>49</v></c></row>";
  picture("TestImage/1.jpg");
  ImportOptions spaq = options("spaq");
  spaq.labels = labels("three.xlsx", workbook_of(rows, "", 3));
  EXPECT_THAT(refusal(spaq),
              HasSubstr("three.xlsx: several sheets have the columns: 'S', 'S2', 'S3'; choose one with "
                        "--sheet NAME"));
  spaq.sheet = "S4";
  EXPECT_THAT(refusal(spaq), HasSubstr("has only the sheets 'S', 'S2', 'S3'; name one of them"));
  spaq.sheet = "S2";
  EXPECT_EQ(import(spaq).size(), 1U);
  EXPECT_THAT(said_, Not(HasSubstr("sheets:")));
  fs::remove(spaq.out);
  spaq.labels = labels("bad.xlsx", workbook_of(rows + "<row><c/><c><v>1</v></c></row>", "", 3));
  EXPECT_THAT(refusal(spaq), HasSubstr("bad.xlsx, sheet 'S2', row 3"));
  spaq.labels = labels("one.xlsx", workbook_of(rows));
  spaq.sheet = "";
  EXPECT_EQ(import(spaq).size(), 1U);
  fs::remove(spaq.out);
  spaq.labels = labels("labels.csv", "Image name,MOS\n1.jpg,49\n");
  spaq.sheet = "S";
  EXPECT_THAT(refusal(spaq), HasSubstr("labels.csv, which is not a workbook"));
}

TEST_F(DataSetFixture, LiveWild) {
  const fs::path fixtures = fs::path(BIQA_SOURCE_DIR) / "tests/fixtures/labels";
  fs::create_directories(folder_.path() / "root/Data");
  for (const char* name : {"AllImages_release", "AllMOS_release", "AllStdDev_release"})
    fs::copy_file(fixtures / (std::string(name) + ".mat"),
                  folder_.path() / "root/Data" / (std::string(name) + ".mat"));
  picture("Images/trainingImages/t1.bmp");
  picture("Images/3.bmp");
  picture("Images/4.jpg");
  std::vector<json> rows = import(options("livewild"));
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0]["id"], "3.bmp");
  EXPECT_EQ(rows[0]["raw_score"], 63.9634);
  EXPECT_EQ(rows[0]["std"], 18.5);
  EXPECT_EQ(rows[1]["image"], "../root/Images/4.jpg") << "the label says 4.JPG";
  EXPECT_THAT(said_, HasSubstr("1 tutorial images left out"));
  EXPECT_THAT(said_, HasSubstr("LIVE in the Wild has 1,162"));
  EXPECT_THAT(said_, HasSubstr("1 file names differ from those in the labels by upper and lower case"));
  ImportOptions all = options("livewild");
  all.with_tutorial = true;
  rows = import(all);
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(rows[0]["image"], "../root/Images/trainingImages/t1.bmp");
  EXPECT_THAT(said_, HasSubstr("LIVE in the Wild with tutorial images has 1,169"));
  fs::remove(all.out);
  fs::copy_file(fixtures / "short_AllMOS_release.mat", folder_.path() / "root/Data/AllMOS_release.mat",
                fs::copy_options::overwrite_existing);
  EXPECT_THAT(refusal(all), HasSubstr("AllMOS_release has 2 values, but AllImages_release has 3 names"));
}

TEST_F(DataSetFixture, KadidReadsWhatNamesSay) {
  labels("dmos.csv", "dist_img,ref_img,dmos,var\nI01_02_03.png,I01.png,4.93,0.5\n");
  picture("images/I01_02_03.png");
  picture("images/I01.png");
  EXPECT_EQ(import(options("kadid10k")),
            (std::vector<json>{json::parse(R"({"id": "I01_02_03.png", "image": "../root/images/I01_02_03.png",
    "score": 5.0, "raw_score": 4.93, "set": "kadid10k", "std": 0.5, "reference": "I01.png", "type": "02", "level": 3,
    "width": 6, "height": 4})")}));
  ImportOptions bare = options("kadid10k");
  bare.labels = labels("kadid10k_label.txt", "I01_02_03.png, 1");
  EXPECT_EQ(import(bare)[0]["score"], 1.0);
  EXPECT_EQ(import(bare)[0]["reference"], "I01.png");
}

TEST_F(DataSetFixture, PipalFolders) {
  labels("Train_Label/A0006.txt", "A0006_00_01.bmp,916.7136\r\n");
  labels("Train_Label/A0001.txt", "A0001_06_26.bmp, 1835.9856\n");
  picture("Distortion_1/A0001_06_26.bmp");
  picture("Distortion_1/A0006_00_01.bmp");
  std::vector<json> rows = import(options("pipal"));
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0]["id"], "A0001_06_26.bmp");
  EXPECT_EQ(rows[0]["score"], 5.0);
  EXPECT_EQ(rows[0]["reference"], "A0001.bmp");
  ImportOptions deqa = options("pipal");
  deqa.splits = {"deqa"};
  rows = import(deqa);
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_EQ(rows[0]["reference"], "A0006.bmp");
  EXPECT_THAT(said_, HasSubstr("deqa of PIPAL has 4,640"));
  // Names and references may differ in case.
  labels("Train_Label/A0006.txt", "a0006_00_01.bmp,916.7136\r\n");
  EXPECT_EQ(import(deqa).size(), 1U);
  // A bad row of another reference does not count.
  labels("Train_Label/A0001.txt", "A0001_06_26.bmp, 1835.9856\nA0001_06_27.bmp, x\n");
  EXPECT_EQ(import(deqa).size(), 1U);
  EXPECT_THAT(said_, HasSubstr("1 bad rows are in other splits"));
  labels("Train_Label/A0001.txt", "A0001_06_26.bmp, 1835.9856\n");
  // A bad row of these references is no silent loss.
  fs::remove(deqa.out);
  labels("Train_Label/A0006.txt", "A0006_00_01.bmp,916.7136\r\n,1500\r\n");
  EXPECT_THAT(refusal(deqa), HasSubstr("A0006.txt:2"));
  labels("Train_Label/A0006.txt", "A0006_00_01.bmp,916.7136\r\n");
  // The same image in two folders cannot be chosen.
  picture("Distortion_2/A0006_00_01.bmp");
  EXPECT_THAT(refusal(deqa), HasSubstr("could both be 'A0006_00_01.bmp'"));
}

TEST_F(DataSetFixture, CsiqComposesNames) {
  const auto text = [](const char* value) {
    return "<c t='inlineStr'><is><t>" + std::string(value) + "</t></is></c>";
  };
  labels(
      "csiq.DMOS.xlsx",
      workbook_of(
          "<row r='4'><c r='D4'/>" + text("image") + text("dst_type") + text("dst_lev") + text("dmos_std") +
              text("dmos") + "</row><row r='5'><c r='D5'/><c><v>1600</v></c>" + text("jpeg 2000") +
              "<c><v>2.0</v></c><c><v>0.1</v></c><c><v>0.25</v></c></row><row r='7'><c r='E7'/></row>",
          "", 2, "all_by_image"));
  picture("dst_imgs/jpeg2000/1600.jpeg2000.2.png");
  const std::vector<json> rows = import(options("csiq"));
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_EQ(rows[0]["id"], "1600.jpeg2000.2.png");
  EXPECT_EQ(rows[0]["score"], 4.0) << "lower DMOS is better";
  EXPECT_EQ(rows[0]["raw_score"], 0.25);
  EXPECT_EQ(rows[0]["level"], 2);
  EXPECT_EQ(rows[0]["reference"], "1600.png");
  EXPECT_THAT(said_, HasSubstr("mapped from 1..0 to 1..5; lower is better in the labels"));
  EXPECT_THAT(said_, HasSubstr("sheets: 'all_by_image' of ")) << "its own sheet needs no choice";
  ImportOptions flat = options("csiq");
  flat.labels = labels("csiq_label.txt", "1600.jpeg2000.2.png 0.250000\n");
  EXPECT_EQ(import(flat)[0]["score"], 4.0);
}

TEST_F(DataSetFixture, AgiqaTakesTheQuality) {
  labels("data.csv",
         "name,prompt,mos_quality,std_quality,mos_align\r\n\"sd1.5_a.jpg\",\"a, "
         "\"\"b\"\"\",4.488740784,0.5,1\r\n");
  picture("Images/sd1.5_a.jpg");
  EXPECT_EQ(import(options("agiqa3k"))[0]["score"], 5.0);
}

TEST_F(DataSetFixture, TidNamesDifferInCase) {
  labels("mos_with_names.txt", "0.24242 I01_11_1.BMP\n7.21429 i25_24_5.bmp\n");
  labels("mos_std.txt", "0.1\n0.2\n");
  picture("distorted_images/i01_11_1.bmp");
  picture("distorted_images/I25_24_5.bmp");
  const std::vector<json> rows = import(options("tid2013"));
  EXPECT_EQ(rows[0]["image"], "../root/distorted_images/i01_11_1.bmp");
  EXPECT_EQ(rows[0]["id"], "I01_11_1.BMP");
  EXPECT_EQ(rows[1]["std"], 0.2);
  EXPECT_EQ(rows[1]["reference"], "I25.BMP");
  EXPECT_EQ(rows[1]["type"], "24");
  EXPECT_EQ(rows[1]["level"], 5);
  fs::remove(options("tid2013").out);
  picture("distorted_images/I01_11_1.bmp");
  ImportOptions ambiguous = options("tid2013");
  for (const bool check : {true, false}) {
    ambiguous.check_images = check;
    EXPECT_THAT(refusal(ambiguous), HasSubstr("could both be 'I01_11_1.BMP'"));
  }
}

TEST_F(DataSetFixture, CaseAndAccentsOfNames) {
  ImportOptions table = options("csv");
  table.scale = "0..5";
  // \xC3\x89 is É and \xC3\xA9 is é, each as one character. With U+0301, \xCC\x81, both are two characters.
  table.labels = labels("t.csv", "image,score\n\xC3\x89.jpg,1\ncafe\xCC\x81.png,2\nna\xC3\xAFve,3\n");
  picture("\xC3\xA9.jpg");
  picture("Caf\xC3\xA9.png");
  picture("nai\xCC\x88ve.png");
  const std::vector<json> rows = import(table);
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(rows[0]["image"], "../root/\xC3\xA9.jpg");
  EXPECT_EQ(rows[1]["image"], "../root/Caf\xC3\xA9.png");
  EXPECT_EQ(rows[2]["image"], "../root/nai\xCC\x88ve.png");
  EXPECT_THAT(said_, HasSubstr("2 file names differ from those in the labels by upper and lower case"));
  // Both forms side by side: the exact one counts, and for any other spelling it is a question.
  picture("e\xCC\x81.jpg");
  fs::remove(table.out);
  EXPECT_THAT(refusal(table), HasSubstr("could both be '\xC3\x89.jpg'"));
  table.labels = labels("t.csv", "image,score\ne\xCC\x81.jpg,1\n");
  EXPECT_EQ(import(table)[0]["image"], "../root/e\xCC\x81.jpg");
}

TEST_F(DataSetFixture, FliveSplitsByLists) {
  labels("database/labels_image.csv", "name,mos\r\na/1.jpg,0\r\na/2.JPG,100\r\nb/3.jpg,50\r\n");
  for (const char* name : {"a/1.jpg", "a/2.JPG", "b/3.jpg"}) picture(std::string("database/") + name);
  EXPECT_FALSE(import(options("flive"))[0].contains("split"));
  EXPECT_THAT(said_, HasSubstr("no splits: "));
  labels("database/labels640.csv", "name_image,x\r\na/2.JPG,1\r\n");
  labels("database/labels=640_padded.csv", "name_image,is_valid\r\na/1.jpg,True\r\nb/3.jpg,False\r\n");
  std::vector<std::string> splits;
  for (const json& row : import(options("flive"))) splits.push_back(row["split"]);
  EXPECT_THAT(splits, ElementsAre("val", "test", "train"));
  ImportOptions test = options("flive");
  test.splits = {"test"};
  EXPECT_EQ(import(test)[0]["id"], "a/2.JPG");
  // A list that does not fit must not leave its images in train.
  fs::remove(test.out);
  labels("database/labels640.csv", "name_image,x\r\n2.JPG,1\r\n");
  EXPECT_THAT(refusal(test), HasSubstr("labels640.csv: its name '2.JPG' is not in"));
  labels("database/labels640.csv", "name_image,x\r\na/1.jpg,1\r\n");
  EXPECT_THAT(refusal(test), HasSubstr("'a/1.jpg' is also in"));
  labels("database/labels640.csv", "name_image,x\r\na/2.JPG,1\r\n");
  labels("database/labels=640_padded.csv", "name_image,is_valid\r\na/1.jpg,1\r\nb/3.jpg,0\r\n");
  EXPECT_EQ(import(options("flive"))[0]["split"], "val");
  fs::remove(test.out);
  labels("database/labels=640_padded.csv", "name_image,is_valid\r\na/1.jpg,yes\r\n");
  EXPECT_THAT(refusal(test), HasSubstr("'yes' is neither True nor False"));
}

TEST_F(DataSetFixture, DeqaLists) {
  ImportOptions deqa = options("deqa");
  deqa.labels = labels("KONIQ/metas/test_x.json", R"([
    {"id": "a->b.jpg->2.5", "image": "KONIQ/images/a.jpg", "gt_score": 2.5, "gt_score_norm": 5.0000002, "std": 0.5},
    {"id": "c.png->-0.25", "image": "CSIQ/images/c.png", "gt_score": -0.25, "normalized_score": 4}])");
  picture("KONIQ/images/a.jpg");
  picture("CSIQ/images/c.png");
  const std::vector<json> rows = import(deqa);
  EXPECT_EQ(rows[0]["id"], "a->b.jpg");
  EXPECT_EQ(rows[0]["set"], "koniq10k");
  EXPECT_EQ(rows[0]["score"], 5.0);
  EXPECT_EQ(rows[0]["split"], "test");
  EXPECT_EQ(rows[1]["set"], "csiq");
  EXPECT_EQ(rows[1]["raw_score"], -0.25);
  EXPECT_THAT(said_, HasSubstr("2 are already on 1..5 in the labels"));
  fs::remove(deqa.out);
  deqa.labels =
      labels("bad.json", R"([{"id": "a.jpg->2.5", "image": "KONIQ/images/a.jpg", "gt_score": 2.5}])");
  EXPECT_THAT(refusal(deqa), HasSubstr("bad.json, row 1: neither gt_score_norm nor normalized_score"));
  deqa.labels = labels("bad.json", "{\n{\n}");
  EXPECT_THAT(refusal(deqa), HasSubstr("bad.json: not valid JSON in line 2"));
  deqa.labels.reset();
  EXPECT_THAT(refusal(deqa), HasSubstr("flag --labels is missing"));
}

TEST_F(DataSetFixture, QReasoning) {
  labels("mixed_cot.json", R"([
    {"image": "1.jpg", "quality": 50.5, "normalized_score": 3.2, "description": " ", "good_aspect": " ", "bad_aspect": " "},
    {"image": "2.jpg", "quality": 2, "ori_score": 60.5, "normalized_score": 3.7,
     "description": "<summarize>x</summarize>, \n<translation>\n A boat. </translation>  ",
     "good_aspect": "<translation>Sharp.</translation>", "bad_aspect": "no tags"}])");
  labels(
      "cot_reasoning_test.json",
      R"([{"image": "3.jpg", "quality": 1, "description": {"answer": " A wall. "}, "good_aspect": {"answer": ""}, "bad_aspect": null}])");
  for (const char* name : {"1.jpg", "2.jpg", "3.jpg"}) picture(std::string("images/") + name);
  ImportOptions train = options("q-reasoning");
  train.splits = {"train"};
  std::vector<json> rows = import(train);
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0]["raw_score"], 50.5);
  EXPECT_FALSE(rows[0].contains("text"));
  EXPECT_EQ(rows[1]["raw_score"], 60.5);
  EXPECT_EQ(rows[1]["score"], 3.7);
  EXPECT_EQ(rows[1]["text"], json::parse(R"({"description": "A boat.", "good": "Sharp."})"));
  EXPECT_THAT(said_, HasSubstr("bad_aspect of 2.jpg left out"));
  EXPECT_THAT(said_, Not(HasSubstr("null or absent")));
  EXPECT_THAT(said_, Not(HasSubstr("mapped from")));
  rows = import(options("q-reasoning"));
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(rows[2]["score"], 2.0);
  EXPECT_EQ(rows[2]["split"], "test");
  EXPECT_THAT(said_, HasSubstr("texts: bad_aspect is null or absent in 1 rows"));
  EXPECT_THAT(said_, Not(HasSubstr("description is null")));
  EXPECT_EQ(rows[2]["text"], json::parse(R"({"description": "A wall."})"));
  EXPECT_THAT(said_, HasSubstr("quality mapped from 0..4 to 1..5"));
}

TEST_F(DataSetFixture, TablesOfTheUser) {
  ImportOptions csv = options("csv");
  csv.labels = labels("own.csv", "file,difference,what,plus\n\"a, b.png\",0.25,\"two\nlines\",\n");
  picture("a, b.png");
  csv.columns = parse_columns("image=file,score=difference,description=what,good=plus");
  EXPECT_THAT(refusal(csv), HasSubstr("flag --scale is missing"));
  csv.scale = "1..0";
  std::vector<json> rows = import(csv);
  EXPECT_EQ(rows[0]["score"], 4.0);
  EXPECT_EQ(rows[0]["set"], "own");
  EXPECT_EQ(rows[0]["text"], json::parse(R"({"description": "two\nlines"})"));
  fs::remove(csv.out);
  csv.scale = "1..1";
  EXPECT_THAT(refusal(csv), HasSubstr("'1..1'; it must be WORST..BEST"));
  csv.scale = "0..0.1";
  EXPECT_THAT(refusal(csv), HasSubstr("own.csv:2: difference 0.25 is outside the range 0..0.1"));
  csv.columns = parse_columns("image=file,score=MOS");
  EXPECT_THAT(refusal(csv), HasSubstr("no columns MOS; its first row is file, difference, what, plus"));
}

TEST_F(DataSetFixture, ColumnsThatAreRepeatedOrShifted) {
  ImportOptions csv = options("csv");
  csv.scale = "1..5";
  picture("a.png");
  csv.labels = labels("own.csv", "name,MOS,mos\na.png,1,5\n");
  csv.columns = parse_columns("image=name,score=mos");
  EXPECT_EQ(import(csv)[0]["score"], 5.0);
  csv.columns = parse_columns("image=name,score=MOS");
  EXPECT_EQ(import(csv)[0]["score"], 1.0);
  fs::remove(csv.out);
  csv.labels = labels("own.csv", "name,mos,mos\na.png,1,5\n");
  csv.columns = parse_columns("image=name,score=mos");
  EXPECT_THAT(refusal(csv), HasSubstr("it has 2 columns 'mos'"));
  // Decimal commas.
  csv.labels = labels("own.csv", "name,mos,std\na.png,3,5,0,2\n");
  EXPECT_THAT(refusal(csv), HasSubstr("it has 5 fields, the header 3"));
  csv.labels = labels("own.csv", "name,mos,level\na.png,3,2.7\n");
  csv.columns = parse_columns("image=name,score=mos,level=level");
  EXPECT_THAT(refusal(csv), HasSubstr("level is '2.7', not a whole number"));
}

TEST_F(DataSetFixture, NoTwoRowsHaveOneImage) {
  ImportOptions csv = options("csv");
  csv.scale = "1..5";
  csv.columns = parse_columns("image=name,score=mos");
  picture("a.png");
  for (const char* other : {"A.PNG", "a.jpg"}) {
    csv.labels = labels("own.csv", std::string("name,mos\na.png,1\n") + other + ",5\n");
    EXPECT_THAT(refusal(csv), HasSubstr("already belongs to "));
  }
  // What stands behind a dot may belong to the name.
  csv.labels = labels("own.csv", "name,mos\na.1,1\n");
  EXPECT_THAT(refusal(csv), HasSubstr("there is no image 'a.1'"));
}

TEST_F(DataSetFixture, LongNamesAreRefused) {
  labels("mos_with_names.txt", "1 " + std::string(200000, 'x') + ".bmp\n");
  picture("distorted_images/a.bmp");
  EXPECT_THAT(refusal(options("tid2013")), HasSubstr("its name has 200004 bytes"));
}

TEST_F(Koniq, NoFileButAManifestIsReplaced) {
  ImportOptions over = options("koniq10k");
  for (const char* file : {"koniq10k_distributions_sets.csv", "1024x768/1.jpg"}) {
    over.out = folder_.path() / "root" / file;
    const std::string before = file_content(over.out);
    EXPECT_THAT(error_of([&] { import(over); }), HasSubstr("which exists and is not a manifest"));
    EXPECT_EQ(file_content(over.out), before);
  }
  over.out = options("koniq10k").out;
  EXPECT_EQ(import(over).size(), 3U);
  EXPECT_EQ(import(over).size(), 3U);
}

TEST_F(DataSetFixture, PyiqaTables) {
  ImportOptions pyiqa = options("pyiqa");
  pyiqa.scale = "0..10";
  pyiqa.labels = labels("meta.csv",
                        "ref_name,dist_name,mos,std,official_split,ratio\nr.png,1.png,5,1,train,test\n"
                        "r.png,2.png,10,1,test,train\n");
  picture("1.png");
  picture("2.png");
  pyiqa.splits = {"test"};
  std::vector<json> rows = import(pyiqa);
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_EQ(rows[0]["id"], "2.png");
  EXPECT_EQ(rows[0]["reference"], "r.png");
  pyiqa.columns = parse_columns("split=ratio");
  EXPECT_EQ(import(pyiqa)[0]["id"], "1.png");
  fs::remove(pyiqa.out);
  pyiqa.splits = {"fold7"};
  EXPECT_THAT(refusal(pyiqa), HasSubstr("cannot select split fold7: "));
  pyiqa.labels = labels("two.csv", "img_name,mos,dmos\n1.png,5,6\n");
  pyiqa.columns.clear();
  pyiqa.splits.clear();
  EXPECT_THAT(refusal(pyiqa), HasSubstr("the columns 'mos' and 'dmos' could both be the score"));
  pyiqa.labels = labels("koniq.csv", "img_name,mos,std,split\n1.png,5,1,0\n2.png,6,1,2\n");
  rows = import(pyiqa);
  EXPECT_EQ(rows[0]["split"], "train");
  EXPECT_EQ(rows[1]["split"], "test");
  EXPECT_THAT(said_, HasSubstr("in the column split, 0 is train, 1 is val and 2 is test"));
  // Folds are no splits.
  fs::remove(pyiqa.out);
  pyiqa.labels = labels("folds.csv", "img_name,mos,std,split\n1.png,5,1,0\n2.png,6,1,4\n");
  EXPECT_THAT(refusal(pyiqa),
              HasSubstr("folds.csv:3: the column split has the number 4, which is a fold and not a split"));
}

TEST(ImportFlags, Columns) {
  EXPECT_EQ(parse_columns("image=a,b,score=c=d"),
            (std::map<std::string, std::string>{{"image", "a,b"}, {"score", "c=d"}}));
  EXPECT_THAT(error_of([] { parse_columns("picture=a"); }), HasSubstr("the roles are image, score, std"));
  EXPECT_THAT(error_of([] { parse_columns("image=a,image=b"); }), HasSubstr("image is there twice"));
  EXPECT_THAT(error_of([] { parse_columns("image=,score=b"); }), HasSubstr("the name for image is empty"));
  EXPECT_EQ(parse_picture_size("1024x768").height, 768);
  EXPECT_THAT(error_of([] { parse_picture_size("1024"); }), HasSubstr("--expect-size"));
}

// What other parts rely on in every row of the table.
TEST(DataSetTable, Rows) {
  std::set<std::string> names;
  for (const DataSet& set : data_sets()) {
    SCOPED_TRACE(set.name);
    EXPECT_TRUE(names.insert(set.name).second);
    EXPECT_FALSE(set.title.empty());
    EXPECT_FALSE(set.folders.empty());
    ASSERT_NE(set.read, nullptr);
    for (const ScoreScale& scale : set.scales) EXPECT_NE(scale.worst, scale.best);
    for (const LabelForm& form : set.forms) {
      const auto has = [&](Role role) {
        return std::any_of(form.columns.begin(), form.columns.end(),
                           [&](const ColumnNames& column) { return column.role == role; });
      };
      EXPECT_TRUE(has(Role::image));
      EXPECT_TRUE(has(Role::score));
    }
  }
}

}  // namespace
}  // namespace biqa
