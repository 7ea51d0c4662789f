#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: launch/setup.sh [--dev] [--fuzz] [--dry-run]
# Installs the packages for building and running biqa, on Debian 12 and 13 and on Ubuntu 22.04 and 24.04.
# --dev also installs the packages of the lint checks, --fuzz also the compiler of the fuzz harnesses.
# On another system, or without the right to install, it runs CMake as a check. If CMake finds everything, the script
# succeeds. Otherwise it lists the packages that are needed. If nothing is missing, it changes nothing.
# --dry-run only prints what is missing. The script does not install CUDA: see docs/cuda.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The names of Debian 12.
packages=(
  build-essential cmake ninja-build pkg-config ccache git
  libdnnl-dev ocl-icd-opencl-dev  # the CMake package of the former asks for the latter
  libopenmpi-dev openmpi-bin
  libhdf5-dev libyaml-cpp-dev nlohmann-json3-dev libxxhash-dev libutf8proc-dev libcminpack-dev
  libgoogle-glog-dev libgflags-dev libfmt-dev
  libjpeg62-turbo-dev libpng-dev libwebp-dev libtiff-dev zlib1g-dev
  libzip-dev libpugixml-dev libmatio-dev
  libgtest-dev libgmock-dev
)
lint_packages=(clang-format-14 clang-tidy-14 libomp-14-dev help2man)
fuzz_packages=(clang-14 libclang-rt-14-dev libomp-14-dev)
# One line per system: code name | title | what was tested there | packages with another name, as OURS=THEIRS. An empty THEIRS
# means that the system does not have the package.
systems=(
  "bookworm|Debian 12|tested|"
  "trixie|Debian 13|tested|clang-format-14= clang-tidy-14= libomp-14-dev= clang-14= libclang-rt-14-dev="
  "jammy|Ubuntu 22.04|untested: only the names of its packages are known|libjpeg62-turbo-dev=libjpeg-turbo8-dev libclang-rt-14-dev=libclang-common-14-dev"
  "noble|Ubuntu 24.04|untested: only the names of its packages are known|libjpeg62-turbo-dev=libjpeg-turbo8-dev"
)

dev=no
fuzz=no
dry_run=no
for argument in "$@"; do
  case $argument in
    --dev) dev=yes ;;
    --fuzz) fuzz=yes ;;
    --dry-run) dry_run=yes ;;
    -h | --help) sed -n '3,8s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "error: launch/setup.sh: unknown argument $argument; see launch/setup.sh --help" >&2; exit 2 ;;
  esac
done
[[ $dev == no ]] || packages+=("${lint_packages[@]}")
[[ $fuzz == no ]] || packages+=("${fuzz_packages[@]}")

# what_cmake_misses: prints what CMake does not find; nothing if it finds everything.
what_cmake_misses() {
  local folder tests=OFF
  [[ $dev == no ]] || tests=ON
  folder=$(mktemp -d)
  cmake --preset cpu -B "$folder" -DBIQA_TESTS=$tests >"$folder/log" 2>&1 ||
    awk '/^-- +.*[Pp]ackage .* found/ { sub(/^-- +/, ""); printf "%s; ", $0 }
      /^CMake Error/ { ++errors; next }
      /^Call Stack/ { exit }
      errors && NF { text = text " " $0; next }
      text != "" { exit }
      END { print text != "" ? text : "it fails" }' "$folder/log" | sed 's/  */ /g; s/^ //'
  rm -rf "$folder"
}
# go_on_without WHY: the script cannot install packages, for the reason WHY. Everything may be installed, so CMake checks.
go_on_without() {
  local tool lacking='' reason=''
  for tool in cmake ninja g++ pkg-config mpirun; do
    command -v "$tool" >/dev/null || lacking+=" $tool"
  done
  if [[ -n $lacking ]]; then reason="not installed:$lacking"; else reason=$(what_cmake_misses); fi
  if [[ -n $reason ]]; then
    echo "error: launch/setup.sh: $1, and something that biqa needs is missing ($reason); install what corresponds to these packages of Debian 12 and run it again: ${packages[*]}" >&2
    exit 1
  fi
  echo "setup: $1, but CMake finds everything: going on"
  exit 0
}

# A derivative names the release whose packages it uses.
release() { (. "${BIQA_OS_RELEASE:-/etc/os-release}" 2>/dev/null && eval "echo \"$1\""); }
codename=$(release '${UBUNTU_CODENAME:-${DEBIAN_CODENAME:-${VERSION_CODENAME:-}}}') || codename=''
title=''
for line in "${systems[@]}"; do
  IFS='|' read -r code name tested renamed <<<"$line"
  [[ $code == "$codename" ]] && title=$name && break
done
if [[ -z $title ]] || ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  go_on_without "the package names of $(release '${PRETTY_NAME:-this system}' || echo 'this system') are unknown here"
fi
for change in $renamed; do
  for i in "${!packages[@]}"; do
    [[ ${packages[i]} != "${change%%=*}" ]] || packages[i]=${change#*=}
    [[ -n ${packages[i]} ]] || unset 'packages[i]'
  done
done

missing=()
installed=$(dpkg-query --show --showformat='${db:Status-Abbrev}${Package}\n' | sed -n 's/^ii //p')
for package in "${packages[@]}"; do
  grep -qx "$package" <<<"$installed" || missing+=("$package")
done
[[ $tested == tested ]] || echo "setup: $title is $tested"
if [[ ${#missing[@]} == 0 ]]; then
  echo "setup: all ${#packages[@]} packages are there"
  exit 0
fi
echo "setup: installing ${#missing[@]} of ${#packages[@]} packages on $title: ${missing[*]}"
[[ $dry_run == no ]] || exit 0
as_root=()
if [[ $EUID != 0 ]]; then
  command -v sudo >/dev/null || go_on_without "packages can't be installed by a user who is not root and has no sudo"
  as_root=(sudo)
fi
apt_get() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q "$@" </dev/null ||
    go_on_without "apt-get $1 failed (above; look at the network and the sources in /etc/apt)"
}
apt_get update
apt_get install --yes --no-install-recommends "${missing[@]}"
echo "setup: done"
