#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tests/chaos/many_ranks.sh [RANKS [STEPS]]
# Runs jobs of RANKS (64) ranks for STEPS (3) steps: with `roles: auto`, colocated, and with more learners than trajectories.
# Also runs one job with a single rank. All jobs must end with exit code 0. In the first step, before the adapters can
# differ, all must sample the same completions. Prints seconds and bytes per step; exit code 0 means that no check failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/chaos/common.sh
source tests/chaos/common.sh
read_numbers 64 3 -- "$@"
ranks=${numbers[0]} steps=${numbers[1]}
((ranks >= 4 && steps >= 1)) || { echo "error: $script: at least 4 ranks and one step; see --help" >&2; exit 2; }
before_removal() { :; }

first_texts() { sed -n '/^{"step":1,/p' "$1/samples.jsonl" | sed 's/"advantage":.*//'; }
# metrics.jsonl is one object per line; the mean of a number over its steps.
mean_of() { sed -n "s/.*\"$1\":\([0-9.e+-]*\).*/\1/p" "$run/metrics.jsonl" | awk '{ s += $1 } END { printf "%.3f", s / NR }'; }

SECONDS=0
runs=0
learners=$((ranks * 5 / 8))
for layout in one auto colocated 'many learners'; do
  rm -rf "$run"
  settings=("train.steps=$steps" checkpoint.every=0 rollout.images_per_step=8 rollout.group_size=2)
  case $layout in
    one) start_job 1 "${settings[@]}" ;;
    auto) start_job "$ranks" "${settings[@]}" ;;
    colocated) start_job "$ranks" "${settings[@]}" placement=colocated ;;
    *) start_job "$ranks" "${settings[@]}" "roles={actors: $((ranks - learners - 1)), rewards: 1, learners: $learners}" ;;
  esac
  if ! wait_job 300000 || [[ $status != 0 ]]; then
    not_ok "$layout: exit code ${status:-none, it hangs}"
    kill_job
    continue
  fi
  session=''
  runs=$((runs + 1))
  check_lines 16
  [[ $layout != one ]] || first_texts "$run" >"$folder/expected"
  cmp -s "$folder/expected" <(first_texts "$run") || not_ok "$layout: other texts than on one rank"
  "$ckpt" verify "$run" >/dev/null 2>&1 || not_ok "$layout: its checkpoint is not whole"
  bytes=$(mean_of traffic_bytes)
  echo "   $layout: $(mean_of step_seconds) s and $(awk -v b="$bytes" 'BEGIN { printf "%.2f", b / 1048576 }') MiB a step"
done
echo "many ranks: $runs jobs of 4 ended, $ranks ranks; $SECONDS s, $failures failures"
((failures == 0 && runs == 4))
