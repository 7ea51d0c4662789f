#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tests/scripts/release.sh
# Tests launch/release.sh in a temporary clone of this repository: what it refuses, that two runs give the same bytes, and that
# the archive configures without git and knows its commit. Exit code 77: this is not a repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if ! git rev-parse HEAD >/dev/null 2>&1; then
  echo "skipped: this folder is not a git repository"
  exit 77
fi
folder=$(mktemp -d "${TMPDIR:-/tmp}/biqa-release.XXXXXX")
trap 'rm -rf "$folder"' EXIT
git clone -q --no-hardlinks . "$folder/clone"
# The files of this checkout, so that a change can be tested before it is committed.
for file in launch/release.sh CMakeLists.txt CITATION.cff .gitattributes cmake/revision.txt; do cp "$file" "$folder/clone/$file"; done
cd "$folder/clone"
git config user.email tests@example.org
git config user.name tests
git add -A
git commit -q --allow-empty -m "what is tested"

check() {  # check WHAT PATTERN COMMAND...: the command fails and says PATTERN
  local what=$1 pattern=$2 text
  shift 2
  if text=$("$@" 2>&1) || ! grep -qE "$pattern" <<<"$text"; then
    echo "failed: $what: $text"
    exit 1
  fi
}
echo "# a change" >>CMakeLists.txt
check "a change that is not committed" '^error: .*not committed \(CMakeLists.txt\)' bash launch/release.sh --out ../out
git checkout -q CMakeLists.txt
sed -i 's/^version: .*/version: 9.9.9/' CITATION.cff
git commit -qam "another version"
check "two versions" '^error: .*CITATION.cff says 9.9.9' bash launch/release.sh --out ../out
git reset -q --hard HEAD^
git tag v9.9.9
check "the tag of another version" '^error: .*tagged v9.9.9' bash launch/release.sh --out ../out
git tag -d v9.9.9 >/dev/null

bash launch/release.sh --out ../out >"$folder/log"
sleep 1  # gzip and tar write times in seconds
bash launch/release.sh --out ../again >>"$folder/log"
cd "$folder/out"
cmp ./*.tar.gz ../again/*.tar.gz
sha256sum --check --quiet ./*.sha256
tar -xzf ./*.tar.gz
cd biqa-*/
cmake --preset cpu -DBIQA_TESTS=OFF >"$folder/configure.log" 2>&1 || { tail "$folder/configure.log"; exit 1; }
hash=$(git -C "$folder/clone" rev-parse --short=7 HEAD)
if ! grep -q "BIQA_GIT_HASH=.*$hash" build/cpu/build.ninja; then
  echo "failed: the build of the archive does not know its commit $hash: $(grep -o 'BIQA_GIT_HASH=[^ ]*' build/cpu/build.ninja | head -n 1)"
  exit 1
fi
