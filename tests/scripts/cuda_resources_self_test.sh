#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes a small project with a build and changes one thing at a time. cuda_resources.sh must see each change. Needs no nvcc.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
objects=$tree/build/CMakeFiles/biqa_ops.dir/src/ops/cuda
mkdir -p "$tree/tests/scripts" "$tree/src/ops/cuda" "$tree/build/CMakeFiles/3.25.1" "$objects"
cp "$here/cuda_resources.sh" "$tree/tests/scripts/"
touch "$tree/src/ops/cuda/rows.cu"

# ptxas NAME ARCHITECTURE REGISTERS SPILLED SHARED: what it says about a kernel.
ptxas() {
  printf '%s\n' "ptxas info    : Compiling entry function '$1' for '$2'" "ptxas info    : Function properties for $1" \
    "    $4 bytes stack frame, $4 bytes spill stores, 0 bytes spill loads" \
    "ptxas info    : Used $3 registers, used 1 barriers, $5 bytes smem, 424 bytes cmem[0]"
}
kernel=_ZN4biqa4cuda12_GLOBAL__N_111head_kernelINS_4Bf16EEEvNS0_4RowsIKfEEi  # head_kernel<Bf16>
other=_ZN4biqa4cuda12_GLOBAL__N_16kernelEi
table() { bash "$tree/tests/scripts/cuda_resources.sh" build 2>/dev/null; }
# reset: table and build agree again.
reset() {
  echo 'set(CMAKE_CUDA_COMPILER_VERSION "13.0.88")' >"$tree/build/CMakeFiles/3.25.1/CMakeCUDACompiler.cmake"
  {
    ptxas "$kernel" sm_80 40 0 0
    ptxas "$other" sm_80 20 0 8
    ptxas "$kernel" sm_90 41 0 0
    ptxas "$other" sm_90 20 0 8
  } >"$objects/rows.cu.o.ptxas"
  { printf '%s\n' 'Made by nvcc 13.0.88.' ''; table; } >"$tree/table.md"
}
# expect STATUS MESSAGE: what the check ends with and says.
expect() {
  local status=0 output
  output=$(bash "$tree/tests/scripts/cuda_resources.sh" --check table.md build 2>&1) || status=$?
  [[ $status == "$1" && $output == *"$2"* ]] || { echo "ends with $status and says: $output; expected: $1, $2"; exit 1; }
  reset
}
change() { sed -i "$2" "$tree/$1"; }
figures=build/CMakeFiles/biqa_ops.dir/src/ops/cuda/rows.cu.o.ptxas

reset
row='| `rows.cu` | `head_kernel<Bf16>` | 40 (48) |  |  | 41 (40) |  |  | 0 | 0 |'
[[ $(table) == *"$row"* ]] || { echo "no row $row in: $(table)"; exit 1; }
expect 0 ''
change $figures '1,4s/Used 40/Used 48/'
expect 1 'rows.cu head_kernel<Bf16> on sm_80: registers (warps): 48 (40), but table.md says 40 (48)'
change $figures 's/Used 41/Used 48/'
expect 1 'head_kernel<Bf16> on sm_90: registers (warps): 48 (40), but table.md says 41 (40)'
change $figures '1,4s/0 bytes spill loads/16 bytes spill loads/'
expect 1 'head_kernel<Bf16> on sm_80: 16 bytes spilled, more than 0'
change $figures 's/8 bytes smem/1032 bytes smem/'
expect 1 'rows.cu kernel on sm_80: bytes of static shared memory: 1032, but table.md says 8'
change table.md '/head_kernel/d'
expect 1 'rows.cu head_kernel<Bf16> on sm_80: not in table.md'
change $figures "/$other/,+3d"
expect 1 'rows.cu kernel: in table.md, but not in the build'
change table.md '/^|/d'
expect 1 'table.md: no table of kernels'
ptxas "$kernel" sm_120 40 8 0 >>"$tree/$figures"
expect 1 'head_kernel<Bf16> on sm_120: 8 bytes spilled, more than 0'
ptxas "$kernel" sm_120 40 0 0 >>"$tree/$figures"
expect 1 'head_kernel<Bf16> on sm_120: registers (warps): 40 (48), but table.md says'
ptxas "$kernel" sm_120 40 4 0 >>"$tree/$figures"
{ echo 'Made by nvcc 13.0.88.'; table; } >"$tree/table.md"
change $figures 's/ 4 bytes spill stores/ 8 bytes spill stores/'
expect 1 'head_kernel<Bf16> on sm_120: 8 bytes spilled, more than 4'
ptxas _ZN4biqa4cuda12_GLOBAL__N_15smallEi sm_90 16 0 0 >>"$tree/$figures"
ptxas _ZN4biqa4cuda12_GLOBAL__N_15smallEi sm_120 16 0 0 >>"$tree/$figures"
[[ $(table) == *'| `small` |  |  |  | 16 (64) |  | 16 (48) | 0 | 0 |'* ]] || { echo "no limits of warps in: $(table)"; exit 1; }
reset
change table.md '/head_kernel/p'
expect 1 'more than one row in table.md'
rm "$tree/$figures"
expect 1 'build has no object of src/ops/cuda/rows.cu'

# Another nvcc: registers may differ, and a kernel may spill a little.
version=build/CMakeFiles/3.25.1/CMakeCUDACompiler.cmake
change $version 's/13.0.88/13.1.2/' && change $figures 's/Used 40/Used 48/'
expect 77 'skipped: registers are not compared: nvcc 13.1.2, the table is of nvcc 13.0.88'
change $version 's/13.0.88/13.1.2/' && change $figures 's/ 0 bytes spill loads/ 32 bytes spill loads/'
expect 77 'skipped: registers are not compared'
change $version 's/13.0.88/13.1.2/' && change $figures 's/ 0 bytes spill loads/ 36 bytes spill loads/'
expect 1 '36 bytes spilled, more than 32'
change $figures "/'sm_90'/,+3d"
expect 77 'skipped: not compared: the build is not for sm_80 and sm_90'

# The build keeps what ptxas says and passes on everything else.
compile() {  # compile STATUS: its messages
  bash "$here/../../cmake/keep_ptxas_output.sh" bash -c "$(declare -f ptxas); ptxas kernel sm_80 40 0 0 >&2; echo 'x.cu(3): warning' >&2; exit $1" \
    compiler -c x.cu -o "$tree/x.o" 2>&1
}
[[ $(compile 0) == 'x.cu(3): warning' ]] || { echo "a build says: $(compile 0)"; exit 1; }
grep -q 'Used 40 registers' "$tree/x.o.ptxas" || { echo 'no figures are kept'; exit 1; }
if failure=$(compile 3); then echo 'a compiler that fails goes unnoticed'; exit 1; fi
[[ $failure == *warning* && ! -e $tree/x.o.ptxas ]] || { echo "figures of a failed compilation are kept; it says: $failure"; exit 1; }
echo "cuda_resources.sh sees every change"
