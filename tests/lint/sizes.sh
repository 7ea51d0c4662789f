#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: sizes.sh PROJECT. Prints the functions of more than 80 lines and the files of more than 600 in src/, tools/ and
# bench/. Refuses those that tests/lint/sizes.txt does not list with a reason. Also refuses lines of that list that are no
# longer needed.
set -euo pipefail
cd "${1:?usage: sizes.sh PROJECT}"
folders=()
for folder in src tools bench; do [[ ! -d $folder ]] || folders+=("$folder"); done

find "${folders[@]}" -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | LC_ALL=C sort | xargs awk -v list=tests/lint/sizes.txt '
  # The source is formatted: a function ends at the first brace that stands as far left as its first line.
  BEGIN {
    while ((getline line < list) > 0) {
      if (line ~ /^#/ || line ~ /^[ \t]*$/) continue
      split(line, words, /[ \t]+/)
      allowed[words[1]] = line
    }
  }
  function refuse(where, key, why) {
    if (key in allowed) { used[key] = 1; print allowed[key] " (" why ")"; return }
    printf "%s: %s; split it, or give a reason in tests/lint/sizes.txt\n", where, why
    bad = 1
  }
  function end_of_file() {
    if (file != "" && lines > 600) refuse(file ":" lines, file, lines " lines, more than 600")
  }
  function name_of(text) {
    sub(/\(.*/, "", text)
    sub(/.*[ *&]/, "", text)
    return text
  }
  FNR == 1 { end_of_file(); file = FILENAME; inside = 0; begun = 1 }
  { lines = FNR }
  inside {
    if ($0 == indent "}") {
      if (FNR - first + 1 > 80) refuse(file ":" first, file ":" name, name " has " FNR - first + 1 " lines, more than 80")
      inside = 0
      begun = 1
    } else if ($0 ~ "^" indent "}[;,)]") {
      inside = 0
      begun = 1
    }
    next
  }
  /^[ \t]*(\/\/|#|$)/ || /^ *(public|private|protected):$/ { begun = 1; next }
  begun { first = FNR; text = ""; begun = 0 }
  { text = text $0 }
  /\{$/ {
    if (text ~ /\)/ && text !~ /^ *(namespace|struct|class|enum|union|extern)[ {]/) {
      match(text, /^ */)
      indent = substr(text, 1, RLENGTH)
      name = name_of(text)
      inside = 1
    }
    begun = 1
    next
  }
  /[;}]$/ || /[;}] *\/\// { begun = 1 }
  END {
    end_of_file()
    for (key in allowed) {
      if (!(key in used)) { printf "%s: tests/lint/sizes.txt lists it, but it is short enough or gone; remove the line\n", key; bad = 1 }
    }
    exit bad
  }'
