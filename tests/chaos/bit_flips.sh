#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tests/chaos/bit_flips.sh [FLIPS [TRUNCATIONS [SEED]]]
# Damages the files of a checkpoint, one fault at a time: FLIPS (2000) flipped bits and TRUNCATIONS (200) truncated files.
# `biqa_ckpt verify` and loading must refuse each and name the file. The last line has the count; exit code 0 means that
# all were refused. tests/run.sh runs a shorter version with the other tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
case ${1:-} in -h | --help) sed -n '3,6s/^# //p' "tests/chaos/$(basename "$0")"; exit 0 ;; esac

for number in "${@:1:3}"; do
  [[ $number =~ ^[0-9]+$ ]] || { echo "error: tests/chaos/bit_flips.sh: '$number' is no number; see --help" >&2; exit 2; }
done
test=build/cpu/tests/learner_checkpoint_store_test
[[ -x $test ]] || bash launch/build.sh cpu --tests --target learner_checkpoint_store_test >&2

status=0
output=$(BIQA_BIT_FLIPS=${1:-2000} BIQA_TRUNCATIONS=${2:-200} BIQA_SEED=${3:-1} "$test" \
  --gtest_filter=CheckpointStoreTest.EveryBitFlipAndTruncationIsRefusedByName 2>&1) || status=$?
grep -E 'verify says' <<<"$output" | head -n 20 || true
if ! grep '^bit flips: ' <<<"$output"; then
  printf '%s\n' "$output" | tail -n 20
  echo "bit flips: the test ended with $status before it could count"
fi
exit "$status"
