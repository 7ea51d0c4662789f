#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tests/scripts/cuda_resources.sh [--check FILE.md] [BUILD]
# Prints the tables of docs/cuda-resources.md for a build with CUDA (build/cuda unless named). ptxas's figures lie beside the
# objects (cmake/keep_ptxas_output.sh), so nothing is compiled and no GPU is needed.
# --check compares with the table in FILE.md instead. It fails if a kernel is missing there or surplus, or if a figure of an
# architecture in the build differs. With another nvcc than FILE.md names, registers are not compared, and a kernel may spill 32
# bytes. Exit code 77: something is not compared.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

document=
if [[ ${1:-} == --check ]]; then
  document=${2:?usage: cuda_resources.sh [--check FILE.md] [BUILD]}
  shift 2
fi
build=${1:-build/cuda}
nvcc=$(sed -n 's/^set(CMAKE_CUDA_COMPILER_VERSION "\(.*\)")$/\1/p' "$build"/CMakeFiles/*/CMakeCUDACompiler.cmake)

# A line `SOURCE KERNEL ARCHITECTURE REGISTERS SPILLED SHARED` per kernel and architecture, with tabs between.
figures() {
  local source files
  for source in src/*/*/*.cu; do
    files=("$build"/CMakeFiles/biqa_*.dir/"$source".o.ptxas)
    if [[ ! -f ${files[0]} ]]; then
      echo "error: cuda_resources.sh: $build has no object of $source; run launch/build.sh cuda" >&2
      return 1
    fi
    c++filt <"${files[0]}" | awk -v source="$(basename "$source")" '
      # The name without namespaces, result and parameters; its template arguments stay.
      function short(name,    depth, at, c) {
        gsub(/\(anonymous namespace\)::|biqa::(cuda::)?/, "", name)
        sub(/^void /, "", name)
        while (gsub(/> >/, ">>", name)) {}
        for (at = length(name); at > 0; --at) {
          c = substr(name, at, 1)
          depth += c == ")" ? 1 : c == "(" ? -1 : 0
          if (depth == 0) return substr(name, 1, at - 1)
        }
        return name
      }
      /Compiling entry function/ {
        architecture = $NF; gsub(/\047/, "", architecture)
        kernel = $0; sub(/.*entry function ./, "", kernel); sub(/\047 for .*/, "", kernel)
        kernel = short(kernel)
        spilled = 0
      }
      /bytes spill stores/ { spilled += $5 + $9 }  # those of functions that are not inlined too
      /Used [0-9]+ registers/ {
        registers = $0; sub(/.*Used /, "", registers); sub(/ .*/, "", registers)
        shared = 0
        if (match($0, /[0-9]+ bytes smem/)) shared = substr($0, RSTART, RLENGTH) + 0
        print source "\t" kernel "\t" architecture "\t" registers "\t" spilled "\t" shared
      }'
  done
}

# Functions of awk. `cell_of`: registers of a thread, and the warps that their number lets a multiprocessor hold. Each of its four
# parts has 16,384 registers, and gives them to warps in units of eight per thread (CUDA C++ Programming Guide, compute capabilities).
shared_code='
  BEGIN { architectures = split("sm_80 sm_86 sm_89 sm_90 sm_100 sm_120", architecture_of, " ") }
  function cell_of(registers, architecture,    most, warps) {
    most = architecture ~ /^sm_(86|89|120)$/ ? 48 : 64
    warps = 4 * int(16384 / (32 * 8 * int((registers + 7) / 8)))
    return registers " (" (warps < most ? warps : most) ")"
  }'

all=$(figures)
if [[ -z $document ]]; then
  awk -F '\t' "$shared_code"'
    !(($1, $2) in seen) { seen[$1, $2] = 1; source[++count] = $1; kernel[count] = $2 }
    {
      cell[$1, $2, $3] = cell_of($4, $3)
      if ($5 > spilled[$1, $2]) spilled[$1, $2] = $5
      if ($6 > shared[$1, $2]) shared[$1, $2] = $6
    }
    END {
      printf "| source | kernel |"
      for (a = 1; a <= architectures; ++a) printf " %s |", architecture_of[a]
      print " bytes spilled | static shared bytes |\n|---|---|---|---|---|---|---|---|---|---|"
      for (i = 1; i <= count; ++i) {
        printf "| `%s` | `%s` |", source[i], kernel[i]
        for (a = 1; a <= architectures; ++a) printf " %s |", cell[source[i], kernel[i], architecture_of[a]]
        printf " %d | %d |\n", spilled[source[i], kernel[i]], shared[source[i], kernel[i]]
      }
    }' <<<"$all"
  echo "made by nvcc $nvcc" >&2
  exit
fi

named=$(grep -oE 'nvcc [0-9]+\.[0-9]+\.[0-9]+' "$document" | head -n 1)
awk -F '\t' -v document="$document" -v built="nvcc $nvcc" -v named="$named" "$shared_code"'
  function wrong(text) { print text; ++bad }
  function compare(what, is, where, expected) {
    if (is != expected) wrong(where ": " what ": " is ", but " document " says " expected)
  }
  BEGIN {
    while ((getline line <document) > 0) {
      if (line !~ /^\| `[^`]+\.cu` \| `/) continue
      split(line, cell, / *\| */)
      name = cell[2] " " cell[3]
      gsub(/`/, "", name)
      ++rows
      if (name in listed) wrong(name ": more than one row in " document)
      listed[name] = 1
      for (a = 1; a <= architectures; ++a) table[name, architecture_of[a]] = cell[3 + a]
      spilled[name] = cell[4 + architectures]
      shared[name] = cell[5 + architectures]
    }
    if (rows == 0) wrong(document ": no table of kernels")
  }
  {
    name = $1 " " $2
    where = name " on " $3
    built_for[$3] = 1
    found[name] = 1
    if (!(name in listed)) {
      wrong(where ": not in " document)
      next
    }
    if (built == named && (name, $3) in table) compare("registers (warps)", cell_of($4, $3), where, table[name, $3])
    allowed = built == named ? spilled[name] : 32
    if ($5 > allowed) wrong(where ": " $5 " bytes spilled, more than " allowed)
    compare("bytes of static shared memory", $6, where, shared[name])
  }
  END {
    for (name in listed)
      if (!(name in found)) wrong(name ": in " document ", but not in the build")
    if (bad) {
      print "`tests/scripts/cuda_resources.sh` prints the table of the build, if that is for all architectures"
      exit 1
    }
    if (!("sm_80" in built_for && "sm_90" in built_for)) print "skipped: not compared: the build is not for sm_80 and sm_90"
    else if (built != named) print "skipped: registers are not compared: " built ", the table is of " named
    else exit 0
    exit 77
  }' <<<"$all"
