// SPDX-License-Identifier: Apache-2.0
// Files of predictions, as other programs write them too.
#include "evaluation/predictions.h"

#include <glog/logging.h>

#include "fuzz/harness.h"

namespace biqa::fuzz {
namespace {

std::string written(const std::vector<Prediction>& predictions) {
  std::string text;
  for (const Prediction& one : predictions) text += to_json_line(one) + "\n";
  return text;
}

void run(std::string_view input) {
  static const Folder folder;
  std::vector<Prediction> predictions;
  const std::filesystem::path file = folder.write("predictions.jsonl", input);
  if (!accepted([&] { predictions = read_predictions(file); })) return;
  CHECK(!predictions.empty());
  const std::string text = written(predictions);
  CHECK_EQ(written(read_predictions(folder.write("again.jsonl", text))), text);
}

const Registered kRegistered("predictions", run);

}  // namespace
}  // namespace biqa::fuzz
