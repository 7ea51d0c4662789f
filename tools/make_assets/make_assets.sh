#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the embedded model and its images from scratch: make_assets.sh OUT
#   OUT    folder for model/, train.jsonl + train/, test.jsonl + test/, sample_*.png
#   WORK   (environment) folder for the virtual environment, logs and unrounded weights;
#          default OUT.work. A stage is skipped if its result is already there.
#   PYTHON (environment) a Python with the packages of requirements.txt; default: one is set up in WORK.
set -euo pipefail

if [ $# -ne 1 ] || [ "${1#-}" != "$1" ]; then
  echo "usage: make_assets.sh OUT" >&2
  exit 2
fi
tools=$(cd "$(dirname "$0")" && pwd)
out=$1
work=${WORK:-${out%/}.work}
mkdir -p "$out" "$work"

if [ -z "${PYTHON:-}" ]; then
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install --quiet --requirement "$tools/requirements.txt"
  PYTHON=$work/venv/bin/python
fi

# Runs one stage unless its result is there: stage RESULT SCRIPT [ARGUMENT...]
stage() {
  local result=$1 script=$2
  shift 2
  if [ -e "$result" ]; then
    echo "$script: $result is there already" >&2
    return
  fi
  echo "$script $*" >&2
  "$PYTHON" -B "$tools/$script" "$@"
}

stage "$work/tokenizer/merges.txt" learn_tokenizer.py --out "$work/tokenizer" --seed 3
stage "$work/vision.pt" pretrain_vision.py --out "$work/vision.pt" --seed 1
stage "$work/language.pt" pretrain_text.py --vision "$work/vision.pt" \
  --tokenizer "$work/tokenizer/tokenizer.json" --out "$work/language.pt" --seed 2
stage "$out/model/model.safetensors" save.py --vision "$work/vision.pt" --language "$work/language.pt" \
  --tokenizer "$work/tokenizer" --out "$out/model"
stage "$out/train.jsonl" make_test_set.py --set train --n 384 --out "$out"
stage "$out/test.jsonl" make_test_set.py --set test --n 240 --out "$out"
stage "$out/sample_cat.png" make_samples.py --out "$out"
du -sb "$out" >&2
