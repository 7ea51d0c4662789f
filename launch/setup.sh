#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: launch/setup.sh [--dev] [--dry-run]
# Installs the Debian 12 packages that building and running biqa needs, and with --dev those of the lint checks. Safe to
# repeat: without anything missing it changes nothing and is done at once. --dry-run only says what is missing.
# CUDA is no part of it: docs/cuda.md.
set -euo pipefail

packages=(
  build-essential cmake ninja-build pkg-config ccache git
  libdnnl-dev ocl-icd-opencl-dev  # the CMake package of the former asks for the latter
  libopenmpi-dev openmpi-bin
  libhdf5-dev libyaml-cpp-dev nlohmann-json3-dev libxxhash-dev libutf8proc-dev
  libgoogle-glog-dev libgflags-dev libfmt-dev
  libjpeg62-turbo-dev libpng-dev libwebp-dev libtiff-dev libexif-dev libstb-dev
  libgtest-dev libgmock-dev libbenchmark-dev
)
dry_run=no
for argument in "$@"; do
  case $argument in
    --dev) packages+=(clang-format-14 clang-tidy-14 libomp-14-dev) ;;
    --dry-run) dry_run=yes ;;
    -h | --help) sed -n '3,6s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "error: launch/setup.sh: unknown argument $argument; see launch/setup.sh --help" >&2; exit 2 ;;
  esac
done

missing=()
if command -v dpkg-query >/dev/null; then
  installed=$(dpkg-query --show --showformat='${db:Status-Abbrev}${Package}\n' | sed -n 's/^ii //p')
  for package in "${packages[@]}"; do
    grep -qx "$package" <<<"$installed" || missing+=("$package")
  done
  if [[ ${#missing[@]} == 0 ]]; then
    echo "setup: all ${#packages[@]} packages are there"
    exit 0
  fi
fi

system=$(. /etc/os-release 2>/dev/null && echo "${ID:-unknown} ${VERSION_ID:-}") || system=unknown
if [[ $system != "debian 12" ]]; then
  echo "error: launch/setup.sh on $system: it knows the package names of Debian 12 alone; install what corresponds to these and go on with launch/build.sh: ${packages[*]}" >&2
  exit 1
fi

echo "setup: installing ${#missing[@]} of ${#packages[@]} packages: ${missing[*]}"
[[ $dry_run == no ]] || exit 0
as_root=()
if [[ $EUID != 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "error: launch/setup.sh: packages are missing and neither is this root nor is there sudo; run it as root" >&2
    exit 1
  fi
  as_root=(sudo)
fi
apt_get() {
  if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q "$@" </dev/null; then
    echo "error: launch/setup.sh: apt-get $1 failed (see above); check the network and /etc/apt/sources.list and run it again" >&2
    exit 1
  fi
}
apt_get update
apt_get install --yes --no-install-recommends "${missing[@]}"
echo "setup: done"
