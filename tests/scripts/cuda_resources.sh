#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tests/scripts/cuda_resources.sh FILE.cu...
# Prints a table of the kernels in these files: registers per thread and bytes spilled, on sm_80 and sm_90. Needs nvcc (found
# as in launch/build.sh) but no GPU. Ends with an error if a kernel spills.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
nvcc=${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

for file in "${@:?usage: cuda_resources.sh FILE.cu...}"; do
  "$nvcc" -std=c++20 -O3 -fmad=false -I src -Xptxas -v -fatbin -o "$scratch/fatbin" "$file" \
    -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90 2>&1 | c++filt
done | awk '
  /Compiling entry function/ {
    architecture = $0; sub(/.* for ./, "", architecture); sub(/\047.*/, "", architecture)
    kernel = $0; sub(/.*entry function ./, "", kernel); sub(/\047 for .*/, "", kernel)
    gsub(/\(anonymous namespace\)::/, "", kernel); sub(/\(.*/, "", kernel); sub(/^void /, "", kernel); sub(/.*::/, "", kernel)
    if (!(kernel in seen)) { seen[kernel] = 1; names[++count] = kernel }
  }
  /bytes spill stores/ { spilled[kernel, architecture] = $5 + $9; bad += $5 + $9 }
  /Used [0-9]+ registers/ { match($0, /Used [0-9]+/); registers[kernel, architecture] = substr($0, RSTART + 5, RLENGTH - 5) }
  END {
    print "| kernel | registers, sm_80 | sm_90 | bytes spilled, sm_80 | sm_90 |"
    print "|---|---|---|---|---|"
    for (i = 1; i <= count; ++i) {
      k = names[i]
      printf "| `%s` | %s | %s | %s | %s |\n", k, registers[k, "sm_80"], registers[k, "sm_90"], spilled[k, "sm_80"], spilled[k, "sm_90"]
    }
    exit bad > 0
  }'
