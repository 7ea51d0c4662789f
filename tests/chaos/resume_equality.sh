#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tests/chaos/resume_equality.sh [KILLS [SEED]]
# Checks that a run that was killed and resumed ends with the same files as an uninterrupted run. Each round runs 24 steps
# without a kill, and the same steps again with one or two kills (kill -9 of all processes, at random steps after the first
# checkpoint). Rounds continue until there were KILLS kills (20). These files must be equal byte for byte: config.yaml, both
# forms of the adapter, the last checkpoint, samples.jsonl, and metrics.jsonl without times and traffic. Three layouts take
# turns: one process, three colocated ranks, and five ranks with two learners. A checkpoint is saved every one to four steps.
# Every second round has evaluations. The last line has the counts; exit code 0 means that all files were equal.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/chaos/common.sh
source tests/chaos/common.sh
read_numbers 20 1 -- "$@"
kills=${numbers[0]}
RANDOM=${numbers[1]}

steps=24
runs=0 killed=0 killed_twice=0 equal=0
killed_at=()

start() {  # the job of this round
  case $layout in
    0) start_job 1 "${settings[@]}" ;;
    1) start_job 3 "${settings[@]}" placement=colocated ;;
    2) start_job 5 "${settings[@]}" 'roles={actors: 2, rewards: 1, learners: 2}' ;;
  esac
}
finish() {  # finish WHAT: to its end
  if wait_job 300000 && [[ $status == 0 ]]; then
    session=''
    return 0
  fi
  not_ok "$1: exit code ${status:-none, it hangs}"
  kill_job
  return 1
}
# What must be equal: no times, no traffic.
lines_of() { sed -E 's/"(time|traffic_bytes|[a-z0-9_]*_seconds)":[^,}]*,?//g' "$1/metrics.jsonl"; }

wait_for_step() {  # wait_for_step STEP
  milliseconds
  local end=$((now + 120000))
  until last_step && ((last >= $1)); do
    milliseconds
    ((now < end)) && is_running || return 1
    nap 2
  done
}

compare() {  # compare WHAT
  local what=$1 before=$failures file
  for file in adapter.h5 samples.jsonl config.yaml adapter/adapter_model.safetensors; do
    cmp -s "$folder/whole/$file" "$run/$file" || not_ok "$what: $file differs"
  done
  if ! diff <(lines_of "$folder/whole") <(lines_of "$run") >"$folder/difference"; then
    not_ok "$what: metrics.jsonl differs: $(head -c 300 "$folder/difference" | tr '\n' ' ')"
  fi
  if [[ $(readlink "$run/checkpoints/latest") != "$(readlink "$folder/whole/checkpoints/latest")" ]] ||
    ! diff -r "$folder/whole/checkpoints/latest/" "$run/checkpoints/latest/" >"$folder/difference"; then
    not_ok "$what: the last checkpoint differs: $(head -n 3 "$folder/difference" | tr '\n' ' ')"
  fi
  "$ckpt" verify "$run" >/dev/null 2>&1 || not_ok "$what: not all checkpoints are whole"
  ((failures > before)) || equal=$((equal + 1))
}

SECONDS=0
while ((killed < kills && failures < 10)); do
  layout=$((runs % 3))
  runs=$((runs + 1))
  random 4
  every=$((drawn + 1))
  settings=("train.steps=$steps" "checkpoint.every=$every" "train.seed=$runs" rollout.images_per_step=3)
  if ((runs % 2 == 0)); then
    settings+=('data.eval=[../assets/tiny/test.jsonl]' train.eval_images=4 train.eval_every=5)
  fi
  rm -rf "$run" "$folder/whole"
  start
  finish "the undisturbed run" || continue
  mv "$run" "$folder/whole"

  random 2
  again=$((drawn + 1))
  from=$every
  at=()
  start
  while ((again > 0 && from < steps - 1 && killed < kills)); do
    random $((steps - 1 - from))
    from=$((from + 1 + drawn))
    # Behind a step's line; the next checkpoint may or may not come before the kill.
    wait_for_step "$from" || break
    list_checkpoints
    for ((tick = 0; tick < 500 && ${#checkpoints[@]} == 0; ++tick)); do
      nap 2
      list_checkpoints
    done
    random 40
    nap "$drawn"
    is_running || break
    kill_job
    killed=$((killed + 1))
    last_step
    at+=("$last")
    again=$((again - 1))
    start
  done
  if ((${#at[@]} > 1)); then killed_twice=$((killed_twice + 1)); fi
  killed_at+=("${at[@]}")
  what="run $runs (layout $layout, a checkpoint every $every steps, killed behind ${at[*]:-nothing})"
  if finish "$what"; then
    if ((${#at[@]} > 0)); then
      resumed_step
      [[ $resumed != none ]] || not_ok "$what: it began anew"
    fi
    compare "$what"
  fi
done
echo "resume equality: $killed kills behind steps ${killed_at[*]:-none} of $steps in $runs runs ($killed_twice of them killed" \
  "twice), $equal runs equal to the undisturbed ones; $SECONDS s, $failures failures"
((failures == 0))
