#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tests/scripts/install.sh BUILD
# Installs BUILD into a temporary folder, runs an installed program from there, builds examples/rate against the installed
# package and runs it on the tiny model. Also checks the shell completion. Exit code 0: all of it works.
set -euo pipefail
build=$(cd "${1:?usage: tests/scripts/install.sh BUILD}" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
folder=$(mktemp -d "${TMPDIR:-/tmp}/biqa-install.XXXXXX")
trap 'rm -rf "$folder"' EXIT
prefix=$folder/prefix
bad=0
expect() {  # expect WHAT COMMAND...: what the command before printed is in $folder/previous
  local what=$1
  shift
  touch "$folder/log"
  mv "$folder/log" "$folder/previous"
  if ! "$@" >"$folder/log" 2>&1; then
    echo "failed: $what: $*"
    tail -n 20 "$folder/log"
    bad=1
  fi
}

# Another prefix than the build's, below DESTDIR as a packager would have it: the CMake package must not hold either.
export DESTDIR=$folder/stage
expect "staged installation" cmake --install "$build" --prefix /opt/biqa --component runtime
expect "programs alone" test ! -e "$folder/stage/opt/biqa/lib"
expect "staged development files" cmake --install "$build" --prefix /opt/biqa --component development
unset DESTDIR
expect "the staged completion is a link" test -L "$folder/stage/opt/biqa/share/bash-completion/completions/biqa_score"
mv "$folder/stage/opt/biqa" "$prefix"

quickstart=$prefix/share/biqa/configs/quickstart.yaml
for program in "$prefix"/bin/*; do expect "version of ${program##*/}" "$program" --version; done
expect "plan of the installed configuration" "$prefix/bin/biqa_learner" --config "$quickstart" --dry-run --set "train.out=$folder/run"
expect "no path of the build in the package" bash -c "! grep -rlF -e '$PWD' -e '$build' '$prefix'/lib*/cmake/biqa"
for file in LICENSE README.md CITATION.cff; do expect "$file" test -s "$prefix/share/doc/biqa/$file"; done

# With the compiler of the build, which may not be the system's.
compiler=$(sed -n 's/^CMAKE_CXX_COMPILER:[A-Z]*=//p' "$build/CMakeCache.txt")
expect "configuration of examples/rate" cmake -S examples/rate -B "$folder/rate" -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_PREFIX_PATH="$prefix"
expect "build of examples/rate" cmake --build "$folder/rate"
photo=$prefix/share/biqa/assets/tiny/sample_cat.png
expect "examples/rate" "$folder/rate/rate" "$quickstart" "$photo"
expect "an answer of examples/rate" grep -q '<caption>' "$folder/previous"
expect "examples/rate without a file" bash -c "! '$folder/rate/rate' '$quickstart' no-such.png"
expect "its error line" grep -q '^error: .*no-such.png' "$folder/previous"

if command -v help2man >/dev/null; then
  expect "the name in a manual page" grep -q '^biqa_ckpt .- inspect, verify' "$prefix/share/man/man1/biqa_ckpt.1"
  expect "an exit status in a manual page" grep -q '^0 done, 1 failed' "$prefix/share/man/man1/biqa_score.1"
fi

# shellcheck source=launch/completion.bash
source "$prefix/share/bash-completion/completions/biqa_learner"
complete_words() {  # complete_words PROGRAM WORD BEFORE: what completion offers, in one line
  COMP_CWORD=$([[ $3 == "$1" ]] && echo 1 || echo 2)
  _biqa "$prefix/bin/$1" "$2" "$3"
  echo "${COMPREPLY[*]}"
}
check_completion() {  # check_completion EXPECTED PROGRAM WORD BEFORE
  local got
  got=$(complete_words "${@:2}")
  [[ $got == "$1" ]] && return
  echo "failed: completion of '$2 … $4 $3' offers '$got', not '$1'"
  bad=1
}
check_completion "--dry-run" biqa_learner --dr biqa_learner
check_completion "inspect" biqa_ckpt ins biqa_ckpt
check_completion "table csv json" biqa_ckpt "" --format
check_completion "f32" biqa_score f3 --dtype
check_completion "image caption image,caption" biqa_eval "" --conditions
check_completion "type level reference" biqa_eval "" --by
check_completion "table csv json html" biqa_score "" --format
check_completion "paper released answer-number answer-json" biqa_score "" --prompts
check_completion "koniq10k kadid10k" biqa_data k import
check_completion "pipal pyiqa" biqa_data p import
check_completion "" biqa_ckpt k import
check_completion "" biqa_score f3 --adapter
exit "$bad"
