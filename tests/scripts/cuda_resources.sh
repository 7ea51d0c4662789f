#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tests/scripts/cuda_resources.sh [--check FILE.md] [BUILD]
# Prints the tables of docs/cuda-resources.md for a build with CUDA (build/cuda unless named). ptxas's figures lie beside the
# objects (cmake/keep_ptxas_output.sh), so nothing is compiled and no GPU is needed.
# --check compares with the table in FILE.md instead. It fails if a kernel is missing there or surplus, if spilled bytes or static
# shared memory differ, or if registers differ under the nvcc that FILE.md names. Exit code 77: something is not compared.
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

all=$(figures)
if [[ -z $document ]]; then
  awk -F '\t' '
    !(($1, $2) in seen) { seen[$1, $2] = 1; source[++count] = $1; kernel[count] = $2 }
    { registers[$1, $2, $3] = $4; spilled[$1, $2, $3] = $5; shared[$1, $2, $3] = $6 }
    END {
      print "| source | kernel | registers, sm_80 | sm_90 | bytes spilled, sm_80 | sm_90 | static shared bytes, sm_80 | sm_90 |"
      print "|---|---|---|---|---|---|---|---|"
      for (i = 1; i <= count; ++i) {
        s = source[i]; k = kernel[i]; a = "sm_80"; b = "sm_90"
        printf "| `%s` | `%s` | %s | %s | %s | %s | %s | %s |\n", s, k, registers[s, k, a], registers[s, k, b],
          spilled[s, k, a], spilled[s, k, b], shared[s, k, a], shared[s, k, b]
      }
    }' <<<"$all"
  awk -F '\t' '
    $3 != "sm_80" && $3 != "sm_90" && $5 > 0 {
      if (!rows++) print "\n| source | kernel | architecture | bytes spilled |\n|---|---|---|---|"
      printf "| `%s` | `%s` | %s | %s |\n", $1, $2, $3, $5
    }' <<<"$all"
  echo "made by nvcc $nvcc" >&2
  exit
fi

named=$(grep -oE 'nvcc [0-9]+\.[0-9]+\.[0-9]+' "$document" | head -n 1)
awk -F '\t' -v document="$document" -v built="nvcc $nvcc" -v named="$named" '
  function wrong(text) { print text; ++bad }
  function compare(what, is, where, expected) {
    if (is != expected) wrong(where ": " is " " what ", but " document " says " expected)
  }
  BEGIN {
    while ((getline line <document) > 0) {
      if (line !~ /^\| `[^`]+\.cu` \| `/) continue
      cells = split(line, cell, / *\| */)
      name = cell[2] " " cell[3]
      gsub(/`/, "", name)
      if (cell[4] ~ /^sm_/) {  # of the table of further architectures
        spilled_elsewhere[name, cell[4]] = cell[5]
        continue
      }
      ++rows
      if (name in listed) wrong(name ": more than one row in " document)
      listed[name] = 1
      for (i = 4; i <= cells; ++i) table[name, i] = cell[i]
    }
    if (rows == 0) wrong(document ": no table of kernels")
    first_column["sm_80"] = 4
    first_column["sm_90"] = 5
  }
  {
    name = $1 " " $2
    where = name " on " $3
    built_for[$3] = 1
    found[name] = 1
    if (!(name in listed)) {
      wrong(where ": not in " document)
    } else if ($3 in first_column) {
      c = first_column[$3]
      if (built == named) compare("registers", $4, where, table[name, c])
      compare("bytes spilled", $5, where, table[name, c + 2])
      compare("bytes of static shared memory", $6, where, table[name, c + 4])
    } else {
      compare("bytes spilled", $5, where, spilled_elsewhere[name, $3] + 0)
    }
  }
  END {
    for (name in listed)
      if (!(name in found)) wrong(name ": in " document ", but not in the build")
    if (bad) {
      print "`tests/scripts/cuda_resources.sh` prints the table as it should be"
      exit 1
    }
    for (a in first_column)
      if (!(a in built_for)) missing = missing " " a
    if (missing != "") print "skipped: not compared: the build is not for" missing
    else if (built != named) print "skipped: not compared: " built ", the table is of " named
    else exit 0
    exit 77
  }' <<<"$all"
