#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tests/scripts/tutorial.sh BUILD
# Runs every command of docs/tutorial.md, in order, in a temporary folder. The data sets are made of the embedded images, in
# the layout and with the label files of the real ones. Tests need no file outside the project, so this one uses neither real
# data sets nor copies of their structure from elsewhere. The tiny model also knows only the words and the kind of images of
# the embedded set. Exit code 0: every command succeeded and left what the text promises.
set -euo pipefail
build=$(cd "${1:?usage: tests/scripts/tutorial.sh BUILD}" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export BIQA=$PWD
folder=$(mktemp -d "${TMPDIR:-/tmp}/biqa-tutorial.XXXXXX")
trap 'rm -rf "$folder"' EXIT
tiny=$BIQA/assets/tiny

# field NAME: the values of a number or text of the manifest on standard input, one per line.
field() { sed -n "s/.*\"$1\": \"\{0,1\}\([^\",}]*\)\"\{0,1\}[,}].*/\1/p"; }

# ---- KonIQ-10k: 16 training and 12 test images, with the votes of 100 people who agree as far as whole numbers can
koniq=$folder/KonIQ-10k
mkdir -p "$koniq/1024x768" "$folder/Q-Reasoning" "$folder/photos"
echo "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set" >"$koniq/koniq10k_distributions_sets.csv"
add() {  # add IMAGE SCORE NAME SET
  cp "$1" "$koniq/1024x768/$3"
  awk -v score="$2" -v name="$3" -v set="$4" 'BEGIN {
    low = int(score); upper = score - low; printf "%s", name
    for (c = 1; c <= 5; ++c) printf ",%.4f", c == low ? 1 - upper : c == low + 1 ? upper : 0
    printf ",100,%.10f,%.6f,%s\n", 3.91176470588 + (score - 1) / 4 * (88.3888888889 - 3.91176470588), sqrt(upper * (1 - upper)), set
  }' >>"$koniq/koniq10k_distributions_sets.csv"
}
while read -r image score; do add "$tiny/$image" "$score" "1${image//[!0-9]/}.webp" training; done < \
  <(paste -d ' ' <(head -n 16 "$tiny/train.jsonl" | field image) <(head -n 16 "$tiny/train.jsonl" | field score))
while read -r image score; do add "$tiny/$image" "$score" "2${image//[!0-9]/}.webp" test; done < \
  <(paste -d ' ' <(head -n 12 "$tiny/test.jsonl" | field image) <(head -n 12 "$tiny/test.jsonl" | field score))

# ---- Q-Reasoning: the training images again, and 8 other test images, all with texts. The training list has scores from 1 to
# 5, the test list the means of its annotators, from 0 to 4
list() {  # list PREFIX SCORES: the lines of a manifest on standard input, as a list whose images begin with PREFIX
  echo "["
  sed -E 's|.*"image": "[a-z]+/([0-9]+)\.webp", "score": ([0-9.]+),.*"description": "([^"]*)", "good": "([^"]*)", "bad": "([^"]*)".*|\1 \2 "description": "<summarize>-</summarize> <translation>\3</translation>", "good_aspect": "<summarize>-</summarize> <translation>\4</translation>", "bad_aspect": "<summarize>-</summarize> <translation>\5</translation>"|' |
    while read -r number score texts; do
      printf '%s{"image": "%s%s.webp", %s, %s}\n' "${comma-}" "$1" "$number" "$("$2" "$score")" "$texts"
      comma=,
    done
  echo "]"
}
train_scores() { printf '"quality": %s, "normalized_score": %s, "ori_score": %s' "$1" "$1" "$1"; }
test_scores() { awk -v score="$1" 'BEGIN { printf "\"quality\": %.6f", score - 1 }'; }
head -n 16 "$tiny/train.jsonl" | list 1 train_scores >"$folder/Q-Reasoning/mixed_cot.json"
sed -n 21,28p "$tiny/test.jsonl" | list 3 test_scores >"$folder/Q-Reasoning/cot_reasoning_test.json"
mkdir -p "$folder/Q-Reasoning/images"
for image in $(sed -n 21,28p "$tiny/test.jsonl" | field image); do
  cp "$tiny/$image" "$folder/Q-Reasoning/images/3${image//[!0-9]/}.webp"
done

# ---- own photos, with scores from 0 to 100
echo "file,MOS" >"$folder/photos/scores.csv"
while read -r image score; do
  name=${image//[!0-9]/}.webp
  cp "$tiny/$image" "$folder/photos/$name"
  awk -v name="$name" -v score="$score" 'BEGIN { printf "%s,%.4f\n", name, (score - 1) * 25 }' >>"$folder/photos/scores.csv"
done < <(paste -d ' ' <(sed -n 13,20p "$tiny/test.jsonl" | field image) <(sed -n 13,20p "$tiny/test.jsonl" | field score))

# ---- the commands
awk '/^```sh$/ { inside = 1; next } /^```$/ { inside = 0 } inside' docs/tutorial.md >"$folder/commands.sh"
if [[ $(grep -c biqa_ "$folder/commands.sh") -lt 12 ]]; then
  echo "failed: docs/tutorial.md has lost its commands"
  exit 1
fi
# The build under test, in place of the one that the text names.
sed -i "s|\$BIQA/build/cpu/bin|$build/bin|" "$folder/commands.sh"
export BIQA_LEARNER=$build/bin/biqa_learner
cd "$folder"
if ! bash -euo pipefail -x commands.sh >log 2>&1; then
  tail -n 40 log
  echo "failed: the last command above, of docs/tutorial.md"
  exit 1
fi

bad=0
expect() {  # expect WHAT COMMAND...
  "${@:2}" >/dev/null 2>&1 && return
  echo "failed: $1: ${*:2}"
  bad=1
}
expect "16 training rows" test "$(wc -l <study/train.jsonl)" = 16
expect "12 test rows" test "$(wc -l <study/koniq.jsonl)" = 12
expect "8 rows to compare texts with" test "$(grep -c '"description":"the picture' study/texts.jsonl)" = 8
expect "an excess of ROUGE-1 above chance" grep -qE '"rouge1_r_excess": *-?[0-9]' study/full.json
expect "8 own rows, in the set that is named" test "$(grep -c '"set":"own"' study/own.jsonl)" = 8
expect "the own set in the table like pyiqa's" grep -qw own study/pyiqa.csv
expect "texts in the training rows" test "$(grep -c '"description":"the picture' study/train.jsonl)" = 16
expect "both conditions" grep -q '"condition": *"caption"' study/full.json
expect "a cell for each set in the table like pyiqa's" grep -q koniq study/pyiqa.csv
expect "the sweep's table" grep -q without_consistency runs/sweep/table.csv
expect "the report" grep -q '</html>' study/report.html
expect "the adapter for PEFT" test -s study/adapter/adapter_model.safetensors
expect "ratings of the own images" test "$(wc -l <study/photos.csv)" = 9

# The command of the exported folder's model card asks as the run does. Seconds are the last column.
cp photos/"$(sed -n 2p photos/scores.csv | cut -d, -f1)" study/adapter/photo.jpg
card=$(awk '/^```sh$/ { inside = 1; next } /^```$/ { exit } inside' study/adapter/README.md)
command=${card//--model model/--model \"\$BIQA/assets/tiny/model\"}
expect "a command in the model card" test "$(wc -l <<<"$card")" = 1
export PATH=$build/bin:$PATH
rate() { (cd study/adapter && "$@" --format csv) | sed '1d; s/,[^,]*$//'; }
by_card=$(rate bash -euo pipefail -c "$command"' "$@"' card)
expect "a rating by the model card's command" grep -q '^"\{0,1\}photo' <<<"$by_card"
expect "the rating of the run" test "$by_card" = "$(rate biqa_score --adapter "$PWD/runs/full" photo.jpg)"
exit "$bad"
