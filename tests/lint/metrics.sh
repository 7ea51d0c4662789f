#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: metrics.sh PROJECT. Refuses a field of metrics.jsonl or samples.jsonl that has no row in docs/metrics.md.
set -euo pipefail
cd "${1:?usage: metrics.sh PROJECT}"

document=docs/metrics.md
# The code names each field once: visit("name", m.…).
fields=$(grep -rnoE 'visit\("[a-z0-9_]+", m\.' src --include='*.cpp') || {
  echo "src:1: no field of metrics.jsonl found; teach tests/lint/metrics.sh where the code names them now"
  exit 1
}
# Each row of the reward table is three fields.
rewards=$(grep -rnoE '^    \{"[a-z0-9_]+", ' src --include=table.cpp | sed -E 's|^(.*:[0-9]+:).*"([a-z0-9_]+)".*|\1"reward_\2_mean"\n\1"reward_\2_std"\n\1"reward_\2_weight"|' || true)
[[ -z $rewards ]] || fields+=$'\n'$rewards
while IFS= read -r found; do
  name=${found#*\"}
  name=${name%%\"*}
  grep -qE "^\|[^|]*\`$name\`" "$document" || echo "$(cut -d: -f1,2 <<<"$found"): field $name has no row in $document"
done <<<"$fields" | { ! grep . ; }
