#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: configs.sh BIQA_LEARNER CONFIG... Checks every configuration of the project with the program. Files that a
# configuration names may be missing here (exit code 1), but no key or value may be wrong (exit code 2).
set -euo pipefail
learner=$1
shift
bad=0
for config in "$@"; do
  status=0
  output=$("$learner" --config "$config" --dry-run 2>&1 </dev/null) || status=$?
  [[ $status == 0 || $status == 1 ]] && continue
  echo "$config: biqa_learner --dry-run exits with $status"
  printf '%s\n' "$output"
  bad=1
done
exit $bad
