// SPDX-License-Identifier: Apache-2.0
// biqa_score: rates images, with caption, reasoning and the rating from the caption alone.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <utility>

#include "actor/rollout.h"
#include "app/model_flags.h"
#include "app/program.h"
#include "config/config.h"
#include "core/csv.h"
#include "core/processors.h"
#include "data/manifest.h"
#include "data/response.h"
#include "io/json.h"
#include "learner/checkpoint_store.h"
#include "policy/policy.h"
#include "policy/version.h"
#include "report/gallery.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

const ProgramInfo kInfo{
    "biqa_score", "rate images from 1 (bad) to 5 (excellent), with caption and reasoning",
    "[--model DIR] [--adapter PATH] IMAGE|FOLDER|MANIFEST.jsonl…",
    "biqa_score --adapter runs/quickstart photo.jpg",
    with_model_flags(
        {{"caption-only", "", "report the rating from the model's own caption, without the image", "false"},
         {"batch", "N", "images per batch; the ratings do not depend on it", "16"}},
        {{"format", "FORMAT",
          "table, csv, json or html; json has one object per line, html is one page with the pictures",
          "table"}})};

/// An image to rate.
struct Picture {
  std::string name;
  fs::path file;
};

/// The extension of a file name in lower case, with its dot.
std::string ending_of(const fs::path& file) {
  std::string ending = file.extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return ending;
}

/// "3 (a, b and 1 more)"
std::string counted(const std::vector<std::string>& names) {
  constexpr std::size_t kShown = 5;
  const std::size_t shown = std::min(names.size(), kShown);
  return fmt::format("{} ({}{})", names.size(), fmt::join(names.begin(), names.begin() + shown, ", "),
                     shown < names.size() ? fmt::format(" and {} more", names.size() - shown) : "");
}

/// Describes what a folder contains besides images, with files by extension; empty if nothing.
std::string describe_rest(const std::map<std::string, std::vector<std::string>>& files,
                          const std::vector<std::string>& folders) {
  std::vector<std::string> parts;
  parts.reserve(files.size() + 1);
  for (const auto& [ending, names] : files)
    parts.push_back(fmt::format("files {}: {}", ending.empty() ? "without ending" : ending, counted(names)));
  if (!folders.empty()) parts.push_back(fmt::format("subfolders: {}", counted(folders)));
  return fmt::format("{}", fmt::join(parts, "; "));
}

/// The images of a folder, by name. Reports its other content, except hidden files, including AppleDouble files
/// (._NAME). Throws Error.
std::vector<Picture> pictures_in(const fs::path& folder) {
  static const std::vector<std::string> kEndings{".jpg",  ".jpeg", ".jpe",  ".jfif", ".png", ".bmp", ".dib",
                                                 ".webp", ".tif",  ".tiff", ".ppm",  ".pgm", ".pbm", ".pnm"};
  std::error_code error, ignored;
  std::vector<Picture> pictures;
  std::vector<fs::path> entries;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
    entries.push_back(entry->path());
  if (error) fail("cannot list folder {}: {}; check its permissions", folder.string(), error.message());
  std::sort(entries.begin(), entries.end());
  std::map<std::string, std::vector<std::string>> files;
  std::vector<std::string> folders;
  for (const fs::path& entry : entries) {
    const std::string name = entry.filename().string();
    if (name.starts_with(".") || name == "__MACOSX") continue;
    if (fs::is_directory(entry, ignored))
      folders.push_back(name);
    else if (const std::string ending = ending_of(entry);
             std::find(kEndings.begin(), kEndings.end(), ending) != kEndings.end())
      pictures.push_back({entry.string(), entry});
    else
      files[ending].push_back(name);
  }
  const std::string rest = describe_rest(files, folders);
  if (pictures.empty()) {
    fail("no images in folder {}{}: give a folder with {} files", folder.string(),
         rest.empty() ? "" : fmt::format(" ({})", rest), fmt::join(kEndings, ", "));
  }
  if (!rest.empty())
    say("left out of folder {}: {}; convert other kinds of images, and name subfolders to include them\n",
        folder.string(), rest);
  return pictures;
}

/// Images that could not be read or rated.
using Failures = std::vector<std::string>;

/// One error line on standard error; kept.
void complain(const std::string& message, Failures& failures) {
  say("error: {}\n", message);
  failures.push_back(message);
}

/// The images that the arguments name. An argument or manifest row that names none is reported and kept.
std::vector<Picture> find_pictures(const std::vector<std::string>& arguments, Failures& failures) {
  std::vector<Picture> pictures;
  for (const std::string& argument : arguments) {
    try {
      std::error_code ignored;  // a path that cannot be examined counts as an image that cannot be read
      if (fs::is_directory(argument, ignored)) {
        const std::vector<Picture> found = pictures_in(argument);
        pictures.insert(pictures.end(), found.begin(), found.end());
      } else if (fs::path(argument).extension() == ".jsonl") {
        std::vector<BadRow> bad;
        for (const Sample& sample : read_pictures(argument, bad))
          pictures.push_back({sample.id, sample.image});
        for (const BadRow& row : bad) complain(row.reason, failures);
      } else {
        pictures.push_back({argument, argument});
      }
    } catch (const Error& error) {
      complain(error.what(), failures);
    }
  }
  return pictures;
}

/// The last `count` characters, whole ones.
std::string last_characters(const std::string& text, std::size_t count) {
  std::size_t begin = text.size();
  while (begin > 0 && count > 0) {
    --begin;
    if ((static_cast<unsigned char>(text[begin]) & 0xC0U) != 0x80U) --count;
  }
  return text.substr(begin);
}

/// Two decimals; all digits of what is out of scale, which may be 1e300.
std::string number_text(const std::optional<double>& value) {
  if (out_of_scale(value)) return fmt::format("{}", *value);
  return value ? fmt::format("{:.2f}", *value) : "";
}

/// What is said of one answer beside its texts.
struct Verdict {
  std::optional<double>
      rating;                 ///< the reported one: from the image, or with --caption-only from the caption
  bool out_of_scale = false;  ///< of that rating, also where it is a number that counts as none
};

Verdict verdict_on(const Trajectory& answer, const Profile& profile, bool caption_only) {
  const auto& rating = caption_only ? answer.stage2_rating : answer.rating;
  const std::string& text = caption_only ? answer.stage2_text : answer.text;
  return {rating, answer_out_of_scale(profile, rating, text)};
}

/// Ratings off the scale are given as they are, which must not go unseen.
struct OffScale {
  std::int64_t pictures = 0, ratings = 0, caption_ratings = 0;

  void tell() const {
    if (ratings + caption_ratings == 0) return;
    std::string from_captions, marked = "their rows are marked out_of_scale";
    if (caption_ratings > 0) {
      from_captions = fmt::format(" and {} from captions", caption_ratings);
      marked = "out_of_scale marks only the rows with such a rating from the image";
    }
    say("warning: {} of {} ratings{} are out of scale ({} to {}); {}\n", ratings, pictures, from_captions,
        kLeastRating, kMostRating, marked);
  }
};

class Printer {
 public:
  Printer(std::string format, bool caption_only) : format_(std::move(format)), caption_only_(caption_only) {
    if (format_ == "csv")
      fmt::print("image,rating,caption,reasoning,caption_rating,parse_ok,out_of_scale,seconds\n");
    if (format_ == "table")
      fmt::print("{:<32} {:>6} {:>12}  {}\n", "image", "rating", "from caption", "caption | reasoning");
    if (format_ == "html") fmt::print("{}", gallery_begin(caption_only_));
  }
  void print(const Picture& picture, const Trajectory& answer, const Verdict& verdict, double seconds) const {
    const std::string& image = picture.name;
    const auto& rating = verdict.rating;
    const std::string caption = answer.caption.value_or("");
    const std::string reasoning = answer.reasoning.value_or("");
    if (format_ == "json") {
      const auto number = [](const std::optional<double>& v) {
        return v ? nlohmann::json(*v) : nlohmann::json();
      };
      nlohmann::ordered_json row{{"image", image},
                                 {"rating", number(rating)},
                                 {"caption", caption},
                                 {"reasoning", reasoning},
                                 {"caption_rating", number(answer.stage2_rating)},
                                 {"parse_ok", answer.rating.has_value()},
                                 {"out_of_scale", verdict.out_of_scale},
                                 {"seconds", seconds}};
      fmt::print("{}\n", json_text(row));
    } else if (format_ == "csv") {
      fmt::print("{},{},{},{},{},{},{},{:.3f}\n", csv_quoted(image), number_text(rating), csv_quoted(caption),
                 csv_quoted(reasoning), number_text(answer.stage2_rating), answer.rating.has_value(),
                 verdict.out_of_scale, seconds);
    } else if (format_ == "html") {
      fmt::print("{}", gallery_card({image, picture.file, answer.rating, answer.stage2_rating, caption,
                                     reasoning, answer.rating.has_value(), verdict.out_of_scale, seconds},
                                    caption_only_));
    } else {
      const std::string name = one_line(image);
      const std::string shown =
          last_characters(name, 32).size() == name.size() ? name : "…" + last_characters(name, 31);
      fmt::print("{:<32} {:>6} {:>12}  {} | {}\n", shown, rating ? number_text(rating) : "none",
                 answer.stage2_rating ? number_text(answer.stage2_rating) : "none", one_line(caption),
                 one_line(reasoning));
    }
    flush_output();
  }
  /// What follows the last image.
  void end(std::int64_t rated, const Failures& failures) const {
    if (format_ == "html") fmt::print("{}", gallery_end(rated, failures, version_text()));
    flush_output();
  }

 private:
  std::string format_;
  bool caption_only_;
};

/// Rates images in batches and prints each result.
class Scorer {
 public:
  Scorer(const Policy& policy, Engine& engine, RolloutOptions options, bool caption_only, Printer printer)
      : policy_(policy),
        rollout_(*policy.model, *policy.tokenizer, policy.chat, engine),
        options_(std::move(options)),
        caption_only_(caption_only),
        printer_(std::move(printer)) {}

  /// Images that cannot be read or rated are added to `failures`.
  void score(std::span<const Picture> pictures, Failures& failures) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<Picture> loaded;
    const std::vector<RolloutSample> samples = load(pictures, loaded, failures);
    std::vector<Group> groups(samples.size());
    rollout_.run(samples, options_, [&](Group&& group) {
      const auto index = static_cast<std::size_t>(group.sample_index);
      groups[index] = std::move(group);
    });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() /
                           static_cast<double>(std::max<std::size_t>(1, groups.size()));
    for (std::size_t i = 0; i < groups.size(); ++i)
      report(loaded[i], groups[i].members.front(), seconds, failures);
  }
  /// After the last image.
  void end(const Failures& failures) const {
    printer_.end(off_scale_.pictures, failures);
    off_scale_.tell();
  }

 private:
  std::vector<RolloutSample> load(std::span<const Picture> pictures, std::vector<Picture>& loaded,
                                  Failures& failures) const {
    std::vector<RolloutSample> samples;
    std::vector<Patches> patches;
    for (const Picture& picture : pictures) {
      try {
        patches.push_back(policy_.pictures->patches(picture.file));
        // The draws follow the file's name, so a seed gives the same rating in any company, by path or manifest.
        samples.push_back(
            {picture.file.filename().string(), static_cast<std::int64_t>(samples.size()), {}, {}});
        loaded.push_back(picture);
      } catch (const Error& error) {
        complain(error.what(), failures);
      }
    }
    const std::vector<EncodedPicture> encoded = policy_.pictures->encode(std::span<const Patches>(patches));
    for (std::size_t i = 0; i < encoded.size(); ++i) samples[i].picture = encoded[i];
    return samples;
  }

  void report(const Picture& picture, const Trajectory& answer, double seconds, Failures& failures) {
    const Profile& profile = options_.prompts.profile;
    const Verdict verdict = verdict_on(answer, profile, caption_only_);
    printer_.print(picture, answer, verdict, seconds);
    ++off_scale_.pictures;
    off_scale_.ratings += verdict.out_of_scale ? 1 : 0;
    const bool caption_off = answer_out_of_scale(profile, answer.stage2_rating, answer.stage2_text);
    off_scale_.caption_ratings += !caption_only_ && caption_off ? 1 : 0;
    if (verdict.rating) return;
    complain(fmt::format("cannot rate {}: its completion{} has {}; use the prompts of its training (--config "
                         "or --adapter RUN), a trained adapter, or more --max-new-tokens",
                         picture.name, caption_only_ && answer.caption ? " from the caption" : "",
                         verdict.out_of_scale ? "a number out of scale that does not count as a rating"
                                              : "no rating"),
             failures);
  }

  const Policy& policy_;
  Rollout rollout_;
  const RolloutOptions options_;
  const bool caption_only_;
  const Printer printer_;
  OffScale off_scale_;
};

ExitCode score_pictures(const CommandLine& line) {
  if (line.positional().empty())
    fail_usage("no image is given: name images, folders or manifests; see biqa_score --help");
  const std::string format = line.choice("format", {"table", "csv", "json", "html"});
  const auto batch = static_cast<std::size_t>(line.integer("batch", 1, 4096));
  const std::optional<Config> config = find_config(line);
  PolicyOptions options = policy_options(line, config, usable_processors());
  RolloutOptions answers = rollout_options(line, config);
  Failures failures;
  const std::vector<Picture> pictures = find_pictures(line.positional(), failures);
  if (pictures.empty()) return ExitCode::world;  // the reasons are told
  const std::size_t wanted = failures.size() + pictures.size();
  const std::optional<Lora> lora = read_adapter(line, config, options);
  const Policy policy = Policy::open(options);
  Engine engine(*policy.model, {});
  if (lora) engine.set_adapter(pack_adapter(*policy.model, *lora));
  fit_to_model(line, config, policy, answers);
  Scorer scorer(policy, engine, std::move(answers), line.on("caption-only"),
                Printer(format, line.on("caption-only")));
  const std::span<const Picture> all(pictures);
  for (std::size_t first = 0; first < all.size(); first += batch)
    scorer.score(all.subspan(first, std::min(batch, all.size() - first)), failures);
  scorer.end(failures);
  if (failures.empty()) return ExitCode::done;
  say("{} of {} images could not be rated\n", failures.size(), wanted);
  return ExitCode::partial;
}

}  // namespace
}  // namespace biqa

int main(int argc, char** argv) {
  return biqa::run_program(argc, argv, biqa::kInfo, biqa::score_pictures);
}
