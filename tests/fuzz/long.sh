#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tests/fuzz/long.sh MINUTES [HARNESS]...
# Runs all fuzz harnesses, or those named, in parallel for MINUTES minutes, at low priority. See tests/fuzz/run.sh.
set -euo pipefail
case ${1:-} in
  -h | --help) sed -n '3,4s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
  '' | *[!0-9]*) echo "error: tests/fuzz/long.sh: give the minutes as a whole number; see tests/fuzz/long.sh --help" >&2; exit 2 ;;
esac
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" --seconds $(($1 * 60)) --jobs all --nice 19 "${@:2}"
