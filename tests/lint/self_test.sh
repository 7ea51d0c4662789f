#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Plants one violation of each kind in a small tree and expects the checks to refuse it, by file and line.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
cases=0

# plant FILE TEXT...: the file, behind its licence line, in an otherwise clean tree.
plant() {
  rm -rf "${tree:?}"/*
  mkdir -p "$tree/src/core" "$tree/$(dirname "$1")"
  printf '%s\n' '// SPDX-License-Identifier: Apache-2.0' '#pragma once' >"$tree/src/core/clean.h"
  printf '%s\n' '// SPDX-License-Identifier: Apache-2.0' "${@:2}" >"$tree/$1"
}
refuses() {  # refuses CHECK MESSAGE
  cases=$((cases + 1))
  local output
  if output=$(bash "$here/$1.sh" "$tree"); then
    echo "$1 accepts what it should refuse with: $2"
    exit 1
  fi
  [[ $output == *"$2"* ]] || { echo "$1 says: $output; expected: $2"; exit 1; }
}
accepts() {  # accepts CHECK
  cases=$((cases + 1))
  local output
  output=$(bash "$here/$1.sh" "$tree") || { echo "$1 refuses what it should accept: $output"; exit 1; }
}

plant src/core/upward.h '#include "tensor/tensor.h"'
refuses layers 'src/core/upward.h:2: core may not include tensor/tensor.h'
plant src/io/sideways.cpp '  #  include "ops/ops.h"'
refuses layers 'src/io/sideways.cpp:2: io may not include ops/ops.h'
plant src/model/upward.cpp '#include "data/tokenizer.h"'
refuses layers 'model may not include data/tokenizer.h'
plant src/reward/sideways.cpp '#include "actor/sampler.h"'
refuses layers 'reward may not include actor/sampler.h'
plant src/learner/private.cpp '#include "ops/cpu/kernels.h"'
refuses layers 'ops/cpu/kernels.h is private to src/ops'
plant src/ops/private.cpp '#include "tensor/cuda/runtime.h"'
refuses layers 'tensor/cuda/runtime.h is private to src/tensor'
plant src/model/relative.cpp '#include "../app/config.h"'
refuses layers 'name ../app/config.h from src/'
plant src/model/bare.cpp '#include "config.h"'
refuses layers 'config.h is not LAYER/FILE'
plant src/utilities/new.h ''
refuses layers 'src/utilities is no layer'
plant src/run/upward.cpp '#include "config/config.h"'
refuses layers 'run may not include config/config.h'
plant src/evaluation/upward.cpp '#include "training/trainer.h"'
refuses layers 'evaluation may not include training/trainer.h'
plant src/report/sideways.cpp '#include "training/trainer.h"'
refuses layers 'report may not include training/trainer.h'
plant src/training/upward.cpp '#include "app/program.h"'
refuses layers 'training may not include app/program.h'
plant src/app/main.cpp '#include "ops/cuda/device.h"' '#include "learner/adam.h"' '#include <vector>'
accepts layers
plant src/ops/cuda/kernel.cu '#include "tensor/cuda/runtime.h"'
accepts layers

plant src/io/image.h '#include <png.h>'
refuses foreign_headers 'src/io/image.h:2: <png.h> does not belong here'
plant src/learner/mpi.cpp '#include <mpi.h>'
refuses foreign_headers '<mpi.h> does not belong here'
plant src/ops/ops.cpp '#include <cuda_runtime.h>'
refuses foreign_headers '<cuda_runtime.h>'
plant src/io/yaml.cpp '#include <yaml-cpp/yaml.h>' '#include <vector>'
accepts foreign_headers

plant src/core/clean.h ''
accepts spdx
printf '%s\n' 'int x;' >"$tree/src/core/unmarked.cpp"
refuses spdx 'src/core/unmarked.cpp:1'
plant tools/run.sh ''
sed -i '1i #!/usr/bin/env bash' "$tree/tools/run.sh"
sed -i 's|^// SPDX|# SPDX|' "$tree/tools/run.sh"
accepts spdx

plant tools/path.cpp 'const char* kPath = "/ho''me/somebody/data";'
refuses machine_paths 'tools/path.cpp:2:'
plant tools/path.cpp '// tests/ho''me/page and $BASE/wo''rk/x and build/cpu'
accepts machine_paths

mkdir -p "$tree/docs"
echo '| `step` |' >"$tree/docs/metrics.md"
refuses metrics 'no field of metrics.jsonl found'
printf '%s\n' '  visit("step", m.step);' '  visit("advantage", m.advantage);' >"$tree/src/core/record.cpp"
refuses metrics 'src/core/record.cpp:2: field advantage has no row in docs/metrics.md'
echo '| `rewards`, `advantage` |' >>"$tree/docs/metrics.md"
accepts metrics

plant src/ops/cuda/kernel.cu '  asm volatile("membar.gl;");'
refuses cuda_sources 'src/ops/cuda/kernel.cu:2: PTX belongs in warp.h'
plant src/ops/cuda/kernel.cu '  __shared__ float values[32];'
refuses cuda_sources 'src/ops/cuda/kernel.cu:2: take shared memory from dynamic_shared<T>()'
plant src/ops/cuda/warp.h '  asm volatile("membar.gl;");  // asm'
accepts cuda_sources
plant src/ops/cuda/kernel.cu '  wasm(x);  // asm, __shared__'
accepts cuda_sources

function_of() {  # function_of LINES: a function so long, below two short ones
  printf 'void quick() {}\nvoid short_one() {\n  f();\n}\nstd::vector<int> long_one(\n    int x) {\n'
  for ((line = 3; line < $1; ++line)); do printf '  f(x);\n'; done
  printf '}\n'
}
plant src/core/size.cpp "$(function_of 80)"
accepts sizes
plant src/core/size.cpp "$(function_of 81)"
refuses sizes 'src/core/size.cpp:6: long_one has 81 lines, more than 80'
plant src/core/size.cpp "$(printf 'int x;\n%.0s' {1..600})"
refuses sizes 'src/core/size.cpp:601: 601 lines, more than 600'
mkdir -p "$tree/tests/lint"
echo 'src/core/size.cpp one subject' >"$tree/tests/lint/sizes.txt"
accepts sizes
echo 'src/core/clean.h is short' >>"$tree/tests/lint/sizes.txt"
refuses sizes 'src/core/clean.h: tests/lint/sizes.txt lists it, but it is short enough or gone'

echo "$cases planted cases judged rightly"
