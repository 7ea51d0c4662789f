#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tools/format.sh [--check]. Formats the C++ and CUDA sources in place; --check only names the files that differ.
# Needs clang-format 14, because other versions differ in details.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tests/lint/files.sh

formatter=$(command -v clang-format-14 || true)
if [[ -z $formatter ]]; then
  echo "skipped: clang-format 14 is not installed, and other versions differ in details; launch/setup.sh --dev installs it where the system has it" >&2
  exit 77
fi
files=$(project_files | grep -E '\.(h|cpp|cu|cuh)$')
if [[ ${1:-} == --check ]]; then
  # One line a file; the count of its differences is of no use.
  xargs -r "$formatter" --dry-run --Werror <<<"$files" 2>&1 | sed -nE 's/^([^: ]+):([0-9]+):.*clang-format-violations.*/\1:\2: not formatted; run tools\/format.sh/p' |
    awk -F: '!seen[$1]++' | { ! grep . ; }
elif [[ $# == 0 ]]; then
  xargs -r "$formatter" -i <<<"$files"
else
  echo "usage: tools/format.sh [--check]" >&2
  exit 2
fi
