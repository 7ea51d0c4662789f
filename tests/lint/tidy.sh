#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tidy.sh BUILD SECONDS. Runs clang-tidy 14 on the .cpp files of the project that BUILD, a finished build, compiles.
# Clean files are recorded in BUILD/tidy. They are checked again only if the file, a header it includes or .clang-tidy has
# changed. After SECONDS it starts no further file. Ends with `tidy: C clean, D with findings, L left out`. Exit code 1 if
# D > 0; 77 without clang-tidy 14, because other versions give other warnings.
set -euo pipefail
build=$(cd "${1:?usage: tidy.sh BUILD SECONDS}" && pwd)
seconds=${2:?usage: tidy.sh BUILD SECONDS}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
cache=$build/tidy
mkdir -p "$cache/clean"
if ! command -v clang-tidy-14 >/dev/null; then
  echo "skipped: clang-tidy 14 is not installed, and other versions have other opinions"
  exit 77
fi

# One line a source: its path and those of the project's headers it includes, as the build has recorded them.
ninja -C "$build" -t deps 2>/dev/null | awk -v root="$root/" '
  function done_with() { if (source != "" && index(source, root) == 1) print source headers; source = headers = "" }
  /^[^ ]/ { done_with(); next }
  NF == 1 {
    path = $1
    if (path !~ /^\//) path = build "/" path
    while (sub(/\/[^\/]+\/\.\.\//, "/", path)) {}
    if (index(path, root) != 1) next
    if (source == "" && path ~ /\.cpp$/) source = path
    else headers = headers " " path
  }
  END { done_with() }' build="$build" | grep -v "^$build/" | LC_ALL=C sort -u >"$cache/sources"

clean=0
: >"$cache/todo"
while read -r -a paths; do
  # A header may be gone since: then the build is stale, and the file is checked anew.
  key=$(cat .clang-tidy "${paths[@]}" 2>/dev/null | sha256sum | cut -c1-32)
  if [[ -e $cache/clean/$key ]]; then
    clean=$((clean + 1))
  else
    printf '%s %s\n' "$key" "${paths[0]}" >>"$cache/todo"
  fi
done <"$cache/sources"

check_one() {  # check_one KEY FILE: prints one word
  (($(date +%s) < deadline)) || { echo left; return; }
  if clang-tidy-14 -p "$build" --quiet --extra-arg=-Wno-unknown-warning-option "$2" >"$cache/$1.log" 2>&1; then
    touch "$cache/clean/$1"
    echo clean
  else
    grep -E '(warning|error): ' "$cache/$1.log" | sed "s|^$root/||" >&2 || echo "${2#"$root/"}: clang-tidy fails" >&2
    echo found
  fi
  rm -f "$cache/$1.log"
}
export -f check_one
export build cache root deadline=$(($(date +%s) + seconds))
results=$(xargs -r -a "$cache/todo" -L 1 -P "$("$root/launch/processors.sh")" bash -c 'check_one "$@"' tidy)
count() { grep -cx "$1" <<<"$results" || true; }
found=$(count found)
echo "tidy: $((clean + $(count clean))) clean, $found with findings, $(count left) left out"
[[ $found == 0 ]]
