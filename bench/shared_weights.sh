#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: bench/shared_weights.sh MODEL [RANKS]
# Opens the checkpoint folder MODEL on 1 rank and on RANKS ranks (8) of this machine, once with one copy of the weights for
# all and once with a copy each, and prints a line of JSON for each: seconds until all ranks have it, the sum over the
# ranks of their proportional memory (Pss of /proc/PID/smaps_rollup, MiB), the part of that in shared memory, how much of
# the sum came with the model, and tokens per second of all ranks together, one sequence each.
# Needs launch/build.sh first (BIQA_BIN names another folder of programs). Fails when one copy for all saves less than
# three quarters of what further copies cost.
set -euo pipefail
model=${1:?usage: bench/shared_weights.sh MODEL [RANKS]}
ranks=${2:-8}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
program=${BIQA_BIN:-build/cpu/bin}/biqa_shared_weights
[[ -x $program ]] || { echo "error: bench/shared_weights.sh: no $program; run launch/build.sh" >&2; exit 1; }

options=(--oversubscribe --bind-to none)
[[ $(id -u) == 0 ]] && options+=(--allow-run-as-root)
measure() { mpirun "${options[@]}" -np "$1" "$program" --model "$model" --threads 1 "${@:2}"; }
rows=$(measure 1 --private; measure "$ranks" --private; measure "$ranks")
echo "$rows"
python3 - "$rows" <<'PYTHON'
import json
import sys

alone, copies, shared = (json.loads(line)["grown_mib"] for line in sys.argv[1].splitlines())
# A rank without a copy of the weights still brings a tokenizer and its share of libraries.
print(f"memory of the model: {shared / alone:.2f} times that of one rank; with a copy each {copies / alone:.2f} times")
sys.exit(shared - alone > (copies - alone) / 4)
PYTHON
