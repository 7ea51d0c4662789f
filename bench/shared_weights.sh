#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: bench/shared_weights.sh MODEL [RANKS]
# Opens the model folder MODEL on this machine three times: on 1 rank, on RANKS ranks (8) with one copy of the weights per
# rank, and on RANKS ranks with one shared copy. Prints a line of JSON for each:
#   load_seconds       time until all ranks have the model
#   pss_mib            proportional memory (Pss of /proc/PID/smaps_rollup), summed over the ranks, MiB
#   pss_shared_mib     the part of pss_mib that is shared memory
#   grown_mib          growth of pss_mib since the start, by the model, the tokenizer and the first tokens
#   tokens_per_second  of all ranks together; each rank decodes one sequence
# Ends with an error if the shared copy saves less than three quarters of the memory of the further copies. Needs
# launch/build.sh first; BIQA_BIN names another folder of programs.
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
