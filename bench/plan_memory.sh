#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: bench/plan_memory.sh [PATH/TO/biqa_learner]
# Trains the embedded model with several settings. For each one it prints the peak memory that --dry-run plans, the
# measured peak (VmHWM) and their ratio. Ends with exit code 1 if a ratio is below 0.85 or above 1.15.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
learner=${1:-build/cpu/bin/biqa_learner}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0

measure() {
  local name=$1 arguments=() setting line planned peak=0 now child
  shift
  for setting in train.steps=2 train.progress=false checkpoint.every=0 "train.out=$scratch/run" rollout.max_new_tokens=24 \
    rollout.images_per_step=4 data.eval=[] "$@"; do
    arguments+=(--set "$setting")
  done
  rm -rf "$scratch/run"
  line=$("$learner" --config configs/quickstart.yaml "${arguments[@]}" --dry-run | grep '^peak memory')
  planned=$(awk '{ print $4 == "GiB" ? $3 * 1024 : $3 }' <<<"$line")
  "$learner" --config configs/quickstart.yaml "${arguments[@]}" >"$scratch/log" 2>&1 &
  child=$!
  # It only grows, so that the last reading before the end is the peak.
  while now=$(awk '/^VmHWM:/ { print $2 }' "/proc/$child/status" 2>/dev/null) && [[ -n $now ]]; do
    peak=$now
    sleep 0.01
  done
  if ! wait "$child"; then
    cat "$scratch/log" >&2
    exit 1
  fi
  awk -v name="$name" -v planned="$planned" -v peak="$peak" 'BEGIN {
    measured = peak / 1024; ratio = planned / measured
    printf "%-34s %8.1f MiB %8.1f MiB %8.2f\n", name, planned, measured, ratio
    exit ratio < 0.85 || ratio > 1.15 }' || failed=1
}

printf '%-34s %12s %12s %8s\n' setting planned measured ratio
measure "8 answers" rollout.group_size=8
measure "32 answers" rollout.group_size=32
measure "64 answers" rollout.group_size=64
measure "64 answers, 1000 tokens a pass" rollout.group_size=64 objective.micro_batch_tokens=1000
measure "64 answers, layers recomputed" rollout.group_size=64 objective.recompute_layers=true
measure "64 answers, stage 2 trained" rollout.group_size=64 stage2.train=true
measure "8 answers, dropout" rollout.group_size=8 lora.dropout=0.1
measure "32 answers, bf16" rollout.group_size=32 model.dtype=bf16
measure "8 answers, 240 to evaluate" rollout.group_size=8 'data.eval=[../assets/tiny/test.jsonl]'
exit "$failed"
