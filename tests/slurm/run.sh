#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tests/slurm/run.sh [NAME…]
# Tests launch/koniq.slurm on a private Slurm with two nodes, which it starts on this machine (tests/slurm/cluster.sh). Trains
# the embedded model on both nodes. The cases are: the time limit, preemption, a request to stop, the loss of a rank or a
# node, repeated failure, cancellation, and a sweep as a job array. Each job that resumed must end with the same bits as one
# that was never interrupted. Takes about seven minutes. NAMEs select cases (the functions below); the default is all. As root it installs
# munge and slurm-wlm if they are missing.
# Ends with `slurm: N passed, N failed`. Exit code 0: none failed; 1: a case failed; 77: skipped because Slurm cannot start
# here, with the reason on the last line. Needs build/cpu/bin/biqa_learner (or the program in BIQA_LEARNER), and for the case
# sweep biqa_sweep next to it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/slurm/cluster.sh
source tests/slurm/cluster.sh

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '3,11s/^# \?//p' "${BASH_SOURCE[0]}"
  exit 0
fi
skip() {
  echo "skipped: $1"
  exit 77
}
export BIQA_LEARNER=${BIQA_LEARNER:-$PWD/build/cpu/bin/biqa_learner}
[[ -x $BIQA_LEARNER ]] || { echo "error: tests/slurm/run.sh: no $BIQA_LEARNER; run launch/build.sh cpu" >&2; exit 1; }

# Nothing of a Slurm or a run that this shell may be part of.
for variable in "${!SLURM_@}" "${!SBATCH_@}" "${!BIQA_@}"; do
  [[ $variable == BIQA_LEARNER ]] || unset "$variable"
done

# ---- packages
missing() {
  local program
  for program in munged slurmctld slurmd sbatch; do command -v "$program" >/dev/null || echo "$program"; done
}
PATH=$PATH:/usr/sbin:/sbin
if [[ -n $(missing) ]]; then
  if [[ $EUID != 0 ]] || ! command -v apt-get >/dev/null; then
    skip "Slurm is not installed ($(missing | tr '\n' ' ')missing), and this is not root with apt-get: install munge and slurm-wlm"
  fi
  echo "slurm: installing munge and slurm-wlm"
  log=$(mktemp)
  apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -q "$@" </dev/null >>"$log" 2>&1; }
  apt_get update || true
  if ! apt_get install --yes --no-install-recommends munge slurm-wlm; then
    tail -n 5 "$log"
    skip "munge and slurm-wlm can't be installed: apt-get fails (above)"
  fi
  rm -f "$log"
  # The test has its own; the system's were not here before.
  [[ ! -d /run/systemd/system ]] || systemctl disable --now --quiet munge slurmctld slurmd || true
fi

# ---- the cluster
folder=$(mktemp -d "${TMPDIR:-/tmp}/biqa-slurm.XXXXXX")
passed=0
failed=0
cleanup() {
  local status=$?
  trap '' INT TERM
  if ! stop_cluster; then
    echo "error: tests/slurm/run.sh: processes of $folder are left: $(cluster_processes | tr '\n' ' ')" >&2
    status=1
  fi
  if [[ $failed -gt 0 || ($status != 0 && $status != 77) ]]; then
    rm -rf build/slurm
    mkdir -p build/slurm
    find "$folder" -maxdepth 1 -name '*.out' -exec cp {} build/slurm/ \;
    find "$folder" -maxdepth 1 -name '*.log' -exec cp {} build/slurm/ \;
    echo "slurm: the logs are in build/slurm"
  fi
  rm -rf "$folder"
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
start_cluster "$folder" || skip "Slurm can't start here: $cluster_problem"
echo "slurm: $(sinfo --version), $(sinfo --noheader --Node --partition=normal --format='%N %T' | tr '\n' ' ')"

# Loopback alone, and no shared memory: its files are named by host, local rank and job, so that those of two "nodes" on
# one machine would be the same.
export OMPI_MCA_btl=self,tcp OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo TMPDIR=$folder/tmp
mkdir -p "$TMPDIR"

# ---- helpers
ok() {
  passed=$((passed + 1))
  echo "   ok      $1"
}
not_ok() {
  failed=$((failed + 1))
  echo "   FAILED  $1"
}
expect() {  # expect WHAT COMMAND...
  local what=$1
  shift
  if "$@"; then ok "$what"; else not_ok "$what"; fi
}
# submit NAME STEPS [SBATCH-OPTION]… [-- SET…]: prints the job's id. BIQA_… variables go with it.
submit() {
  local name=$1 steps=$2 options=() sets=()
  shift 2
  while [[ $# -gt 0 && $1 != -- ]]; do options+=("$1"); shift; done
  for set in train.steps="$steps" train.eval_images=6 rollout.images_per_step=4 rollout.group_size=2 checkpoint.every=10 \
    train.progress=false model.threads=1 "${@:2}"; do
    sets+=(--set "$set")
  done
  BIQA_CONFIG=configs/quickstart.yaml BIQA_OUT=$folder/runs/$name BIQA_STOP_SECONDS=${BIQA_STOP_SECONDS:-25} sbatch --parsable --nodes=2 \
    --job-name="$name" --output="$folder/%x.out" "${options[@]}" launch/koniq.slurm "${sets[@]}"
}
state() { squeue --noheader --jobs="$1" --states=all --format=%T 2>/dev/null; }
log_of() { cat "$folder/$1.out" 2>/dev/null; }
# Not through a pipe: what writes into one that grep has left counts as failed.
said() { grep -qE -- "$2" "$folder/$1.out" 2>/dev/null; }  # said NAME PATTERN
times_said() { log_of "$1" | grep -cE -- "$2" || true; }
# within SECONDS COMMAND...
within() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.3
  done
}
is() { [[ $(state "$1") == "$2" ]]; }
ended() { [[ $(state "$1") =~ ^(COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL|PREEMPTED)$ ]]; }
steps_done() { [[ $(grep -c '"loss"' "$folder/runs/$1/metrics.jsonl" 2>/dev/null || true) -ge $2 ]]; }  # steps_done NAME STEPS
exit_code() { scontrol --oneliner show job "$1" | grep -o ' ExitCode=[0-9:]*' | cut -d= -f2; }
rank_of() {  # rank_of NODE: a learner's process on the node
  local process
  for process in $(node_processes "$1"); do
    if [[ $(readlink -f "/proc/$process/exe") == "$(readlink -f "$BIQA_LEARNER")" ]]; then echo "$process"; fi
  done | head -n 1
}
# The lines of the job's log that tell its story.
story() {
  log_of "$1" | grep -E 'koniq\.slurm:|resuming from|^stopped after|^error:|noticed that|lost communication|CANCELLED|NODE FAIL|PREEMPT' |
    sed "s|$folder/||g; s/^/   | /"
}
# Nor traffic: while a save is under way the learners ask each other whether it has ended.
without_times() { sed -E 's/"(time|traffic_bytes|[a-z0-9]+_seconds)":[-0-9.e+]+,?//g' "$1"; }
same_as() {  # same_as NAME REFERENCE
  local file a=$folder/runs/$1 b=$folder/runs/$2
  for file in adapter.h5 adapter/adapter_model.safetensors samples.jsonl; do
    expect "$1: $file is that of the uninterrupted run, bit for bit" cmp -s "$a/$file" "$b/$file"
  done
  expect "$1: metrics.jsonl too, times and traffic aside" cmp -s <(without_times "$a/metrics.jsonl") <(without_times "$b/metrics.jsonl")
}
went_on() {  # went_on NAME JOB STARTS: at least so many
  expect "$1: the job ends by itself" within 240 ended "$2"
  expect "$1: completed, exit code 0" test "$(state "$2") $(exit_code "$2")" = "COMPLETED 0:0"
  expect "$1: resumed from a checkpoint by itself" said "$1" 'resuming from .*step-[0-9]+ after step'
  expect "$1: started at least $3 times" test "$(times_said "$1" ': job [0-9]+, start ')" -ge "$3"
  story "$1"
}
finished() {  # finished NAME JOB REFERENCE STARTS
  went_on "$1" "$2" "$4"
  same_as "$1" "$3"
}
case_named() { echo "-- $1"; }

# ---- cases
short=120  # steps: about ten seconds or more
reference() {
  local job
  case_named "reference: $short steps without interruption"
  job=$(submit reference $short)
  expect "reference: completes" within 240 ended "$job"
  expect "reference: completed, exit code 0" test "$(state "$job") $(exit_code "$job")" = "COMPLETED 0:0"
  story reference
}

terminated() {
  case_named "terminated: SIGTERM to the batch script"
  local job
  job=$(submit terminated $short)
  expect "terminated: runs" within 120 steps_done terminated 5
  scancel --batch --signal=TERM "$job"
  expect "terminated: the step is finished and saved, exit code 75" within 60 said terminated '^stopped after step'
  expect "terminated: back in the queue" within 30 is "$job" PENDING
  finished terminated "$job" reference 2
}

urgent_job() {
  sbatch --parsable --partition=urgent --nodes=2 --exclusive --job-name=urgent --output="$folder/$1.urgent.out" --wrap='echo urgent job ran'
}
preempted() {
  case_named "preempted: a job of a higher partition needs the nodes"
  local job urgent
  job=$(submit preempted $short)
  expect "preempted: runs" within 120 steps_done preempted 5
  urgent=$(urgent_job preempted)
  expect "preempted: warned, saved" within 60 said preempted '^stopped after step'
  expect "preempted: the urgent job runs" within 60 ended "$urgent"
  expect "preempted: the urgent job got its nodes" grep -q 'urgent job ran' "$folder/preempted.urgent.out"
  finished preempted "$job" reference 2
}

preempted_at_once() {
  case_named "preempted_at_once: the same in a partition without a grace time: Slurm itself requeues"
  local job urgent
  job=$(submit preempted_at_once $short --partition=scavenge)
  expect "preempted_at_once: runs" within 120 steps_done preempted_at_once 15
  urgent=$(urgent_job preempted_at_once)
  expect "preempted_at_once: the urgent job runs" within 60 ended "$urgent"
  finished preempted_at_once "$job" reference 2
}

stuck() {
  case_named "stuck: a learner that does not stop is ended"
  local job
  printf '#!/bin/sh\ntrap "" USR2\necho here\nexec sleep 300\n' >"$folder/stuck"
  chmod +x "$folder/stuck"
  job=$(BIQA_LEARNER=$folder/stuck BIQA_RESTARTS=0 BIQA_STOP_SECONDS=5 submit stuck 5)
  expect "stuck: runs" within 60 said stuck '^here'
  scancel --batch --signal=TERM "$job"
  expect "stuck: ended after its time" within 30 said stuck 'no end of the step within 5 s'
  expect "stuck: ends" within 60 ended "$job"
  expect "stuck: a failure, none of which is requeued here" test "$(state "$job") $(exit_code "$job")" = "FAILED 1:0"
  story stuck
}

rank_dies() {
  case_named "rank_dies: kill -9 of the rank on n2"
  local job
  job=$(submit rank_dies $short)
  expect "rank_dies: runs" within 120 steps_done rank_dies 15
  kill -KILL "$(rank_of n2)"
  expect "rank_dies: counted as a failure" within 120 said rank_dies 'failed with exit code [0-9]+: failure 1 '
  finished rank_dies "$job" reference 2
}

node_dies() {
  case_named "node_dies: kill -9 of all of n2: its slurmd, step manager, launcher and rank"
  local job
  job=$(submit node_dies $short)
  expect "node_dies: runs" within 120 steps_done node_dies 15
  kill_node n2
  expect "node_dies: counted as a failure" within 120 said node_dies 'failed with exit code [0-9]+: failure 1 '
  start_node n2
  finished node_dies "$job" reference 2
}

batch_node_dies() {
  case_named "batch_node_dies: kill -9 of all of n1, the batch script included: Slurm itself requeues"
  local job
  job=$(submit batch_node_dies $short)
  expect "batch_node_dies: runs" within 120 steps_done batch_node_dies 15
  kill_node n1
  sleep 2
  start_node n1
  finished batch_node_dies "$job" reference 2
}

time_limit() {
  case_named "time_limit: one minute, warned 30 s or more before its end"
  # Slurm looks at limits every 30 s: the run must be longer. Unloaded, steps can be faster than in the reference.
  local job long
  long=$(sed -n 's/.*"step_seconds":\([0-9.e-]*\).*/\1/p' "$folder/runs/reference/metrics.jsonl" |
    awk '{ s += $1 } END { n = int(50 * NR / s); if (n < 150) n = 150; if (n > 3000) n = 3000; print n }')
  job=$(submit time_limit "$long" --time=1 --signal=B:USR1@30 -- checkpoint.every=1000000)
  expect "time_limit: warned" within 120 said time_limit 'the time limit is near'
  expect "time_limit: the step is finished and saved" within 60 said time_limit '^stopped after step'
  expect "time_limit: back in the queue" within 30 is "$job" PENDING
  # The second part at one go.
  scontrol update jobid="$job" timelimit=30
  expect "time_limit: the job goes on" within 60 is "$job" RUNNING
  went_on time_limit "$job" 2
  case_named "time_limit: the same $long steps without interruption"
  job=$(submit long_reference "$long" -- checkpoint.every=1000000)
  within 400 ended "$job" || true
  same_as time_limit long_reference
}

always_fails() {
  case_named "always_fails: every start fails; two more are tried"
  local job
  printf '#!/bin/sh\necho "error: this learner: it always fails; that is the test" >&2\nexit 1\n' >"$folder/failing"
  chmod +x "$folder/failing"
  job=$(BIQA_LEARNER=$folder/failing BIQA_RESTARTS=2 submit always_fails 5)
  expect "always_fails: given up" within 120 said always_fails 'failed 3 times without a new checkpoint'
  expect "always_fails: ends" within 30 ended "$job"
  expect "always_fails: failed, exit code 1" test "$(state "$job") $(exit_code "$job")" = "FAILED 1:0"
  expect "always_fails: three starts" test "$(times_said always_fails ', start ')" = 3
  story always_fails
}

usage() {
  case_named "usage: a key that does not exist is not tried again"
  local job
  job=$(submit usage 5 -- train.stepps=3)
  expect "usage: ends" within 60 ended "$job"
  expect "usage: failed, exit code 2" test "$(state "$job") $(exit_code "$job")" = "FAILED 2:0"
  expect "usage: one start" test "$(times_said usage ', start ')" = 1
  story usage
}

submits_itself() {
  case_named "submits_itself: launch/koniq.slurm outside a job, nodes and ranks by variables"
  local job
  job=$(BIQA_NODES=2 BIQA_RANKS_PER_NODE=2 BIQA_CPUS_PER_RANK=1 BIQA_NAME=itself BIQA_CONFIG=configs/quickstart.yaml \
    BIQA_OUT=$folder/runs/itself SBATCH_OUTPUT=$folder/itself.out launch/koniq.slurm --set train.steps=3 \
    --set train.eval_images=6 --set rollout.images_per_step=4 --set rollout.group_size=2 | grep -oE '[0-9]+$')
  expect "submits_itself: ends" within 120 ended "$job"
  expect "submits_itself: completed, exit code 0" test "$(state "$job") $(exit_code "$job")" = "COMPLETED 0:0"
  expect "submits_itself: two ranks on each of two nodes" said itself '4 ranks with 1 threads on 2 nodes'
  expect "submits_itself: the run folder has its result" test -e "$folder/runs/itself/adapter.h5"
  story itself
}

cancelled() {
  case_named "cancelled: SIGHUP saves and goes on, scancel ends the job for good"
  local job saved
  job=$(submit cancelled 2000 -- checkpoint.every=1000000)
  expect "cancelled: runs" within 120 steps_done cancelled 5
  scancel --batch --signal=HUP "$job"
  expect "cancelled: saved on SIGHUP" within 30 test -e "$folder/runs/cancelled/checkpoints/latest"
  saved=$(grep -c '"loss"' "$folder/runs/cancelled/metrics.jsonl")
  expect "cancelled: still running after it" within 30 steps_done cancelled $((saved + 5))
  scancel "$job"
  expect "cancelled: ends" within 60 ended "$job"
  expect "cancelled: cancelled, not requeued" test "$(state "$job")" = CANCELLED
  expect "cancelled: no process is left" within 20 no_ranks
  story cancelled
}
no_ranks() { [[ -z $(rank_of n1)$(rank_of n2) ]]; }

sweep() {
  case_named "sweep: launch/sweep.sh --slurm, an array of two configurations and two seeds, SIGTERM to one task"
  local out=$folder/runs/sweep job call set status=0
  mkdir -p "$folder/configs"
  printf 'base: %s\n' "$PWD/configs/quickstart.yaml" >"$folder/configs/a.yaml"
  printf 'base: a.yaml\nrewards: {format: 0}\n' >"$folder/configs/b.yaml"
  call=(launch/sweep.sh --slurm --out "$out" --seeds 1,2 --jobs 2 "$folder/configs")
  for set in train.steps=60 train.eval_images=6 rollout.images_per_step=4 rollout.group_size=2 checkpoint.every=10 \
    train.progress=false model.threads=1; do
    call+=(--set "$set")
  done
  job=$(BIQA_STOP_SECONDS=25 "${call[@]}" | grep -oE '[0-9]+$')
  expect "sweep: the first task runs" within 120 steps_done sweep/a/seed-1 5
  # Slurm can tell scancel to repeat a signal that it has delivered; scancel then fails if the task has ended meanwhile.
  scancel --batch --signal=TERM "${job}_1" || true
  expect "sweep: it saves on SIGTERM" within 60 grep -qs '^stopped after step' "$out/${job}_1.out"
  expect "sweep: all tasks complete" within 240 all_completed "$job"
  expect "sweep: the stopped task has resumed by itself" grep -qE 'resuming from .*step-[0-9]+ after step' "$out/${job}_1.out"
  local run
  for run in a/seed-1 a/seed-2 b/seed-1 b/seed-2; do
    expect "sweep: $run has its result" test -e "$out/$run/adapter.h5"
  done
  "${call[@]}" >"$folder/sweep.table" 2>"$folder/sweep.out" || status=$?
  expect "sweep: the same command finds nothing to do, exit code 0" test "$status" = 0
  expect "sweep: all runs are finished" said sweep '4 runs: 4 finished, 0 to do'
  expect "sweep: it prints the table" cmp -s "$folder/sweep.table" "$out/table.txt"
}
all_completed() { [[ $(squeue --noheader --jobs="$1" --states=all --format=%T | sort -u) == COMPLETED ]]; }

srun() {
  case_named "srun: BIQA_LAUNCHER=srun, two ranks on one node, SIGTERM"
  if [[ $(command srun --mpi=list 2>&1) != *pmix* ]]; then
    echo "   skipped: this Slurm has no PMIx plugin"
    return
  fi
  local job
  job=$(BIQA_LAUNCHER=srun submit srun $short --nodes=1 --ntasks-per-node=2)
  expect "srun: runs" within 120 steps_done srun 5
  scancel --batch --signal=TERM "$job"
  expect "srun: the step is finished and saved" within 60 said srun '^stopped after step'
  finished srun "$job" reference 2
}

cases=(terminated preempted preempted_at_once rank_dies node_dies batch_node_dies time_limit always_fails stuck usage submits_itself cancelled sweep srun)
[[ $# == 0 ]] || cases=("$@")
reference
for name in "${cases[@]}"; do "$name"; done
echo "slurm: $passed passed, $failed failed"
[[ $failed == 0 ]]
