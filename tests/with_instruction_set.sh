#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: with_instruction_set.sh SET PROGRAM [ARGUMENT]...
# Runs a test program with the CPU backend limited to an instruction set (a value of ONEDNN_MAX_CPU_ISA). Exit code 77 if
# the processor does not have this instruction set.
set -euo pipefail
set_name=$1
shift
declare -A flag=([SSE41]=sse4_1 [AVX2]=avx2 [AVX512_CORE]=avx512dq [AVX512_CORE_BF16]=avx512_bf16 [AVX512_CORE_AMX]=amx_bf16)
if ! grep -qw "${flag[$set_name]}" /proc/cpuinfo; then
  echo "skipped: this processor has no ${flag[$set_name]}"
  exit 77
fi
ONEDNN_MAX_CPU_ISA=$set_name exec "$@"
