#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: gpu_dry_run.sh [BUILD]
# Runs all of tests/gpu.sh with tiny shapes on an emulated build (default: build/emulated): no part may fail or be cut.
# Ends with 77 where there is no such build (launch/build.sh emulated --tests).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=${1:-build/emulated}
if [[ ! -x $build/bin/biqa_bench || ! -x $build/tests/policy_cuda_network_test ]]; then
  echo "skipped: $build is not built (launch/build.sh emulated --tests)"
  exit 77
fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
output=$(bash tests/gpu.sh --build "$build" --out "$out" --size tiny --seconds 5400) || { printf '%s\n' "$output"; exit 1; }
printf '%s\n' "$output"
for part in copy operations ones invariance rows kernels network 'train f32' 'train bf16' alone rollout step unshared recompute decode cudnn; do
  grep -qE "^$part +ok " <<<"$output" || { echo "no line says: $part ok"; exit 1; }
done
