#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: setup.sh PROJECT. Tests launch/setup.sh for each system, with replacements for apt-get, dpkg-query and CMake. The
# script must install packages under the system's names. If it cannot install, it must succeed if CMake finds everything.
set -euo pipefail
setup=${1:?usage: setup.sh PROJECT}/launch/setup.sh
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/bin"
stand_in() { printf '#!/bin/bash\n%s\n' "$2" >"$folder/bin/$1" && chmod +x "$folder/bin/$1"; }
stand_in apt-get 'echo "$@" >>"$FOLDER/installed"; exit "${APT_STATUS:-0}"'
stand_in dpkg-query 'printf "ii %s\n" ${INSTALLED:-bash}'
stand_in sudo 'exec "$@"'
stand_in cmake '[[ -z ${CMAKE_LACKS:-} ]] || { printf "CMake Error at CMakeLists.txt:1 (find_package):\n  Could NOT find %s\n\n" "$CMAKE_LACKS"; exit 1; }'
for tool in ninja g++ pkg-config mpirun; do stand_in "$tool" ''; done
cases=0

# on "OS-RELEASE" ARGUMENT...: runs it on such a system; `status`, `output` and `asked` (of apt-get) are what came of it.
on() {
  cases=$((cases + 1))
  : >"$folder/installed"
  printf '%b' "$1" >"$folder/os-release"
  status=0
  output=$(PATH=$folder/bin:$PATH FOLDER=$folder BIQA_OS_RELEASE=$folder/os-release bash "$setup" "${@:2}" 2>&1) || status=$?
  asked=$(grep '^-q install ' "$folder/installed" || true)
}
bad() {
  printf '%s\nends with %s, asks for: %s\nsays: %s\n' "$1" "$status" "$asked" "$output"
  exit 1
}
asks() { [[ $status == 0 && " $asked " == *" $1 "* ]] || bad "expected: asks for $1"; }
never_asks() { [[ " $asked " != *" $1 "* ]] || bad "expected: does not ask for $1"; }
says() { [[ $output == *"$1"* ]] || bad "expected: says $1"; }

bookworm='ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n'
on "$bookworm"
asks libjpeg62-turbo-dev
never_asks clang-format-14
on "$bookworm" --dev
asks clang-format-14
never_asks clang-14
on "$bookworm" --fuzz
asks clang-14
never_asks clang-tidy-14
on "$bookworm" --dry-run
[[ -z $asked && $status == 0 ]] || bad 'expected: installs nothing'
says libdnnl-dev
on 'ID=debian\nVERSION_ID="13"\nVERSION_CODENAME=trixie\n' --dev
asks libdnnl-dev
asks libjpeg62-turbo-dev
never_asks clang-format-14
never_asks clang-tidy-14
never_asks ''
on 'ID=debian\nVERSION_ID="13"\nVERSION_CODENAME=trixie\n' --fuzz
never_asks clang-14
for ubuntu in 'ID=ubuntu\nVERSION_ID="22.04"\nVERSION_CODENAME=jammy\nUBUNTU_CODENAME=jammy\n' \
  'ID=ubuntu\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\nUBUNTU_CODENAME=noble\n' \
  'ID=linuxmint\nVERSION_ID="22"\nVERSION_CODENAME=wilma\nUBUNTU_CODENAME=noble\n'; do
  on "$ubuntu" --dev
  asks libjpeg-turbo8-dev
  asks clang-tidy-14
  never_asks libjpeg62-turbo-dev
  says untested
done

fedora='ID=fedora\nVERSION_ID=42\nPRETTY_NAME="Fedora Linux 42"\n'
on "$fedora"
[[ -z $asked && $status == 0 ]] || bad 'expected: goes on'
says 'Fedora Linux 42'
CMAKE_LACKS=HDF5 on "$fedora"
[[ -z $asked && $status == 1 && $(grep -c '^error: ' <<<"$output") == 1 ]] || bad 'expected: one error line'
says 'Could NOT find HDF5'
says libhdf5-dev
CMAKE_LACKS=HDF5 on ''
[[ $status == 1 ]] || bad 'expected: an unknown system is an error too'
APT_STATUS=100 on "$bookworm"
[[ $status == 0 ]] || bad 'expected: without packages it goes on with what CMake finds'
APT_STATUS=100 CMAKE_LACKS=dnnl on "$bookworm"
[[ $status == 1 ]] || bad 'expected: an error'
says 'apt-get update failed'

echo "$cases systems judged rightly"
