#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tests/chaos/disk_full.sh [SEED]
# Checks what a run does if its folder fails: the disk (a small tmpfs) is full after some checkpoints, or the folder becomes
# unwritable, is replaced by a file, or is deleted. The run must continue, or end with exit code 1 and one error line that
# names the file and the reason. Earlier checkpoints must stay undamaged. After the folder is repaired, the same command
# must resume. The last line has the counts. Exit code 0: no check failed; 77: nothing could be tested. Needs root for mount.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/chaos/common.sh
source tests/chaos/common.sh
read_numbers 1 -- "$@"
RANDOM=${numbers[0]}

cases=0 skipped=0
skip() {
  skipped=$((skipped + 1))
  echo "   skipped: $1"
}
does_not_begin() {
  not_ok "$what: it does not begin"
  kill_job
}
has_saved() {  # has_saved CHECKPOINTS
  list_checkpoints
  ((${#checkpoints[@]} >= $1))
}
has_stepped() {  # has_stepped STEP
  last_step
  ((last >= $1))
}
# It ended with one error line, which says why.
ended_clearly() {  # ended_clearly WHAT PATTERN
  if ! wait_job 60000; then
    not_ok "$1: it hangs"
    kill_job
  elif [[ $status != 1 ]]; then
    not_ok "$1: exit code $status"
  elif [[ $(grep -c '^error:' "$log") != 1 ]] || ! grep -qE "^error: .*($2)" "$log"; then
    not_ok "$1: not one error line with $2"
  else
    grep '^error:' "$log" | sed "s|$folder/||g; s/^/   $1: /"
  fi
  session=''
}
all_whole() {  # all_whole WHAT
  list_checkpoints
  local one
  for one in "${checkpoints[@]}"; do
    "$ckpt" verify "$one" >/dev/null 2>&1 || not_ok "$1: ${one#"$folder/"} is not whole"
  done
  list_partial
}
# The trouble is over: the same command goes on to its end.
goes_on() {  # goes_on WHAT RANKS STEPS SETTING…
  local what=$1 ranks=$2 steps=$3 before=none
  list_checkpoints
  if ((${#checkpoints[@]} > 0)); then
    step_of "${checkpoints[-1]}"
    before=$step
  fi
  start_job "$ranks" "${@:4}" "train.steps=$steps"
  if ! wait_job 120000 || [[ $status != 0 ]]; then
    not_ok "$what: it does not go on: ${status:-it hangs}"
    kill_job
  else
    resumed_step
    [[ $resumed == "$before" ]] || not_ok "$what: it goes on from $resumed instead of $before"
    check_lines 4
    all_whole "$what"
    ((${#partial[@]} == 0)) || not_ok "$what: half-written checkpoints are left"
  fi
  session=''
  cases=$((cases + 1))
}

# ---- a full disk
mounted=''
unmount() {
  if [[ -n $mounted ]]; then umount "$mounted" 2>/dev/null || umount -l "$mounted" || true; fi
  mounted=''
}
before_removal() { unmount; }
# mount_small FOLDER SIZE: a disk of so many megabytes there; returns 1 where that is refused.
mount_small() {
  mkdir -p "$1"
  mount -t tmpfs -o "size=$2m" biqa-chaos "$1" 2>"$folder/refused" || return 1
  mounted=$1
}
full_disk() {  # full_disk RANKS KEEP
  local what="full disk, $1 ranks" size
  rm -rf "$run"
  if ! mount_small "$run" 16; then
    skip "$what: $(head -n 1 "$folder/refused")"
    return
  fi
  # Every checkpoint is kept, so that they fill the disk; then everything else finds it full too.
  start_job "$1" checkpoint.every=1 checkpoint.keep=0
  if ! wait_for has_saved 2; then
    does_not_begin
    unmount
    return
  fi
  random 7
  size=$((drawn + 5))
  mount -o "remount,size=${size}m" "$run"
  ended_clearly "$what" 'No space left on device'
  all_whole "$what"
  has_saved 2 || not_ok "$what: earlier checkpoints are gone"
  last_step
  local goal=$((last + 4))
  mount -o remount,size=200m "$run"
  goes_on "$what" "$1" "$goal" checkpoint.every=1 checkpoint.keep=0
  unmount
}

# Room for its lines but for no checkpoint: training goes on, with a word for each checkpoint.
no_room_for_checkpoints() {
  local what="no room for checkpoints"
  rm -rf "$run"
  if ! mount_small "$run/checkpoints" 4; then
    skip "$what: $(head -n 1 "$folder/refused")"
    return
  fi
  start_job 1 checkpoint.every=1 checkpoint.keep=0 train.steps=30
  ended_clearly "$what" 'No space left on device'
  last_step
  ((last == 30)) || not_ok "$what: training stopped at step $last of 30"
  grep -q 'training continues, earlier checkpoints are unchanged' "$log" || not_ok "$what: it does not say that it goes on"
  all_whole "$what"
  has_saved 2 || not_ok "$what: earlier checkpoints are gone"
  ((${#partial[@]} == 0)) || not_ok "$what: half-written checkpoints are left"
  mount -o remount,size=200m "$run/checkpoints"
  goes_on "$what" 1 32 checkpoint.every=1 checkpoint.keep=0
  unmount
}

# ---- folders
unwritable() {
  local what="unwritable folder"
  rm -rf "$run"
  mkdir -p "$run"
  if [[ $EUID == 0 ]]; then
    # Root may write anywhere.
    if ! setpriv --reuid=65534 --regid=65534 --clear-groups test -r configs/quickstart.yaml -a -x "$learner" 2>/dev/null; then
      skip "$what: another user than root can't read this folder"
      return
    fi
    wrapper=(setpriv --reuid=65534 --regid=65534 --clear-groups)
    chmod 711 "$folder"
    chown 65534:65534 "$run"
  fi
  start_job 1 checkpoint.every=1 train.steps=30
  if wait_for has_saved 1; then
    chmod 555 "$run/checkpoints"
    ended_clearly "$what" 'Permission denied'
    last_step
    ((last == 30)) || not_ok "$what: training stopped at step $last of 30"
    all_whole "$what"
    has_saved 1 || not_ok "$what: earlier checkpoints are gone"
    chmod 755 "$run/checkpoints"
    goes_on "$what" 1 32 checkpoint.every=1
  else
    does_not_begin
  fi
  wrapper=()
}

replaced_by_file() {  # replaced_by_file RANKS
  local what="folder replaced by a file, $1 ranks"
  rm -rf "$run"
  start_job "$1" checkpoint.every=1 train.steps=40
  if ! wait_for has_saved 1; then
    does_not_begin
    return
  fi
  mv "$run/checkpoints" "$run/aside"
  : >"$run/checkpoints"
  ended_clearly "$what" 'Not a directory|File exists|not a directory'
  last_step
  ((last == 40)) || not_ok "$what: training stopped at step $last of 40"
  rm "$run/checkpoints"
  rm -rf "$run"/aside/.step-*
  mv "$run/aside" "$run/checkpoints"
  all_whole "$what"
  goes_on "$what" "$1" 42 checkpoint.every=1
}

# The run ends by itself with one error, and once the folder is back the next start works.
vanished() {  # vanished RANKS
  local what="vanished folder, $1 ranks"
  rm -rf "$run"
  start_job "$1" checkpoint.every=1 train.steps=30
  if ! wait_for has_stepped 3; then
    does_not_begin
    return
  fi
  mv "$run" "$folder/gone"
  if ! wait_job 60000; then
    not_ok "$what: it hangs"
    kill_job
  elif [[ $status == 1 ]]; then
    [[ $(grep -c '^error:' "$log") == 1 ]] || not_ok "$what: not one error line"
    grep '^error:' "$log" | sed "s|$folder/||g; s/^/   $what: /"
  else
    not_ok "$what: exit code $status"
  fi
  session=''
  all_whole "$what"
  rm -rf "$run"
  mv "$folder/gone" "$run"
  goes_on "$what" "$1" 32 checkpoint.every=1
}

SECONDS=0
full_disk 1
full_disk 3
no_room_for_checkpoints
unwritable
replaced_by_file 1
replaced_by_file 3
vanished 1
vanished 3
echo "disk full: $cases cases went on afterwards, $skipped skipped; $SECONDS s, $failures failures"
((failures == 0)) || exit 1
((cases > 0)) || exit 77
