#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tests/chaos/random_signals.sh [TRIES [SEED]]
# TRIES times (100), sends SIGKILL, SIGSTOP or SIGTERM to random ranks of a job of eight (4 actors, 1 reward rank, 3
# learners), at any moment from its start to its end. Some tries choose rank 0, which receives the heartbeats of the others,
# or the first learner. Some stop two ranks at once. The checks are:
# - Each job ends by itself within 40 s and leaves no process.
# - A stopped rank is named within 15 s, in the only error line; the exit code is 1.
# - mpirun names a killed rank. After SIGTERM the exit code is 75.
# - The next job resumes from a checkpoint. SIGTERM loses no step. Other signals lose at most one step, unless the lost
#   rank is a learner.
# - At the end, each file of the run has every step exactly once.
# The last line has the counts; exit code 0 means that no check failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/chaos/common.sh
source tests/chaos/common.sh
read_numbers 100 1 -- "$@"
tries=${numbers[0]}
RANDOM=${numbers[1]}

ranks=8
first_learner=5
per_run=25
limit=40000       # milliseconds until the job must have ended
named_within=15000
hangs=0 left_alone=0 ended=0 launcher_crashes=0 slowest=0 slowest_naming=0 most_lost=0
declare -A count=([KILL]=0 [STOP]=0 [TERM]=0)
at_least=0        # the next job goes on from no earlier step

not_running() { ! is_running; }
all_ranks_are_there() { process_of_rank $((ranks - 1)); }

begin() {
  local settings=('roles={actors: 4, rewards: 1, learners: 3}' checkpoint.every=1000000)
  random 8
  case $drawn in
    0 | 1) where="while it starts" ;;
    2)
      where="at its end"
      settings+=(train.steps=$((at_least + 2)))
      ;;
    *) where="while it trains" ;;
  esac
  start_job "$ranks" "${settings[@]}"
  wait_for all_ranks_are_there || return 1
  if [[ $where == *starts ]]; then
    random 1200
  else
    wait_for goes_on || return 1
    if [[ $where == *end ]]; then random 400; else random 1000; fi
  fi
  nap "$drawn"
}
goes_on() {
  has_opened || return 1
  resumed_step
  last_step
  ((last > ${resumed/none/0}))
}

choose() {  # choose TRY: `signal` and `targets`
  local signals=(KILL STOP TERM)
  if (($1 <= 3)); then
    signal=${signals[$1 - 1]}  # few tries have all three
  else
    random 3
    signal=${signals[drawn]}
  fi
  random "$ranks"
  targets=("$drawn")
}
special() {  # special TRY
  case $(($1 % 12)) in
    4)
      signal=STOP
      random $((ranks - 1))
      targets+=($(((targets[0] + 1 + drawn) % ranks)))
      ;;
    6) targets=(0) ;;
    8) targets=("$first_learner") ;;
    10) signal=STOP targets=(0 1) ;;
  esac
}

# Of the job but its launcher, nothing is left but what is stopped.
only_stopped_are_left() {
  local one line
  job_processes
  for one in "${processes[@]}"; do
    [[ $one != "$session" ]] || continue
    { read -r line <"/proc/$one/stat"; } 2>/dev/null || continue
    [[ ${line##*) } == [Tt]* ]] || return 1
  done
}

# mpirun's own PMIx may crash as it ends a job that was stopped within MPI_Init. Behind MPI_Finalize nobody is left to miss
# a rank that is stopped: all is done, and the job ends when it may go on.
examine() {  # examine TRY
  local what="try $1 (SIG$signal to ${targets[*]} $where)" begun named='' errors lost
  milliseconds
  begun=$now
  while is_running; do
    milliseconds
    if [[ -z $named ]] && grep -qE '^error: .*(no heartbeat from rank|was stopped)' "$log"; then named=$((now - begun)); fi
    ((now - begun < limit)) || break
    nap 30
  done
  if is_running && [[ $signal == STOP && $where == *end ]] && only_stopped_are_left; then
    left_alone=$((left_alone + 1))
    kill -CONT "${processes[@]}" 2>/dev/null || true
    wait_for not_running || true
    begun=$now
  fi
  if is_running; then
    hangs=$((hangs + 1))
    not_ok "$what: the job hangs"
    kill_job
    return
  fi
  milliseconds
  local took=$((now - begun))
  ((took <= slowest)) || slowest=$took
  status=0
  wait "$session" 2>/dev/null || status=$?
  # The launcher's children may outlive it by a moment.
  local tick
  for ((tick = 0; tick < 40; ++tick)); do
    job_processes
    ((${#processes[@]} > 0)) || break
    nap 50
  done
  if ((${#processes[@]} > 0)); then
    not_ok "$what: ${#processes[@]} processes are left"
    kill_job
  fi
  session=''

  errors=$(grep -c '^error:' "$log" || true)
  local outcome=$signal
  if [[ $status == 0 && $where == *end ]]; then outcome=ended; fi
  case $outcome in
    ended) ended=$((ended + 1)) ;;
    STOP)
      local pattern
      pattern=$(IFS='|'; echo "${targets[*]}")
      if [[ $status == 139 && $where != *trains ]] && grep -q 'PMIx_server_finalize' "$log"; then
        launcher_crashes=$((launcher_crashes + 1))
      elif [[ $status != 1 ]]; then
        not_ok "$what: exit code $status"
      elif [[ $errors != 1 && ! ($errors == 2 && $where != *trains) ]] ||
        grep '^error:' "$log" | grep -qvE "rank ($pattern)\b"; then
        # While the ranks start, one that waits in MPI for the stopped rank may name it a second time.
        not_ok "$what: $errors error lines, or another rank is named"
      fi
      if [[ -n $named ]]; then
        ((named <= slowest_naming)) || slowest_naming=$named
        ((named <= named_within)) || not_ok "$what: named after $named ms"
      fi
      ;;
    KILL)
      if [[ $status == 0 || $status == 75 ]]; then
        not_ok "$what: exit code $status"
      elif ! grep -qE "process rank (${targets[0]}) with PID .* exited on signal 9|rank ${targets[0]}\b" "$log"; then
        not_ok "$what: nobody names the rank"
      fi
      ;;
    TERM)
      if [[ $status == 75 ]]; then
        grep -q '^stopped after step' "$log" || not_ok "$what: it does not say where it stopped"
        ((errors == 0)) || not_ok "$what: $errors errors"
      elif grep -qE "process rank ${targets[0]} with PID .* exited on signal 15" "$log" && [[ $where == *starts ]]; then
        : # before the program listened
      else
        not_ok "$what: exit code $status"
      fi
      ;;
  esac

  # What the next job must go on from.
  last_step
  list_checkpoints
  local saved=0 learner_lost=no target
  if ((${#checkpoints[@]} > 0)); then
    step_of "${checkpoints[-1]}"
    saved=$step
    "$ckpt" verify "${checkpoints[-1]}" >/dev/null 2>&1 || not_ok "$what: the newest checkpoint is damaged"
  fi
  for target in "${targets[@]}"; do ((target < first_learner)) || learner_lost=yes; done
  lost=$((last > saved ? last - saved : 0))
  if [[ $signal == TERM && $status == 75 ]]; then
    ((lost == 0)) || not_ok "$what: $lost steps are lost ($last were done, $saved are saved)"
  elif [[ $learner_lost == no && $where != *starts ]]; then
    ((lost <= most_lost)) || most_lost=$lost
    ((lost <= 1)) || not_ok "$what: $lost steps are lost ($last were done, $saved are saved)"
  fi
  ((saved >= at_least)) || not_ok "$what: step $at_least was saved, the newest checkpoint is of $saved"
  at_least=$saved
}

# Goes on for a step, stops as asked, and has every line once.
close_run() {
  start_job "$ranks" 'roles={actors: 4, rewards: 1, learners: 3}' checkpoint.every=1000000
  if ! wait_for goes_on; then
    not_ok "it does not go on"
  else
    resumed_step
    [[ ${resumed/none/0} == "$at_least" ]] || not_ok "it goes on from $resumed instead of $at_least"
    nap 100
    process_of_rank 0 && kill -TERM "$process"
    if ! wait_job 60000 || [[ $status != 75 ]]; then not_ok "it does not stop as asked: ${status:-still running}"; fi
    check_lines 4
  fi
  kill_job
  rm -rf "$run"
  at_least=0
}

SECONDS=0
for ((try = 1; try <= tries; ++try)); do
  choose "$try"
  special "$try"
  if ! begin && is_running; then
    not_ok "try $try: it does nothing"
    kill_job
    continue
  fi
  resumed_step
  if [[ $resumed != none && $resumed != "$at_least" ]]; then not_ok "try $try: it goes on from $resumed instead of $at_least"; fi
  ids=()
  for target in "${targets[@]}"; do
    if process_of_rank "$target"; then ids+=("$process"); fi
  done
  if ((${#ids[@]} < ${#targets[@]})) && [[ $where != *end ]]; then
    not_ok "try $try: ranks ${targets[*]} are not there ($where)"
    kill_job
    continue
  fi
  ((${#ids[@]} == 0)) || kill "-$signal" "${ids[@]}" 2>/dev/null || true
  count[$signal]=$((count[$signal] + 1))
  examine "$try"
  if ((try % per_run == 0 || try == tries)); then close_run; fi
  if ((try % 10 == 0 && try < tries)); then echo "   $try tries in $SECONDS s, $failures failures"; fi
done
echo "random signals: ${count[KILL]} SIGKILL, ${count[STOP]} SIGSTOP, ${count[TERM]} SIGTERM; $hangs hangs, slowest end" \
  "$slowest ms, slowest naming of a stopped rank $slowest_naming ms, stopped behind MPI_Finalize and so missed by nobody" \
  "$left_alone, mpirun itself crashed as it ended $launcher_crashes, ended before $ended, most steps lost with all learners alive $most_lost;" \
  "$SECONDS s, $failures failures"
((failures == 0))
