#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: launch/release.sh [--out FOLDER]
# Writes biqa-VERSION.tar.gz, the sources of the current commit, and its checksum into FOLDER (default: dist). The same commit
# always gives the same bytes. The archive builds without git: its programs still print the commit.
# VERSION is that of CMakeLists.txt; CITATION.cff and the tag of the commit, if it has one, must say the same.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=dist
while [[ $# -gt 0 ]]; do
  case $1 in
    --out) out=${2:?--out needs a folder}; shift ;;
    -h | --help) sed -n '3,6s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "error: launch/release.sh: unknown argument $1; see launch/release.sh --help" >&2; exit 2 ;;
  esac
  shift
done
refuse() {
  echo "error: launch/release.sh: $1" >&2
  exit 1
}
git rev-parse --is-inside-work-tree >/dev/null 2>&1 || refuse "this folder is not a git repository; clone biqa to make a release"
changed=$(git status --porcelain)
[[ -z $changed ]] || refuse "there are changes that are not committed ($(head -n 1 <<<"$changed" | cut -c4-)); commit or stash them"
version=$(sed -n 's/^project(biqa VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
cited=$(sed -n 's/^version: *//p' CITATION.cff)
[[ $version == "$cited" ]] || refuse "CMakeLists.txt says version $version and CITATION.cff says $cited; make them equal"
tag=$(git tag --points-at HEAD | grep -E '^v[0-9]' || true)
[[ -z $tag || $tag == "v$version" ]] || refuse "this commit is tagged $tag, but its version is $version; change one of them"

name=biqa-$version
mkdir -p "$out"
staging=$(mktemp -d "$out/.release.XXXXXX")
trap 'rm -rf "$staging"' EXIT
# Times of files are those of the commit; gzip -n leaves out the name and time of the archive.
git archive --prefix="$name/" HEAD | gzip -9n >"$staging/$name.tar.gz"
(cd "$staging" && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256")
mv "$staging/$name.tar.gz" "$staging/$name.tar.gz.sha256" "$out/"
echo "release: $out/$name.tar.gz, commit $(git rev-parse --short=12 HEAD)${tag:+, tag $tag}"
[[ -n $tag ]] || echo "release: the commit has no tag yet; for a release that others use, tag it: git tag v$version"
