#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: bench/scaling.sh [FOLDER]
# Trains configs/quickstart.yaml for a few steps on 1 to 64 ranks of this machine, and on 64 ranks with other roles. Prints a
# row for each case: median seconds of a step, bytes sent per step, peak memory (sum of Pss) and load of the machine. The row
# also has the values that biqa_scale simulates from the runs on one rank, and the ratio measured / simulated.
# The results are corrected for other work on the machine. The seconds of one rank are multiplied by the share of a core that
# the rank received (processor time / wall time). A simulated run has as many cores as the measured run received, at most
# those of the machine. The printed ratio is the median of the ratios of the rounds.
# FOLDER keeps the runs (default: a temporary folder). Environment variables: REPEATS (3) rounds over all cases; STEPS (3)
# of each run, of which the first is not counted; RANKS, the list of numbers of ranks. Takes a few minutes.
# Needs launch/build.sh first; BIQA_BIN names another folder of programs. Ends with an error if a run fails or hangs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repeats=${REPEATS:-3}
steps=${STEPS:-3}
read -r -a counts <<<"${RANKS:-1 2 4 8 16 32 64}"
bin=${BIQA_BIN:-build/cpu/bin}
for program in "$bin/biqa_learner" "$bin/biqa_scale"; do
  [[ -x $program ]] || { echo "error: bench/scaling.sh: no $program; run launch/build.sh" >&2; exit 1; }
done
if [[ -n ${1:-} ]]; then
  folder=$1
  mkdir -p "$folder"
else
  folder=$(mktemp -d)
  echo "runs in $folder"
fi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_WAIT_POLICY=passive

# The largest sum of the ranks' proportional memory that a look every half second finds, KiB.
children() { [[ -z $1 ]] || pgrep -P "$(paste -sd , <<<"$1")" || true; }
watch_memory() {  # watch_memory SHELL FILE: of SHELL's timeout's mpirun's ranks
  local peak=0 sum
  while kill -0 "$1" 2>/dev/null; do
    sum=$(for pid in $(children "$(children "$(children "$1")")"); do cat "/proc/$pid/smaps_rollup" 2>/dev/null || true; done |
      awk '/^Pss:/ { n += $2 } END { print n + 0 }')
    ((sum > peak)) && peak=$sum
    echo "$peak" >"$2"
    sleep 0.5
  done
}

train() {  # train NAME RANKS IMAGES STEPS ROLES PLACEMENT
  local out=$folder/$1.$repeat status=0
  local TIMEFORMAT='%R %U %S'
  cut -d ' ' -f 1 /proc/loadavg >"$out.load"
  (time timeout 300 mpirun -np "$2" --oversubscribe --bind-to none "$bin/biqa_learner" --config configs/quickstart.yaml \
    --set data.eval=[] --set train.steps="$4" --set train.progress=false --set model.threads=1 \
    --set rollout.images_per_step="$3" --set roles="$5" --set placement="$6" --set train.out="$out" >"$out.log" 2>&1) 2>"$out.time" &
  local job=$!
  watch_memory "$job" "$out.kib" &
  local watcher=$!
  wait "$job" || status=$?
  wait "$watcher" || true
  [[ $status == 0 ]] && return
  tail -n 20 "$out.log" >&2
  echo "error: bench/scaling.sh: $2 ranks, roles $5: exit code $status (124: hung for 300 s); $out.log" >&2
  exit 1
}

: >"$folder/cases"
add() {  # add NAME RANKS IMAGES STEPS ROLES PLACEMENT SIMULATED_ROLES
  local IFS='|'
  echo "$*" >>"$folder/cases"
}
add one-image 1 1 12 auto split auto
for ranks in "${counts[@]}"; do add "auto-$ranks" "$ranks" 16 "$steps" auto split auto; done
if [[ " ${counts[*]} " == *" 64 "* ]]; then
  add colocated 64 16 "$steps" auto colocated colocated
  add one-reward 64 16 "$steps" '{actors: 42, rewards: 1, learners: 21}' split 42,1,21
  add four-rewards 64 16 "$steps" '{actors: 39, rewards: 4, learners: 21}' split 39,4,21
  add idle-learners 64 2 "$steps" '{actors: 23, rewards: 1, learners: 40}' split 23,1,40
fi
for ((repeat = 1; repeat <= repeats; ++repeat)); do
  while IFS='|' read -r name ranks images count roles placement _; do
    train "$name" "$ranks" "$images" "$count" "$roles" "$placement" </dev/null
  done <"$folder/cases"
done

python3 - "$folder" "$repeats" "$bin/biqa_scale" <<'PYTHON'
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys

folder, repeats, simulator = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
passes = range(1, repeats + 1)


def steps_of(name, number):
    return (folder / f"{name}.{number}" / "metrics.jsonl").read_text().splitlines()


def cores_of(name, number):
    wall, user, system = (float(word) for word in (folder / f"{name}.{number}.time").read_text().split()[-3:])
    return (user + system) / wall


def quiet(name, number):
    """A run on one rank with its seconds times the share of a core that it got."""
    out = folder / f"{name}.{number}.quiet"
    out.mkdir(exist_ok=True)
    share = min(1.0, cores_of(name, number))
    rows = [json.loads(line) for line in steps_of(name, number)]
    for row in rows:
        row.update({key: value * share for key, value in row.items() if key.endswith("_seconds")})
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for file in ("config.yaml", "samples.jsonl"):
        shutil.copy(folder / f"{name}.{number}" / file, out / file)
    return out


def each(name, suffix):
    return [(folder / f"{name}.{number}.{suffix}").read_text().split() for number in passes]


def simulate(name, number, ranks, roles, images):
    command = [simulator, "--machine", "bench/machines/two_cores.yaml", "--run", quiet("auto-1", number), "--run",
               quiet("one-image", number), "--cores", f"{min(os.cpu_count(), cores_of(name, number)):.3f}",
               "--ranks", ranks, "--roles", roles, "--set", f"images={images}", "--format", "json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def middle_of(rows):
    return {key: statistics.median(row[key] for row in rows) for key, value in rows[0].items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)}


print("| case | ranks | A/R/L | step s (min to max) | rollout | learn | sync | simulated | rollout | learn | publish "
      "| measured / simulated | MiB a step | simulated | memory MiB | start to end s | cores got | load |")
print("|" + "---|" * 18)
kinds = []
for line in (folder / "cases").read_text().splitlines():
    name, ranks, images, _, _, _, roles = line.split("|")
    measured = [[json.loads(text) for text in steps_of(name, number)[1:]] for number in passes]
    simulated = [simulate(name, number, ranks, roles, images) for number in passes]
    ratio = statistics.median(middle_of(rows)["step_seconds"] / model["step_seconds"]
                              for rows, model in zip(measured, simulated))
    rows = [row for each_pass in measured for row in each_pass]
    middle, model = middle_of(rows), middle_of(simulated)
    seconds = [row["step_seconds"] for row in rows]
    memory = max(int(words[0]) for words in each(name, "kib")) / 1024
    wall = statistics.median(float(words[-3]) for words in each(name, "time"))
    load = [float(words[0]) for words in each(name, "load")]
    cores = statistics.median(cores_of(name, number) for number in passes)
    print(f"| {name} | {ranks} | {model['actors']:.0f}/{model['rewards']:.0f}/{model['learners']:.0f} "
          f"| {middle['step_seconds']:.3f} ({min(seconds):.2f} to {max(seconds):.2f}) | {middle['rollout_seconds']:.3f} "
          f"| {middle['learn_seconds']:.3f} | {middle['sync_seconds']:.3f} | {model['step_seconds']:.3f} "
          f"| {model['rollout_seconds']:.3f} | {model['learn_seconds'] + model['reduce_seconds']:.3f} "
          f"| {model['publish_seconds']:.3f} | {ratio:.2f} "
          f"| {middle['traffic_bytes'] / 2**20:.2f} | {model['traffic_bytes'] / 2**20:.2f} | {memory:.0f} | {wall:.1f} "
          f"| {cores:.2f} | {min(load):.0f} to {max(load):.0f} |")
    printed = re.search(r"^traffic of a step, .*?: (.*)$", (folder / f"{name}.1.log").read_text(), re.MULTILINE)
    if printed:
        kinds.append((name, printed[1], simulated[0]["sent_bytes"]))
print()
for name, text, sent in kinds:
    print(f"{name}: traffic of a step: {text}")
    print(f"{name}: simulated:         " + ", ".join(f"{kind} {size / 1024:.1f} KiB" for kind, size in sent.items() if size))
PYTHON
