#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: launch/local.sh [-n RANKS] [--restarts K] CONFIG [--set KEY=VALUE]… [--dry-run]
# Trains on this machine with RANKS processes (default 1) that share its cores, through mpirun. After a failure (exit code
# 1) it starts again from the newest checkpoint, at most K times (default 0).
# On Ctrl-C or SIGTERM the run finishes the step, saves and exits with code 75; give the same command again to resume. On
# SIGUSR1 it saves and continues. The exit codes are those of biqa_learner.
# BIQA_LEARNER is the program to run (default: build/cpu/bin/biqa_learner).
set -euo pipefail

usage() {
  echo "error: launch/local.sh: $1; see launch/local.sh --help" >&2
  exit 2
}
number() {  # number FLAG TEXT
  [[ ${2:-} =~ ^[0-9]+$ ]] || usage "$1 needs a whole number, not '${2:-}'"
  printf '%d' "$((10#$2))"
}

here=$(dirname "${BASH_SOURCE[0]}")
ranks=1
restarts=0
config=''
arguments=()
while [[ $# -gt 0 ]]; do
  case $1 in
    -h | --help) sed -n '3,8s/^# \?//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    -n) ranks=$(number -n "${2:-}"); shift ;;
    --restarts) restarts=$(number --restarts "${2:-}"); shift ;;
    --set) [[ $# -ge 2 ]] || usage "--set needs KEY=VALUE"; arguments+=(--set "$2"); shift ;;
    -*) arguments+=("$1") ;;
    *) [[ -z $config ]] || usage "two configurations: $config and $1"; config=$1 ;;
  esac
  shift
done
[[ -n $config ]] || usage "no configuration named, e.g. configs/quickstart.yaml"
((ranks > 0)) || usage "-n 0 would start nothing"
learner=${BIQA_LEARNER:-$here/../build/cpu/bin/biqa_learner}
for needed in "$learner" mpirun; do
  command -v "$needed" >/dev/null && continue
  echo "error: launch/local.sh: $needed is not there; run launch/setup.sh and launch/build.sh" >&2
  exit 1
done

# If Open MPI 5 has fewer slots than ranks, a waiting rank yields its core at every poll. So every rank gets a slot.
export PRTE_MCA_prte_set_default_slots=${PRTE_MCA_prte_set_default_slots:-$ranks}
# Open MPI 5 prints a message if it finds no network between ranks of one machine. The ranks use shared memory, so the
# loopback interface lo is enough as a network.
if [[ -z ${OMPI_MCA_btl_tcp_if_include:-}${OMPI_MCA_btl_tcp_if_exclude:-} ]]; then export OMPI_MCA_btl_tcp_if_include=lo; fi
if [[ $EUID == 0 ]]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
command=(mpirun -np "$ranks" --oversubscribe --bind-to none "$learner" --config "$config" "${arguments[@]}"
  --set checkpoint.save_signal=SIGUSR1)

running=''
stopper=''
interrupted=no
# SIGTERM and SIGINT would make mpirun kill the ranks. mpirun passes SIGUSR2 on, and biqa_learner treats it like SIGTERM.
# The signal is repeated, because it may be lost while the ranks start.
stop() {
  interrupted=yes
  [[ -n $running ]] || exit 75
  if [[ -n $stopper ]]; then
    kill -TERM "$running" 2>/dev/null || true
    return
  fi
  echo "local.sh: stopping: the learner finishes its step and saves (ask again to kill it)" >&2
  # `sleep` may outlive this script. It must not hold the output open, because a caller may wait for the end of the output.
  while kill -USR2 "$running"; do sleep 1; done >/dev/null 2>&1 &
  stopper=$!
}
save() {
  interrupted=yes
  [[ -z $running ]] || kill -USR1 "$running" 2>/dev/null || true
}
trap stop INT TERM
trap save USR1

start=0
while true; do
  # mpirun gets its own session, so the terminal's Ctrl-C reaches only this script. If this script dies, mpirun ends too.
  setsid setpriv --pdeathsig TERM "${command[@]}" </dev/null &
  running=$!
  interrupted=yes
  while [[ $interrupted == yes ]]; do
    interrupted=no
    status=0
    # If a signal kills mpirun, wait also prints a line with the whole command.
    wait "$running" 2>/dev/null || status=$?
  done
  running=''
  [[ -z $stopper ]] || kill "$stopper" 2>/dev/null || true
  case $status in
    0 | 2 | 3 | 75) exit "$status" ;;
    $((128 + $(kill -l USR1))) | $((128 + $(kill -l USR2))))
      # The signal killed the program before it handled signals. No step had begun.
      [[ -z $stopper ]] || exit 75
      continue
      ;;
  esac
  # If a signal kills a rank, mpirun's exit code is 128 + the signal.
  if [[ -n $stopper || $start -ge $restarts ]]; then
    if ((status > 128)); then
      signal=$(kill -l "$status" 2>/dev/null || echo "$((status - 128))")
      echo "local.sh: the signal $signal ended the run; give the same command again to resume" >&2
    fi
    exit 1
  fi
  start=$((start + 1))
  echo "local.sh: failed with exit code $status; restart $start of at most $restarts" >&2
done
