#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tests/chaos/kill_saves.sh [TRIES [SEED]]
# TRIES times (1000), kills all processes of a run with kill -9. The run saves after every step. Most kills come while the
# files of a checkpoint are written or just after its renaming, the others at any moment. One try in ten has two or three
# ranks. After each kill the newest checkpoint or the one before it must be undamaged, and the next try must resume from it.
# After every 100 tries, the lines of the run's files are checked and another run begins. The last line has the counts; exit
# code 0 means that no check failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/chaos/common.sh
source tests/chaos/common.sh
read_numbers 1000 1 -- "$@"
tries=${numbers[0]}
RANDOM=${numbers[1]}

per_run=100
in_save=0         # a temporary folder was left
in_publication=0  # the checkpoint had its name, but `latest` did not point to it or the oldest was not gone
saves=0 newest_whole=0 previous_whole=0 early=0 resumed_right=0
expected=none  # what the next start must go on from

look_every=1
newer_partial() {
  local one
  list_partial
  for one in "${partial[@]}"; do [[ " ${old[*]} " == *" $one "* ]] || return 0; done
  return 1
}
newer_checkpoint() {
  list_checkpoints
  ((${#checkpoints[@]} > 0)) || return 1
  step_of "${checkpoints[-1]}"
  ((step > target))
}

begin() {  # begin TRY
  local ranks=1 placement=split
  random 20
  case $drawn in
    0) ranks=3 placement=colocated ;;
    1) ranks=2 ;;
  esac
  list_partial
  old=("${partial[@]}")
  list_checkpoints
  target=0
  if ((${#checkpoints[@]} > 0)); then
    step_of "${checkpoints[-1]}"
    target=$step
  fi
  start_job "$ranks" checkpoint.every=1 "placement=$placement"
  random 10
  local kind=$drawn
  if ((kind < 6)); then
    random 3
    target=$((target + drawn))
    random 12
    { ((target == 0)) || wait_for newer_checkpoint_or_same; } && wait_for newer_partial && nap "$drawn"
  elif ((kind < 8)); then
    random 3
    target=$((target + drawn))
    random 4
    wait_for newer_checkpoint && nap "$drawn"
  else
    random $((ranks == 1 ? 800 : 1600))
    nap "$drawn"
  fi
}
newer_checkpoint_or_same() {
  list_checkpoints
  ((${#checkpoints[@]} > 0)) || return 1
  step_of "${checkpoints[-1]}"
  ((step >= target))
}

examine() {  # examine TRY
  resumed_step
  if [[ $resumed != none ]]; then
    if [[ $resumed == "$expected" ]]; then resumed_right=$((resumed_right + 1)); else not_ok "try $1: it went on from step $resumed instead of $expected"; fi
  elif [[ $expected == none ]]; then
    early=$((early + 1))
  else
    list_checkpoints
    step_of "${checkpoints[-1]}"
    # Killed before it could say so.
    if [[ $step == "$expected" ]]; then early=$((early + 1)); else not_ok "try $1: it did not go on from step $expected"; fi
  fi
  ! grep -qE '^error:|is damaged|terminate called' "$log" || not_ok "try $1: an error before the kill"

  list_partial
  list_checkpoints
  local count=${#checkpoints[@]}
  if ((${#partial[@]} > 0)) && newer_partial; then
    in_save=$((in_save + 1))
  elif ((count > 2)) || { ((count > 0)) && [[ $(readlink "$run/checkpoints/latest" || true) != "${checkpoints[-1]##*/}" ]]; }; then
    in_publication=$((in_publication + 1))
  fi
  if ((count == 0)); then
    [[ $expected == none ]] || not_ok "try $1: the checkpoints are gone"
    expected=none
    return
  fi
  if verdict=$("$ckpt" verify "${checkpoints[-1]}" 2>&1); then
    newest_whole=$((newest_whole + 1))
    step_of "${checkpoints[-1]}"
    expected=$step
  elif ((count > 1)) && "$ckpt" verify "${checkpoints[-2]}" >/dev/null 2>&1; then
    echo "   try $1: the newest is not whole, the one before is: $verdict"
    previous_whole=$((previous_whole + 1))
    step_of "${checkpoints[-2]}"
    expected=$step
  else
    not_ok "try $1: neither the newest checkpoint nor the one before it is whole: $verdict"
    expected=none
  fi
}

# Goes on undisturbed for some steps, stops as asked, and has every line once.
close_run() {
  list_checkpoints
  target=0
  if [[ $expected != none ]]; then target=$expected; fi
  target=$((target + 2))
  start_job 1 checkpoint.every=1
  if ! wait_for newer_checkpoint; then
    not_ok "it does not go on"
  else
    kill -TERM "$session"
    if ! wait_job 60000 || [[ $status != 75 ]]; then not_ok "it does not stop as asked: ${status:-still running}"; fi
    check_lines 4
    list_partial
    ((${#partial[@]} == 0)) || not_ok "half-written checkpoints are left: ${partial[*]}"
    "$ckpt" verify "$run" >/dev/null 2>&1 || not_ok "not all checkpoints are whole"
  fi
  list_checkpoints
  if ((${#checkpoints[@]} > 0)); then
    step_of "${checkpoints[-1]}"
    saves=$((saves + step))
  fi
  kill_job
  rm -rf "$run"
  expected=none
}

SECONDS=0
for ((try = 1; try <= tries; ++try)); do
  if ! begin "$try"; then not_ok "try $try: it ended or did nothing"; fi
  kill_job
  examine "$try"
  if ((try % per_run == 0 || try == tries)); then close_run; fi
  if ((try % 100 == 0 && try < tries)); then
    echo "   $try tries in $SECONDS s: $in_save in a save, $in_publication in a publication, $failures failures"
  fi
done
echo "kill saves: $tries kills, $in_save in the middle of a save, $in_publication of a publication; newest whole" \
  "$newest_whole, previous $previous_whole, went on rightly $resumed_right, nothing to go on from yet or killed first" \
  "$early; $saves steps, $SECONDS s, $failures failures"
((failures == 0))
