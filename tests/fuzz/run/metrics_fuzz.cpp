// SPDX-License-Identifier: Apache-2.0
// metrics.jsonl of a run folder.
#include <glog/logging.h>

#include "fuzz/harness.h"
#include "run/records.h"

namespace biqa::fuzz {
namespace {

std::string written(const MetricsFile& metrics) {
  std::string text;
  for (const StepMetrics& step : metrics.steps) text += to_json_line(step) + "\n";
  for (const EvalMetrics& evaluation : metrics.evaluations) text += to_json_line(evaluation) + "\n";
  return text;
}

void run(std::string_view input) {
  static const Folder folder;
  MetricsFile metrics;
  const std::filesystem::path file = folder.write("metrics.jsonl", input);
  if (!accepted([&] { metrics = read_metrics(file); })) return;
  const std::string text = written(metrics);
  CHECK_EQ(written(read_metrics(folder.write("again.jsonl", text))), text);
}

const Registered kRegistered("metrics", run);

}  // namespace
}  // namespace biqa::fuzz
