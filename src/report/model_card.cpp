// SPDX-License-Identifier: Apache-2.0
#include "report/model_card.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "io/json.h"
#include "io/yaml.h"
#include "learner/losses.h"
#include "model/frozen_parts.h"
#include "reward/table.h"

namespace biqa {
namespace {

namespace fs = std::filesystem;

/// A scalar, "a, b" for a list, "{0: 0, 100: 1}" for a map.
std::string shown(const YamlNode& node) {
  std::vector<std::string> parts;
  for (const YamlNode& child : node.children)
    parts.push_back(child.key.empty() ? shown(child) : fmt::format("{}: {}", child.key, shown(child)));
  if (node.kind == YamlKind::map) return fmt::format("{{{}}}", fmt::join(parts, ", "));
  return node.kind == YamlKind::list ? fmt::format("{}", fmt::join(parts, ", ")) : node.text;
}

/// The last two parts of a path, so that the card says nothing of this machine: koniq10k/train.jsonl.
std::string path_end(const std::string& text) {
  const fs::path path(text);
  return (path.parent_path().filename() / path.filename()).generic_string();
}

/// Text in a cell of a table.
std::string cell(std::string_view text) {
  std::string safe;
  for (const char c : text) {
    if (c == '|') safe += '\\';
    safe += c == '\n' || c == '\r' ? ' ' : c;
  }
  return safe;
}

/// A block of code that no text inside can end.
std::string code_block(const std::string& language, const std::string& text) {
  std::string fence = "```";
  while (text.find(fence) != std::string::npos) fence += '`';
  return fmt::format("{}{}\n{}\n{}\n", fence, language, text, fence);
}

/// A literal of Python: that of JSON.
std::string python_text(const std::string& text) {
  return json_text(nlohmann::json(text));
}

/// Rates photo.jpg. The parts: import and use of PEFT, base model, limits of the image, prompt, system message, tokens.
constexpr const char* kPython = R"(import torch
{}from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

base = {}
model = Qwen2_5_VLForConditionalGeneration.from_pretrained(base, dtype=torch.bfloat16)
{}processor = AutoProcessor.from_pretrained(base{})
prompt = {}
messages = [{}{{"role": "user", "content": [{{"type": "image", "path": "photo.jpg"}},
                                         {{"type": "text", "text": prompt}}]}}]
inputs = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True,
                                       return_dict=True, return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens={}, do_sample=False)
print(processor.batch_decode(answer[:, inputs["input_ids"].shape[1]:], skip_special_tokens=True)[0]))";

std::string figure(double value) {
  return std::isfinite(value) ? fmt::format("{:.4f}", value) : "–";
}

class Card {
 public:
  Card(PackageKind kind, const AdapterOrigin& origin, const Lora& lora, const std::string& program)
      : merged_(kind == PackageKind::merged_model),
        origin_(origin),
        lora_(lora),
        program_(program),
        settings_(parse_yaml(origin.config, "the recorded configuration")),
        base_(model_name(origin.base_model)) {}

  std::string text() {
    front_matter();
    begin();
    training();
    evaluation();
    use();
    limits();
    return text_;
  }

 private:
  template <typename... Values>
  void add(fmt::format_string<Values...> format, Values&&... values) {
    fmt::format_to(std::back_inserter(text_), format, std::forward<Values>(values)...);
  }

  const YamlNode* node(std::string_view section, std::string_view key) const {
    const YamlNode* found = settings_.find(section);
    return found != nullptr ? found->find(key) : nullptr;
  }
  /// Empty: unknown or null.
  std::string setting(std::string_view section, std::string_view key) const {
    const YamlNode* found = node(section, key);
    return found != nullptr ? shown(*found) : "";
  }
  bool is_known() const { return settings_.kind == YamlKind::map; }
  std::string base_or_unknown() const { return base_.empty() ? "an unknown base model" : base_; }

  void front_matter() {
    add("---\n");
    if (!base_.empty()) add("base_model: {}\n", yaml_quoted(base_));
    add("base_model_relation: {}\nlibrary_name: {}\n", merged_ ? "finetune" : "adapter",
        merged_ ? "transformers" : "peft");
    for (const auto& [key, value] : origin_.licence) add("{}: {}\n", key, yaml_quoted(value));
    add("pipeline_tag: image-text-to-text\ntags:\n- image-quality-assessment\n- biqa\n- lora\n");
    if (const std::string loss = setting("objective", "loss"); !loss.empty())
      add("- {}\n", yaml_quoted(loss));
    add("---\n\n");
  }

  void begin() {
    const std::string untitled =
        fmt::format("{} for image quality assessment", merged_ ? "Model" : "Adapter");
    add("# {}\n\n", origin_.run.empty() ? untitled : cell(origin_.run));
    if (merged_)
      add("This folder holds {} with a LoRA adapter merged into its weights.\n", base_or_unknown());
    else
      add("This folder holds a LoRA adapter of {}.\n", base_or_unknown());
    if (is_known()) {
      add("It was trained with biqa for image quality assessment.\n"
          "The model answers with a text and a rating of the image's quality.\n");
    } else {
      add("biqa wrote it. How it was trained is not recorded.\n");
    }
    if (!origin_.licence.empty()) {
      add("The licence above is that of the base model's own card.\n"
          "Correct it if another one holds for this folder.\n");
    }
    add("\n`run.json` has the facts of this page for programs{}.\n\n",
        is_known() ? ", with the whole configuration" : "");
  }

  void fact(std::string_view name, const std::string& value) {
    if (!value.empty()) add("| {} | {} |\n", name, cell(value));
  }

  bool imitates() const {
    const std::string loss = setting("objective", "loss");
    return std::any_of(losses().begin(), losses().end(),
                       [&](const LossRow& row) { return row.imitates && row.name == loss; });
  }

  std::string objective() const {
    std::string text = setting("objective", "loss");
    if (text.empty() || imitates()) return text;
    if (const std::string advantage = setting("objective", "advantage"); !advantage.empty())
      text += fmt::format(", advantage {}", advantage);
    if (const std::string beta = setting("objective", "beta"); !beta.empty())
      text += fmt::format(", KL term {} with weight {}", setting("objective", "kl"), beta);
    return text;
  }

  std::string reward_weights() const {
    if (imitates()) return "none: it learned from given texts";
    std::vector<std::string> parts;
    for (const Reward& reward : rewards())
      if (const std::string weight = setting("rewards", reward.name); !weight.empty())
        parts.push_back(fmt::format("{} {}", reward.name, weight));
    return fmt::format("{}", fmt::join(parts, ", "));
  }

  std::string steps() const {
    if (!origin_.step) return "";
    std::string text = fmt::format("{}", *origin_.step);
    const std::string planned = setting("train", "steps"), epochs = setting("train", "epochs");
    if (!planned.empty() && planned != "0")
      text += " of " + planned;
    else if (!epochs.empty())
      text += fmt::format(" (planned: {} epochs)", epochs);
    const std::string images = setting("rollout", "images_per_step"),
                      group = setting("rollout", "group_size");
    if (!images.empty() && imitates()) text += fmt::format(", {} images each", images);
    if (!images.empty() && !group.empty() && !imitates())
      text += fmt::format(", {} images with {} completions each", images, group);
    return text;
  }

  std::string names_of_data(std::string_view key) const {
    const YamlNode* found = node("data", key);
    if (found == nullptr) return "";
    std::vector<std::string> names;
    if (found->kind == YamlKind::scalar && !found->text.empty()) names.push_back(path_end(found->text));
    for (const YamlNode& child : found->children) names.push_back(path_end(child.text));
    return fmt::format("{}", fmt::join(names, ", "));
  }

  void training() {
    const LoraSpec& spec = lora_.layout->spec();
    add("## Training\n\n| | |\n|---|---|\n");
    fact("objective", objective());
    if (is_known()) {
      fact("rewards and weights", reward_weights());
      if (!imitates()) fact("reasoning reward compares by", setting("rewards", "reasoning_kind"));
      fact("training data", names_of_data("train"));
      fact("share of human texts", setting("data", "annotation_fraction"));
      fact("evaluation data", names_of_data("eval"));
    }
    fact("steps", steps());
    fact("learning rate", setting("optimizer", "lr"));
    fact("seed", setting("train", "seed"));
    std::string lora =
        fmt::format("rank {}, alpha {}{}, {}", spec.rank, spec.alpha, spec.rslora ? ", rank-stabilised" : "",
                    fmt::join(target_names(lora_), " "));
    if (lora_.frozen != nullptr)
      lora += fmt::format("; {} further modules that were not trained", lora_.frozen->parts.size());
    fact("LoRA", lora);
    const std::string start = setting("model", "adapter");
    if (is_known()) fact("start adapter", start.empty() ? "none" : path_end(start));
    fact("made from",
         origin_.run.empty() ? origin_.source : fmt::format("{} of the run {}", origin_.source, origin_.run));
    fact("trained by", origin_.build);
    fact("written by", program_);
    fact("digest of the adapter (XXH3-64)", digest_of(lora_));
    fact("its adapter.h5 (XXH3-128)", origin_.file_digest);
    fact("fingerprint of the base weights", origin_.base_weights);
    fact("fingerprint of the training data", origin_.training_data);
    add("\n");
  }

  void figures(const std::vector<EvalMetrics>& evaluations) {
    add("| set | condition | decoding | n | no rating | PLCC | SRCC | KRCC | RMSE | ROUGE-1 precision "
        "(without chance level) | recall (without chance level) | F1 (without chance level) "
        "|\n|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    for (const EvalMetrics& e : evaluations) {
      add("| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n", cell(e.set), e.condition,
          e.decoding, e.n, e.parse_failures, figure(e.plcc), figure(e.srcc), figure(e.krcc), figure(e.rmse),
          figure(e.rouge1_p), figure(e.rouge1_r), figure(e.rouge1_f));
    }
    add("\n");
  }

  void evaluation() {
    add("## Evaluation\n\n");
    if (origin_.run.empty()) {
      add("No figures are known, because the adapter did not lie in the folder of its run.\n\n");
      return;
    }
    if (origin_.metrics_unreadable) {
      add("No figures are known, because the run's metrics.jsonl cannot be read.\n\n");
      return;
    }
    if (origin_.last.empty() && origin_.best.empty()) {
      add("The run has recorded no evaluation of this adapter.\n\n");
      return;
    }
    if (!origin_.last.empty()) {
      const std::int64_t step = origin_.last.front().step;
      if (step == *origin_.step)
        add("This adapter, of step {}:\n\n", step);
      else
        add("The adapter of step {} was not evaluated. This is an earlier one of its run, of step {}:\n\n",
            *origin_.step, step);
      figures(origin_.last);
    }
    if (!origin_.best.empty() &&
        (origin_.last.empty() || origin_.best.front().step != origin_.last.front().step)) {
      add("The run's best adapter by `{}`, of step {}:\n\n", setting("checkpoint", "best"),
          origin_.best.front().step);
      figures(origin_.best);
    }
    add("`image`: the rating from the image. `caption`: the rating from the model's own caption alone.\n"
        "n: images of the set. Answers without a rating take no part in the correlations and in RMSE.\n"
        "The ratings are compared as they are, without a fitted curve.\n"
        "ROUGE-1 compares the text with human texts, over the images that have one. Texts about quality "
        "share\n"
        "many words whatever they describe. `biqa_eval` gives the chance level of ROUGE-1.\n\n");
  }

  void use() {
    const std::string base = base_.empty() ? "BASE_MODEL" : base_;
    add("## Use\n\n");
    if (!merged_)
      add("`{}` stands for the folder of the base model, or for its name on the Hugging Face Hub.\n\n", base);
    add("With biqa{}:\n\n",
        is_known() ? ", which finds prompts and limits of the training in `config.yaml`" : "");
    const char* own = is_known() ? "--config config.yaml" : "--model .";
    const std::string what = merged_ ? own : fmt::format("--model {} --adapter .", base);
    text_ += code_block("sh", fmt::format("biqa_score {} photo.jpg", what));
    add("\nWith {}:\n\n", merged_ ? "transformers" : "transformers and PEFT");
    text_ += code_block("python", python(base));
    const std::string second = setting("prompts", "stage2_user");
    if (!second.empty()) {
      add("\nFor the rating from the caption alone, the caption takes the place of `{{caption}}`\n"
          "in this message, which has no image:\n\n");
      text_ += code_block("text", second);
    }
    add("\n");
  }

  std::string python(const std::string& base) const {
    const std::string user = setting("prompts", "user"), system = setting("prompts", "system");
    const std::string tokens = setting("rollout", "max_new_tokens");
    std::string pixels, first;
    for (const char* key : {"min_pixels", "max_pixels"})
      if (const std::string value = setting("model", key); !value.empty())
        pixels += fmt::format(", {}={}", key, value);
    if (!system.empty())
      first = fmt::format(R"({{"role": "system", "content": [{{"type": "text", "text": {}}}]}},
            )",
                          python_text(system));
    return fmt::format(
        kPython, merged_ ? "" : "from peft import PeftModel\n", python_text(merged_ ? "." : base),
        merged_ ? "" : "model = PeftModel.from_pretrained(model, \".\")\n", pixels,
        user.empty() ? "\"…\"  # not recorded" : python_text(user), first, tokens.empty() ? "1024" : tokens);
  }

  void limits() {
    add("## Limits\n\n");
    if (is_known()) {
      add("- The ratings are on the scale of the training scores, from 1 (bad) to 5 (excellent).\n"
          "- This is one run with one seed. Other seeds give other figures.\n");
    }
    if (origin_.last.empty() && origin_.best.empty())
      add("- Nothing here says how good the ratings are. Measure them first, for example with "
          "`biqa_eval`.\n");
    else
      add("- The figures hold for the sets named above. Other images, distortions and prompts were not "
          "measured.\n");
    add("- A text that reads well can be wrong about the image, even if the rating is right.\n");
    if (base_.find('/') == std::string::npos) {
      add("- `base_model` {}. Write the model's full name on the Hub there before you publish this folder.\n",
          base_.empty() ? "is missing above, because it was not recorded"
                        : "names only the base model's folder");
    }
    if (origin_.licence.empty())
      add("- The licence is not recorded. Add it before you publish this folder.\n");
  }

  const bool merged_;
  const AdapterOrigin& origin_;
  const Lora& lora_;
  const std::string& program_;
  const YamlNode settings_;
  const std::string base_;
  std::string text_;
};

}  // namespace

std::string model_card(PackageKind kind, const AdapterOrigin& origin, const Lora& lora,
                       const std::string& program) {
  return Card(kind, origin, lora, program).text();
}

std::map<std::string, std::string> package_texts(PackageKind kind, const AdapterOrigin& origin,
                                                 const Lora& lora, const std::string& program) {
  std::map<std::string, std::string> texts{{"README.md", model_card(kind, origin, lora, program)},
                                           {"run.json", run_json(kind, origin, lora, program)}};
  if (std::string config = rating_config(kind, origin); !config.empty())
    texts.emplace("config.yaml", std::move(config));
  return texts;
}

}  // namespace biqa
