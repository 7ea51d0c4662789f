#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: launch/container/install.sh PRESET PREFIX
# A step of the Dockerfile: installs what building needs, builds PRESET (cpu or cuda), installs the programs into PREFIX, and
# lists in PREFIX/packages what the programs need where they run.
set -euo pipefail
preset=${1:?usage: launch/container/install.sh PRESET PREFIX}
prefix=${2:?usage: launch/container/install.sh PRESET PREFIX}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bash launch/setup.sh
bash launch/build.sh "$preset" --target biqa_all_programs
cmake --install "build/$preset" --prefix "$prefix" --component runtime --strip
# The packages of the libraries that the programs load; dpkg may know a library below /usr by its path below /.
{
  echo openmpi-bin
  for program in "$prefix"/bin/*; do ldd "$program"; done | awk '$3 ~ /^\// { print $3 }' | sort -u | while IFS= read -r library; do
    library=$(realpath "$library")
    { dpkg-query --search "$library" || dpkg-query --search "${library#/usr}" || true; } 2>/dev/null | cut -d: -f1
  done
} | sort -u | grep -vE '^(libc6|libcublas|libcudnn|libnccl|libcuda|cuda-)' >"$prefix/packages"
for package in libopenmpi libdnnl libhdf5; do
  grep -q "^$package" "$prefix/packages" && continue
  echo "error: launch/container/install.sh: no package $package* among those that the programs load: $(tr '\n' ' ' <"$prefix/packages")" >&2
  exit 1
done
