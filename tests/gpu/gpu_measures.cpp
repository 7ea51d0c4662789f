// SPDX-License-Identifier: Apache-2.0
// gpu_measures: one of the measurements of measures.h, for tests/gpu.sh.
#include <cstdio>

#include "app/program.h"
#include "core/error.h"
#include "gpu/measures.h"

namespace biqa {
namespace {

const ProgramInfo kInfo{
    "gpu_measures",
    "measure the CUDA backend's memory, products and kernels in the shapes of a model",
    "PART [--size SIZE] [--classes FILE] [--seconds N]",
    "gpu_measures kernels --size 7B",
    {{"size", "SIZE", "7B, 3B or tiny", "7B"},
     {"classes", "FILE", "keeps the choices of algorithms for products from one call to the next", ""},
     {"seconds", "N", "the part rows stops after so many seconds", "30"}}};

ExitCode measure(const CommandLine& line) {
  const gpu::ModelShape& shape = gpu::shape_of(line.choice("size", {"7B", "3B", "tiny"}));
  const std::string part = line.positional().size() == 1 ? line.positional().front() : "";
  gpu::Report report{[](const std::string& text) {
    std::puts(text.c_str());
    std::fflush(stdout);
  }};
  if (part == "copy")
    gpu::measure_copy(shape, report);
  else if (part == "ones")
    gpu::check_ones(shape, report);
  else if (part == "invariance")
    gpu::measure_invariance(shape, line.text("classes"), report);
  else if (part == "rows")
    gpu::check_rows(shape, line.text("classes"), line.number("seconds", 0, 1e6), report);
  else if (part == "kernels")
    gpu::measure_kernels(shape, report);
  else
    fail_usage("name one part: copy, ones, invariance, rows or kernels; see gpu_measures --help");
  if (!report.ok) fail("the part {} has found something wrong; its lines above say what", part);
  return ExitCode::done;
}

}  // namespace
}  // namespace biqa

int main(int argc, char** argv) {
  return biqa::run_program(argc, argv, biqa::kInfo, biqa::measure);
}
