#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: cmake/keep_ptxas_output.sh COMPILER ARGUMENT... -o OBJECT ...
# Runs a compiler of CUDA sources. Keeps what ptxas says about the kernels in OBJECT.ptxas, for tests/scripts/cuda_resources.sh,
# and passes on all other messages.
set -uo pipefail

object=
previous=
for argument in "$@"; do
  [[ $previous == -o ]] && object=$argument
  previous=$argument
done
[[ -n $object ]] || exec "$@"

"$@" 2>"$object.ptxas"
status=$?
if [[ $status == 0 ]]; then
  grep -vE '^(ptxas info|    [0-9]+ bytes stack frame)' "$object.ptxas" >&2
else
  cat "$object.ptxas" >&2
  rm -f "$object.ptxas"
fi
exit "$status"
