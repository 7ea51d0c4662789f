#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: cuda_sources.sh PROJECT. Refuses code in the CUDA folders of src/ that the emulator cannot run: PTX outside warp.h,
# and shared memory outside launch.h (kernels use dynamic_shared<T>()).
set -euo pipefail
cd "${1:?usage: cuda_sources.sh PROJECT}"

sources=$(find src -path '*/cuda/*' \( -name '*.h' -o -name '*.cuh' -o -name '*.cu' -o -name '*.cpp' \) | LC_ALL=C sort)
[[ -n $sources ]] || exit 0
xargs awk '
  { code = $0; sub(/\/\/.*/, "", code) }
  code ~ /(^|[^A-Za-z0-9_])(asm|__asm|__asm__)([^A-Za-z0-9_]|$)/ && FILENAME !~ /\/warp\.h$/ {
    printf "%s:%d: PTX belongs in warp.h\n", FILENAME, FNR; bad = 1
  }
  code ~ /__shared__/ && FILENAME !~ /\/launch\.h$/ {
    printf "%s:%d: take shared memory from dynamic_shared<T>()\n", FILENAME, FNR; bad = 1
  }
  END { exit bad }' <<<"$sources"
