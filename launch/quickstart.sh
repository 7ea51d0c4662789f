#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: launch/quickstart.sh [--set KEY=VALUE]…
# Shows all of biqa with the tiny Qwen2.5-VL that ships with it. Installs the packages that it needs, builds, trains the model
# on distorted photographs with known scores, and rates a photograph with the result. Takes a few minutes on two cores.
# Safe to repeat: each call makes a new run folder. An interrupted run is resumed instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '3,6s/^# \?//p' "${BASH_SOURCE[0]}"
  exit 0
fi

for ((i = 1; i <= $#; ++i)); do
  case ${!i} in
    --set) ((++i <= $#)) || { echo "error: launch/quickstart.sh: --set needs KEY=VALUE; see launch/quickstart.sh --help" >&2; exit 2; } ;;
    --set=*) ;;
    *) echo "error: launch/quickstart.sh: unknown argument ${!i}; see launch/quickstart.sh --help" >&2; exit 2 ;;
  esac
done

echo "== 1 of 4: packages (launch/setup.sh)"
bash launch/setup.sh
echo "== 2 of 4: build (launch/build.sh cpu)"
bash launch/build.sh cpu

# A finished run has adapter.h5, so the next call needs a new folder. An unfinished run is resumed.
run=runs/quickstart
number=1
while [[ -e $run/adapter.h5 ]]; do
  number=$((number + 1))
  run=runs/quickstart-$number
done

echo "== 3 of 4: training (biqa_learner --config configs/quickstart.yaml, run folder $run)"
started=$SECONDS
status=0
build/cpu/bin/biqa_learner --config configs/quickstart.yaml --set train.out="$run" "$@" || status=$?
if [[ $status == 75 ]]; then
  echo "stopped on request; to resume from the checkpoint in $run, run launch/quickstart.sh again"
fi
[[ $status == 0 ]] || exit "$status"
seconds=$((SECONDS - started))

# field LINE KEY: prints a number of one line of metrics.jsonl.
field() { sed -n "s/.*\"$2\":\([-0-9.e]*\).*/\1/p" <<<"$1"; }
# figure CONDITION DECODING KEY first|last: prints a metric of the first or last evaluation.
figure() {
  local line
  line=$(grep "\"condition\":\"$1\",\"decoding\":\"$2\"" "$run/metrics.jsonl" | { [[ $4 == first ]] && head -n 1 || tail -n 1; })
  printf '%8.3f' "$(field "$line" "$3")"
}
row() {  # row TITLE CONDITION DECODING KEY
  printf '  %-46s %s %s\n' "$1" "$(figure "$2" "$3" "$4" first)" "$(figure "$2" "$3" "$4" last)"
}

echo "== 4 of 4: rating a photograph (biqa_score --adapter $run assets/tiny/sample_cat_dark.png)"
build/cpu/bin/biqa_score --adapter "$run" assets/tiny/sample_cat_dark.png assets/tiny/sample_cat.png

cat <<SUMMARY

What this did, in $seconds seconds: the tiny model wrote $(grep -o '"trajectories":[0-9]*' "$run/metrics.jsonl" | awk -F: '{ n += $2 } END { print n }') answers about
photographs and learned from their rewards. On $(field "$(grep '"eval"' "$run/metrics.jsonl" | tail -n 1)" n) pictures it was not trained on:

  $(printf '%-46s %8s %8s' '' before after)
$(row 'PLCC with the picture, sampled' image sampled plcc)
$(row 'PLCC from its own caption alone, sampled' caption sampled plcc)
$(row 'PLCC with the picture, greedy' image greedy plcc)
$(row 'PLCC from its own caption alone, greedy' caption greedy plcc)
$(row 'ROUGE-1 recall of the human words, sampled' image sampled rouge1_r)
  (PLCC: correlation with the human scores, 1 is perfect agreement)

The run:             $run (metrics.jsonl, samples.jsonl, tensorboard/, adapter/ for PEFT)
Learning curves:     $run/curves.svg
Rate your pictures:  build/cpu/bin/biqa_score --adapter $run photo.jpg
Train another way:   build/cpu/bin/biqa_learner --config configs/quickstart.yaml --set train.seed=1 --set train.out=runs/mine
On several ranks:    launch/local.sh -n 2 configs/quickstart.yaml --set train.out=runs/two
Real data:           configs/koniq.yaml says what it needs; README.md says how to train on it
SUMMARY
