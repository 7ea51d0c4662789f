#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tests/run.sh [fast|default|rest|full]
#   fast     lint, the CPU build, its tests, and clang-tidy for a minute; use it while you work
#   default  also the sanitizers (addresses, undefined behaviour, threads) and the CUDA build, and clang-tidy for up
#            to five minutes; CI runs this
#   rest     what default leaves out: the tests labelled slow, each fuzz harness for 20 seconds (needs clang 14:
#            launch/setup.sh --fuzz), and the job script on a private Slurm (installs slurm-wlm if it is root)
#   full     default and rest in one run, the CUDA build for all architectures, and clang-tidy for up to an hour; about three
#            hours on 2 cores
# Installs what it needs (launch/setup.sh --dev). Ends with the line `N passed, N failed`; exit code 0 means none failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

level=${1:-default}
case $level in
  fast | default | rest | full) ;;
  -h | --help) sed -n '3,12s/^# \?//p' "${BASH_SOURCE[0]}"; exit 0 ;;
  *) echo "error: tests/run.sh: no level $level; see tests/run.sh --help" >&2; exit 2 ;;
esac

passed=0
failed=0
skipped=0
report=()

stage() { printf '\n== %s (at %d s)\n' "$1" "$SECONDS"; }
failure() {
  failed=$((failed + 1))
  report+=("failed $1")
}

# build PRESET ARGUMENT...: launch/build.sh quietly; its errors on failure.
build() {
  local log=build/$1/build.log
  mkdir -p "build/$1"
  echo "building $1 (10 to 20 minutes on 2 cores if nothing is built yet); progress is in $log"
  if bash launch/build.sh "$@" >"$log" 2>&1; then
    tail -n 1 "$log"
    return 0
  fi
  grep -E '^FAILED: |error:|undefined reference' "$log" | head -n 40
  echo "the whole of it: $log"
  failure "build of $1"
  return 1
}

# run_tests PRESET CTEST-ARGUMENT...: counts every case of every test program.
run_tests() {
  local preset=$1 results=build/$1/tests.xml line total
  shift
  rm -f "$results"
  "${without_randomisation[@]}" ctest --test-dir "build/$preset" --parallel "$(launch/processors.sh)" --output-on-failure \
    --no-tests=error --output-junit "$PWD/$results" --test-output-size-passed 10000000 \
    --test-output-size-failed 10000000 "$@" </dev/null >"build/$preset/tests.log" 2>&1
  local status=$?
  if [[ ! -s $results ]]; then
    tail -n 20 "build/$preset/tests.log"
    failure "tests of $preset: ctest ends with $status and no results"
    return
  fi
  [[ $status == 0 ]] || sed -n '/^ *[0-9]*\/[0-9]* Test .*\*\*\*/,/^ *Start /p' "build/$preset/tests.log" | grep -vE '^\[ +(OK|RUN) ' | head -n 300
  local counted
  counted=$(awk -f tests/count.awk "$results")
  while IFS= read -r line; do
    case $line in
      failed\ *) report+=("failed in $preset: ${line#failed }") ;;
      skipped\ *) report+=("skipped in $preset: ${line#skipped }") ;;
      total\ *)
        read -r -a total <<<"${line#total }"
        passed=$((passed + total[0]))
        failed=$((failed + total[1]))
        skipped=$((skipped + total[2]))
        echo "$preset: ${total[0]} passed, ${total[1]} failed, ${total[2]} skipped"
        ;;
    esac
  done <<<"$counted"
}

tidy() {  # tidy SECONDS
  local output
  output=$(bash tests/lint/tidy.sh build/cpu "$1" 2>&1)
  local status=$? clean found
  printf '%s\n' "$output" | awk '!seen[$0]++'
  if [[ $(tail -n 1 <<<"$output") =~ ^tidy:\ ([0-9]+)\ clean,\ ([0-9]+)\ with ]]; then
    passed=$((passed + BASH_REMATCH[1]))
    failed=$((failed + BASH_REMATCH[2]))
    [[ ${BASH_REMATCH[2]} == 0 ]] || report+=("failed clang-tidy: ${BASH_REMATCH[2]} files, named above")
  elif [[ $status == 77 ]]; then
    skipped=$((skipped + 1))
    report+=("skipped clang-tidy: $(tail -n 1 <<<"$output" | sed 's/^skipped: //')")
  else
    failure "clang-tidy: ends with $status"
  fi
}

slurm() {
  local log=build/slurm.log status last ok bad
  bash tests/slurm/run.sh </dev/null 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  last=$(tail -n 1 "$log")
  if [[ $status == 77 ]]; then
    skipped=$((skipped + 1))
    report+=("skipped Slurm: ${last#skipped: }")
  elif grep -qE '^slurm: [0-9]+ passed, [0-9]+ failed$' "$log"; then
    last=$(grep -E '^slurm: [0-9]+ passed, [0-9]+ failed$' "$log")
    read -r _ ok _ bad _ <<<"$last"
    passed=$((passed + ok))
    failed=$((failed + bad))
    while IFS= read -r last; do report+=("failed in Slurm: $last"); done < <(sed -n 's/^   FAILED  //p' "$log")
    while IFS= read -r last; do
      skipped=$((skipped + 1))
      report+=("skipped Slurm: $last")
    done < <(sed -n 's/^   skipped: //p' "$log")
    [[ $status == 0 || $bad != 0 ]] || failure "Slurm: tests/slurm/run.sh ends with $status"
  else
    failure "Slurm: tests/slurm/run.sh ends with $status and no results: $last"
  fi
}

fuzz() {
  local log=build/fuzz.log status last ok bad
  bash tests/fuzz/run.sh --seconds 20 </dev/null 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  last=$(tail -n 1 "$log")
  if [[ $status == 77 ]]; then
    skipped=$((skipped + 1))
    report+=("skipped fuzzing: ${last#skipped: }")
  elif [[ $last =~ ^fuzz:\ ([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
    ok=${BASH_REMATCH[1]} bad=${BASH_REMATCH[2]}
    passed=$((passed + ok))
    failed=$((failed + bad))
    [[ $bad == 0 ]] || report+=("failed fuzzing: $bad harnesses, named above")
  else
    failure "fuzzing: tests/fuzz/run.sh ends with $status and no results: $last"
  fi
}

stage "packages"
fuzz=()
[[ $level == full || $level == rest ]] && fuzz=(--fuzz)
bash launch/setup.sh --dev "${fuzz[@]}" || exit 1

# Threads that wait must not spin: tests share the cores.
export OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# Open MPI 4's name and 5's for the same.
export OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export LSAN_OPTIONS=suppressions=$PWD/tests/lsan.supp:print_suppressions=0
# Tests of failing allocations want what an allocator does without a sanitizer.
export ASAN_OPTIONS=allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1:allocator_may_return_null=1:suppressions=$PWD/tests/tsan.supp
slow=(--label-exclude '^slow$')
[[ $level == full ]] && slow=()
[[ $level == rest ]] && slow=(--label-regex '^slow$')
# The thread sanitizer of g++ 12 does not know the address layout of newer kernels.
without_randomisation=()

stage "CPU build, lint and tests"
has_cpu_build=no
if build cpu --tests; then
  run_tests cpu "${slow[@]}"
  has_cpu_build=yes
fi

if [[ $level == default || $level == full ]]; then
  stage "address and undefined-behaviour sanitizers"
  build asan --tests && run_tests asan --label-exclude '^(lint|gpu|slow|chaos)$'

  stage "thread sanitizer: the tests that start threads"
  # libgomp is not instrumented, so what it orders would look like races: one OpenMP thread each.
  command -v setarch >/dev/null && without_randomisation=(setarch "$(uname -m)" --addr-no-randomize)
  build tsan --tests --target biqa_thread_tests &&
    OMP_NUM_THREADS=1 run_tests tsan --label-regex '^threads$' --label-exclude '^(mpi|slow)$'
  without_randomisation=()

  stage "CUDA build"
  if command -v "${CUDACXX:-nvcc}" >/dev/null || [[ -x /usr/local/cuda/bin/nvcc ]]; then
    architectures="80;90"  # full: all of them
    [[ $level == full ]] && architectures=
    BIQA_CUDA_ARCHITECTURES=$architectures build cuda --tests --target biqa_all_programs --target biqa_gpu_tests && run_tests cuda --label-regex '^(gpu|resources)$'
  else
    echo "skipped: no nvcc here; the kernels ran in the emulator, as part of the CPU tests"
  fi
fi

if [[ $has_cpu_build == yes && $level != rest ]]; then
  stage "clang-tidy"
  case $level in
    fast) tidy 60 ;;
    # A slow machine checks fewer files, so that the whole run takes about as long as on a fast one.
    default) tidy "$((SECONDS < 2700 ? 300 : SECONDS < 2970 ? 3000 - SECONDS : 30))" ;;
    full) tidy 3600 ;;
  esac
fi

if [[ $level == full || $level == rest ]]; then
  stage "fuzzing"
  fuzz

  stage "Slurm"
  if [[ -x build/cpu/bin/biqa_learner ]]; then slurm; else failure "Slurm: no build/cpu/bin/biqa_learner"; fi
fi

stage "summary"
if [[ $skipped -gt 0 ]]; then
  echo "$skipped skipped, because:"
  printf '%s\n' "${report[@]}" | grep '^skipped' | sort | uniq -c
fi
[[ ${#report[@]} == 0 ]] || printf '%s\n' "${report[@]}" | grep '^failed' || true
echo "$passed passed, $failed failed"
[[ $failed == 0 ]]
