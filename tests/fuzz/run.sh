#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tests/fuzz/run.sh [--seconds N] [--jobs N|all] [--nice N] [HARNESS]...
# Builds the fuzz harnesses and runs each of them, or those named, for --seconds (20). --jobs of them run at once (default: as
# many as there are cores). Needs clang 14, which launch/setup.sh --fuzz installs. The corpus in build/fuzz/corpus/HARNESS is
# kept between runs. An input that crashes, hangs, leaks or needs too much memory is stored in build/fuzz/findings/HARNESS,
# and the harness continues. `build/fuzz/fuzzers/HARNESS FILE` reproduces the fault. Ends with a table and the line
# `fuzz: N passed, N failed`, which counts harnesses. Exit code 77, with a reason, if there is no clang 14.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

seconds=20
jobs=$(nproc)
niceness=0
chosen=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --seconds) seconds=${2:?--seconds needs a number}; shift ;;
    --jobs) jobs=${2:?--jobs needs a number}; shift ;;
    --nice) niceness=${2:?--nice needs a number}; shift ;;
    -h | --help) sed -n '3,8s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
    -*) echo "error: tests/fuzz/run.sh: unknown argument $1; see tests/fuzz/run.sh --help" >&2; exit 2 ;;
    *) chosen+=("$1") ;;
  esac
  shift
done

if ! command -v clang++-14 >/dev/null; then
  echo "skipped: no clang++-14 here; launch/setup.sh --fuzz installs it"
  exit 77
fi
mkdir -p build/fuzz
if ! bash launch/build.sh fuzz --target biqa_fuzzers >build/fuzz/build.log 2>&1; then
  grep -E '^FAILED: |error:|undefined reference' build/fuzz/build.log | head -n 40
  echo "error: tests/fuzz/run.sh: the build failed; the whole of it is in build/fuzz/build.log" >&2
  exit 1
fi
known=()
for source in tests/fuzz/*/*_fuzz.cpp; do known+=("$(basename "$source" _fuzz.cpp)"); done
[[ ${#chosen[@]} -gt 0 ]] || chosen=("${known[@]}")
for name in "${chosen[@]}"; do
  [[ " ${known[*]} " == *" $name "* ]] && continue
  echo "error: tests/fuzz/run.sh: there is no harness $name, but ${known[*]}" >&2
  exit 2
done
[[ $jobs != all ]] || jobs=${#chosen[@]}
# Seconds of wall time for one input: ten of a core of its own, and more where they share.
timeout=$((10 + 50 * (jobs + $(nproc) - 1) / $(nproc)))

memory=$(mktemp -d "$([[ -w /dev/shm ]] && echo /dev/shm || echo "${TMPDIR:-/tmp}")/biqa_fuzz_XXXXXX")
trap 'rm -rf "$memory"' EXIT
export TMPDIR=$memory
export UBSAN_OPTIONS=print_stacktrace=1 LSAN_OPTIONS=suppressions=$PWD/tests/lsan.supp:print_suppressions=0
export OMP_WAIT_POLICY=passive KMP_BLOCKTIME=0
build/fuzz/bin/fuzz_write_seeds build/fuzz/seeds || exit 1

# fuzz_one HARNESS: until its time is over, however often it finds something; a result in build/fuzz/logs/HARNESS.result.
fuzz_one() {
  local name=$1 corpus=build/fuzz/corpus/$1 findings=build/fuzz/findings/$1 log=build/fuzz/logs/$1.log
  local end=$((SECONDS + seconds)) executions=0 crashes=0 status part options=()
  mkdir -p "$corpus" "$findings" build/fuzz/logs
  : >"$log"
  [[ ! -e tests/fuzz/dictionaries/$name.dict ]] || options+=("-dict=tests/fuzz/dictionaries/$name.dict")
  local inputs=("$corpus" "build/fuzz/seeds/$name")
  [[ ! -d tests/fuzz/inputs/$name ]] || inputs+=("tests/fuzz/inputs/$name")
  while ((SECONDS < end && crashes < 20)); do
    nice -n "$niceness" "build/fuzz/fuzzers/$name" -max_total_time=$((end - SECONDS)) -print_final_stats=1 -timeout="$timeout" -rss_limit_mb=2048 \
      -malloc_limit_mb=128 -reload=0 -artifact_prefix="$findings/" "${options[@]}" "${inputs[@]}" >"$log.part" 2>&1 </dev/null
    status=$?
    cat "$log.part" >>"$log"
    part=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log.part" | tail -n 1)
    executions=$((executions + ${part:-0}))
    [[ $status == 0 ]] && break
    crashes=$((crashes + 1))
  done
  rm -f "$log.part"
  # A child process that reads for a harness (src/io/child.h) also stores its crashes. The harness takes them as refusals.
  ((crashes > 0)) || find "$findings" -type f ! -name 'slow-unit-*' -delete
  # "#123 DONE   cov: 340 ft: 900 corp: 120/34Kb …"
  local last coverage features
  last=$(grep -E '^#[0-9]+.* cov: ' "$log" | tail -n 1)
  coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' <<<"$last")
  features=$(sed -n 's/.* ft: \([0-9]*\) .*/\1/p' <<<"$last")
  echo "$name $executions ${coverage:-0} ${features:-0} $(find "$corpus" -type f | wc -l) $crashes" >"build/fuzz/logs/$name.result"
}
export -f fuzz_one
export seconds niceness timeout
rm -f build/fuzz/logs/*.result
begin=$SECONDS
printf '%s\n' "${chosen[@]}" | xargs -P "$jobs" -I '{}' bash -c 'fuzz_one "$1"' fuzz '{}'

printf '%-22s %12s %8s %9s %7s %8s\n' harness executions edges features corpus crashes
failed=0
for name in "${chosen[@]}"; do
  if ! read -r -a result 2>/dev/null <"build/fuzz/logs/$name.result"; then
    failed=$((failed + 1))
    echo "$name gave no result; see build/fuzz/logs/$name.log"
    continue
  fi
  printf '%-22s %12s %8s %9s %7s %8s\n' "${result[@]}"
  [[ ${result[5]} == 0 ]] || failed=$((failed + 1))
done
echo "$((SECONDS - begin)) s of wall time, $jobs at once, $(nproc) cores"
[[ $failed == 0 ]] || echo "what was found is in build/fuzz/findings, the reports in build/fuzz/logs"
echo "fuzz: $((${#chosen[@]} - failed)) passed, $failed failed"
[[ $failed == 0 ]]
