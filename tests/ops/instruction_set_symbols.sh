#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: instruction_set_symbols.sh OBJECT...
# Checks object files that are compiled for newer processors. None may define a weak function, such as an inline function of
# a header: the linker keeps one copy for the whole program, and an older processor could not run it. Exit code 77 without nm.
set -euo pipefail
command -v nm >/dev/null || { echo "skipped: no nm here"; exit 77; }
[[ $# -gt 0 ]] || { echo "no object files"; exit 1; }
bad=0
for object in "$@"; do
  symbols=$(nm -C "$object")
  [[ $symbols == *" T "* ]] || { echo "$object: defines nothing"; bad=1; }
  # V: weak data, which the sanitizers make.
  while IFS= read -r symbol; do
    echo "$object: ${symbol#* W } is weak; define it in a .cpp file or an anonymous namespace"
    bad=1
  done < <(grep ' W ' <<<"$symbols" || true)
done
[[ $bad == 0 ]] && echo "$# object files define no weak function"
exit $bad
