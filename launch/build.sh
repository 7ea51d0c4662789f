#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: launch/build.sh [cpu|cuda|emulated|asan|tsan|fuzz] [--tests] [--target NAME]...
# Configures and builds a preset of CMakePresets.json into build/PRESET, with the programs in build/PRESET/bin. The default
# preset is cpu. The preset emulated runs the CUDA sources in an emulator on the CPU, for checks without a GPU; it is slow.
# --tests also builds the tests. --target builds only this target.
# BIQA_JOBS limits the number of compilers that run at once (default: from the number of cores and the free memory).
# BIQA_CUDA_ARCHITECTURES, such as "80;90", names the architectures of the preset cuda (default: all from sm_80 on).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=cpu
tests=OFF
targets=()
while [[ $# -gt 0 ]]; do
  case $1 in
    cpu | cuda | emulated | asan | tsan | fuzz) preset=$1 ;;
    --tests) tests=ON ;;
    --target) targets+=(--target "${2:?--target needs a name}"); shift ;;
    -h | --help) sed -n '3,8s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "error: launch/build.sh: unknown argument $1; see launch/build.sh --help" >&2; exit 2 ;;
  esac
  shift
done

for tool in cmake ninja g++; do
  command -v "$tool" >/dev/null && continue
  echo "error: launch/build.sh: $tool is not installed; run launch/setup.sh" >&2
  exit 1
done
if [[ $preset == fuzz ]] && ! command -v clang++-14 >/dev/null; then
  echo "error: launch/build.sh fuzz: clang++-14 is not installed; run launch/setup.sh --fuzz" >&2
  exit 1
fi
if [[ $preset == cuda ]]; then
  nvcc=${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
  if ! command -v "$nvcc" >/dev/null && [[ -n ${CUDACXX:-} ]]; then
    echo "error: launch/build.sh cuda: CUDACXX names $CUDACXX, which is not a program; correct it or unset it" >&2
    exit 1
  fi
  if ! command -v "$nvcc" >/dev/null; then
    echo "error: launch/build.sh cuda: no nvcc on the PATH or in /usr/local/cuda/bin; install CUDA 12.4 or later (docs/cuda.md) or name it by CUDACXX" >&2
    exit 1
  fi
  export CUDACXX=$nvcc
  if [[ ${BIQA_CUDA_ARCHITECTURES:-} == *[,\ ]* ]]; then
    echo "error: launch/build.sh cuda: BIQA_CUDA_ARCHITECTURES=\"$BIQA_CUDA_ARCHITECTURES\": separate the architectures by semicolons, such as \"80;90\"" >&2
    exit 2
  fi
fi

# One compiler uses about 1 GiB of memory.
cores=$(launch/processors.sh)
free_kib=$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo 2>/dev/null || true)
by_memory=$((${free_kib:-$((cores * 1048576))} / 1048576))
jobs=${BIQA_JOBS:-$((by_memory < 1 ? 1 : by_memory < cores ? by_memory : cores))}

options=(-DBIQA_TESTS=$tests)
[[ $preset == cuda && -n ${BIQA_CUDA_ARCHITECTURES:-} ]] && options+=("-DBIQA_CUDA_ARCHITECTURES=$BIQA_CUDA_ARCHITECTURES")
if command -v ccache >/dev/null; then
  options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  [[ $preset == cuda ]] && options+=(-DCMAKE_CUDA_COMPILER_LAUNCHER=ccache)
  # ccache then finds results of other presets and checkouts.
  export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
fi

mkdir -p "build/$preset"
log=build/$preset/configure.log
if ! cmake --preset "$preset" "${options[@]}" >"$log" 2>&1; then
  cat "$log" >&2
  echo "error: launch/build.sh: configuring $preset failed (above and in $log); launch/setup.sh installs what is needed" >&2
  exit 1
fi
cmake --build "build/$preset" --parallel "$jobs" "${targets[@]}"
echo "build: $preset is in build/$preset/bin"
