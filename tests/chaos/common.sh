# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034
# Sourced by the scripts in this folder. Starts jobs with a reduced version of the embedded model, in a temporary folder that
# is deleted at the end. Each job has its own process session, by which the script finds all of its processes.
#
#   read_numbers DEFAULT… -- ARGUMENT…   sets `numbers` to the script's arguments, with defaults for missing ones
#   random BELOW           sets `drawn` to a whole number from 0 to BELOW − 1; the same numbers with the same RANDOM=SEED
#   nap MILLISECONDS       sleeps
#   start_job RANKS KEY=VALUE…           starts biqa_learner in the run folder `run`, with its output in `log`
#   job_processes          sets `processes` to the processes of the job that still run
#   process_of_rank RANK   sets `process`; returns 1 if there is none
#   wait_job MILLISECONDS  waits until the launcher has ended and sets `status`; returns 1 if it has not ended
#   wait_for COMMAND…      waits until COMMAND succeeds; returns 1 if the job ends first or after a minute
#   kill_job               kills all processes of the job with kill -9
#   not_ok WHAT            counts a failure and prints it with the end of the log

script=tests/chaos/$(basename "$0")
learner=${BIQA_LEARNER:-$PWD/build/cpu/bin/biqa_learner}
ckpt=${BIQA_CKPT:-$(dirname "$learner")/biqa_ckpt}

read_numbers() {
  local defaults=() number
  while [[ $1 != -- ]]; do defaults+=("$1"); shift; done
  shift
  case ${1:-} in
    -h | --help) sed -n '3,/^set /{/^# /s/^# //p}' "$script"; exit 0 ;;
  esac
  for number in "$@"; do
    [[ $number =~ ^[0-9]+$ ]] || { echo "error: $script: '$number' is no number; see --help" >&2; exit 2; }
  done
  if (($# > ${#defaults[@]})); then
    echo "error: $script: more than ${#defaults[@]} arguments; see --help" >&2
    exit 2
  fi
  numbers=("$@" "${defaults[@]:$#}")
  [[ -x $learner && -x $ckpt ]] || bash launch/build.sh cpu >&2
}

# Waiting threads sleep: ranks share the cores. Nothing of a job that this shell may be part of.
export OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0
if [[ $EUID == 0 ]]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
for variable in "${!OMPI_COMM@}" "${!PMIX_@}" "${!SLURM_@}"; do unset "$variable"; done

failures=0
session=''
processes=()
folder=$(mktemp -d "${TMPDIR:-/tmp}/biqa-chaos.XXXXXX")
run=$folder/run
log=$folder/log
: >"$log"

# Not `read -t`, which needs no process: bash 5.2 now and then goes on with blocked signals behind it, SIGCHLD among them.
nap() {
  local seconds
  printf -v seconds '%d.%03d' $(($1 / 1000)) $(($1 % 1000))
  sleep "$seconds"
}
milliseconds() { now=$((${EPOCHREALTIME/[.,]/} / 1000)); }
random() { drawn=$(((RANDOM * 32768 + RANDOM) % $1)); }

start_job() {  # start_job RANKS KEY=VALUE…
  local ranks=$1 command=() set
  shift
  ((ranks == 1)) || command=(mpirun -np "$ranks" --oversubscribe --bind-to none)
  command+=("${wrapper[@]}" "$learner" --config configs/quickstart.yaml)
  for set in train.out="$run" data.eval=[] rollout.images_per_step=2 rollout.group_size=2 model.threads=1 \
    train.progress=false checkpoint.keep=2 train.steps=1000000 "$@"; do
    command+=(--set "$set")
  done
  : >"$folder/began"
  : >"$log"  # the job may be killed before it does so
  setsid "${command[@]}" </dev/null >"$log" 2>&1 &
  session=$!
}
wrapper=()

job_processes() {
  local stat line fields
  processes=()
  for stat in /proc/[0-9]*/stat; do
    { read -r line <"$stat"; } 2>/dev/null || continue
    read -r -a fields <<<"${line##*) }"
    [[ ${fields[3]} == "$session" && ${fields[0]} != [ZX] ]] || continue
    stat=${stat%/stat}
    processes+=("${stat#/proc/}")
  done
}

process_of_rank() {
  local one
  job_processes
  for one in "${processes[@]}"; do
    if grep -qzxF "OMPI_COMM_WORLD_RANK=$1" "/proc/$one/environ" 2>/dev/null; then
      process=$one
      return 0
    fi
  done
  return 1
}

# A dead child still answers kill -0 until the shell has noticed.
is_running() {
  local line
  { read -r line <"/proc/$session/stat"; } 2>/dev/null || return 1
  [[ ${line##*) } != [ZX]* ]]
}

wait_job() {
  milliseconds
  local end=$((now + $1))
  status=''
  while is_running; do
    milliseconds
    ((now < end)) || return 1
    nap 10
  done
  status=0
  wait "$session" 2>/dev/null || status=$?
}

# Until COMMAND is true; returns 1 when the job ends by itself or a minute has passed.
look_every=5  # milliseconds
wait_for() {  # wait_for COMMAND…
  milliseconds
  local end=$((now + 60000))
  until "$@"; do
    milliseconds
    ((now < end)) && is_running || return 1
    nap "$look_every"
  done
}

kill_job() {
  [[ -n $session ]] || return 0
  {  # without the shell's word of every death
    kill -KILL "$session" || true
    for (( ; ; )); do
      job_processes
      ((${#processes[@]} > 0)) || break
      kill -KILL "${processes[@]}" || true
      nap 5
    done
    wait "$session" || true
  } 2>/dev/null
  session=''
}

not_ok() {
  failures=$((failures + 1))
  echo "   FAILED  $1"
  grep -vE 'teaches nothing|teach little|^-+$|^$' "$log" | tail -n 12 | sed "s|$folder/||g; s/^/   | /" || true
}

# ---- what lies in the run folder
# The job has dropped the lines of what it does again.
has_opened() { [[ $run/config.yaml -nt $folder/began ]]; }
last_step() {  # `last`: the step of the last whole line of metrics.jsonl
  last=0
  [[ -s $run/metrics.jsonl ]] || return 0
  last=$(tail -n 2 "$run/metrics.jsonl" | sed -n 's/^{"step":\([0-9]*\),.*}$/\1/p' | tail -n 1)
  last=${last:-0}
}
list_checkpoints() {  # `checkpoints`: folders, newest last
  local found=("$run"/checkpoints/step-*)
  checkpoints=()
  [[ ! -d ${found[0]} ]] || checkpoints=("${found[@]}")
}
step_of() {  # `step` of a checkpoint's folder
  step=${1##*/step-}
  step=$((10#$step))
}
list_partial() {  # `partial`: what a save has begun
  local found=("$run"/checkpoints/.step-*.partial)
  partial=()
  [[ ! -d ${found[0]} ]] || partial=("${found[@]}")
}
resumed_step() {  # `resumed`, as the job says
  resumed=$(sed -n 's/.*resuming from .* after step \([0-9]*\)$/\1/p' "$log" | head -n 1)
  resumed=${resumed:-none}
}
# Every step once, and all of its trajectories.
check_lines() {  # check_lines TRAJECTORIES
  local wrong
  wrong=$(sed -n 's/^{"step":\([0-9]*\),.*}$/\1/p' "$run/metrics.jsonl" |
    awk '$1 != NR { print "metrics.jsonl: line " NR " is of step " $1; exit }')
  [[ -z $wrong ]] || not_ok "$wrong"
  wrong=$(sed -n 's/^{"step":\([0-9]*\),.*}$/\1/p' "$run/samples.jsonl" | awk -v each="$1" '
    $1 != int((NR - 1) / each) + 1 { print "samples.jsonl: line " NR " is of step " $1; exit }')
  [[ -z $wrong ]] || not_ok "$wrong"
}

cleanup() {
  local status=$?
  # A job that gets a signal before it is more than a copy of this shell.
  [[ $BASHPID == "$$" ]] || exit "$status"
  trap '' INT TERM
  kill_job
  before_removal
  rm -rf "$folder"
  exit "$status"
}
before_removal() { :; }  # for a script to replace
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
