#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes a bundle of fake programs by launch/bundle.sh and starts its run.sh: what it unpacks, which libraries it takes, and what it
# hands to tests/gpu.sh. Needs neither a build nor a GPU. Ends with 77 where xz or strip is missing.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for tool in xz strip; do
  command -v $tool >/dev/null || { echo "skipped: no $tool here"; exit 77; }
done
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree"/build/{bin,tests} "$tree"/{tools,plug_ins,data,golden,home}

printf '%s\n' '#!/bin/sh' "case \$2 in pkglibdir) echo path:pkglibdir:$tree/plug_ins ;; *) echo path:pkgdatadir:$tree/data ;; esac" \
  >"$tree/tools/ompi_info"
# What the programs need: a version that no machine has.
printf '%s\n' '#!/bin/sh' 'echo "	libcublasLt.so.99 => not found"' 'echo "	libc.so.6 => /lib/libc.so.6 (0x1)"' >"$tree/tools/ldd"
printf '%s\n' '#!/bin/sh' "[ ! -e $tree/known ] || cat $tree/known" >"$tree/tools/ldconfig"
chmod +x "$tree"/tools/*
export PATH=$tree/tools:$PATH HOME=$tree/home
unset LD_LIBRARY_PATH
bundle() { bash "$here/../../launch/bundle.sh" --build "$tree/build" --out "$tree/bundle" "$@" 2>&1; }
# contains TEXT PATTERN
contains() { grep -qE -- "$2" <<<"$1" || { printf '%s\n' "$1" "expected: $2"; exit 1; }; }

for name in biqa_{learner,trace,score,ckpt,bench,random_model}; do cp "$tree/tools/ompi_info" "$tree/build/bin/$name"; done
for name in ops_{op_cases,products,attention,head,lora,rows}_test ops_cuda_tile_{attention,attention_backward,lora,heads,swiglu}_test \
  ops_cuda_vision_attention_test {model_network,model_training_pass,model_vision,actor_engine,learner_learner}_test_cuda \
  policy_cuda_network_test ops_cuda_device_test gpu_measures; do cp "$tree/tools/ompi_info" "$tree/build/tests/$name"; done
contains "$(bundle)" 'comm_nccl_device_test is missing'
cp "$tree/tools/ompi_info" "$tree/build/tests/comm_nccl_device_test"
contains "$(bundle --golden "$tree/golden")" 'has no cases.json'
mkdir "$tree"/golden/{models,adapters,images}
touch "$tree"/golden/{cases.json,compare.py}
contains "$(bundle --golden "$tree/golden")" 'has no traces; --golden needs cases.json compare.py'
mkdir "$tree"/golden/{traces,steps}
touch "$tree/golden/compare_step.py"
contains "$(bundle --golden "$tree/golden")" '^bundle: .*MiB'
# Equal programs are stored once, even those whose bytes do not compress.
plain=$(stat -c %s "$tree/bundle/files.tar.xz")
head -c 5000000 /dev/urandom >"$tree/noise"
for file in "$tree"/build/tests/ops_*_test; do cp "$tree/noise" "$file"; done
contains "$(bundle --golden "$tree/golden")" '^bundle: .*MiB'
(($(stat -c %s "$tree/bundle/files.tar.xz") < plain + 8000000)) || { echo "equal programs are stored several times"; exit 1; }

# run.sh with a gpu.sh that shows what it gets.
run() { bash "$tree/bundle/run.sh" "$@" 2>&1; }
unpacked() {
  run --help >/dev/null || true
  printf '%s\n' 'echo "arguments: $*"; echo "folders: $LD_LIBRARY_PATH"' >"$tree/bundle/files/tests/gpu.sh"
}
unpacked
nothing='libcublasLt.so.99: not found \(looked in LD_LIBRARY_PATH'
output=$(run --parts device)
contains "$output" 'arguments: --build . --golden golden --parts device'
contains "$(echo "$tree"/bundle/files/golden/*)" 'cases.json .*compare_step.py .*steps'
contains "$output" "$nothing"
# Another major version is not taken, and the folder may be a symbolic link.
mkdir "$tree/old" "$tree/real"
touch "$tree/old/libcublasLt.so.12" "$tree/real/libcublasLt.so.99.0.0.19"
ln -s libcublasLt.so.99.0.0.19 "$tree/real/libcublasLt.so.99"
ln -s real "$tree/link"
output=$(LD_LIBRARY_PATH=$tree/old:$tree/link run)
contains "$output" "^libcublasLt.so.99: $tree/link/libcublasLt.so.99, version 99.0.0.19$"
contains "$output" "^folders: .*/files/lib:.*$tree/link"
printf '\tlibcublasLt.so.12 (libc6,x86-64) => /old/libcublasLt.so.12\n' >"$tree/known"
printf '\tlibcublasLt.so.99 (libc6,x86-64) => %s\n' "$tree/real/libcublasLt.so.99" >>"$tree/known"
contains "$(run)" "^libcublasLt.so.99: $tree/real/libcublasLt.so.99, version 99.0.0.19$"
rm "$tree/known"
site=$tree/home/.local/lib/python3.11/site-packages
mkdir -p "$site/nvidia/cublas/lib" "$site/nvidia_cublas-13.1.0.3.dist-info"
touch "$site/nvidia/cublas/lib/libcublasLt.so.99"
echo 'nvidia/cublas/lib/libcublasLt.so.99,sha256=x,1' >"$site/nvidia_cublas-13.1.0.3.dist-info/RECORD"
contains "$(run)" "^libcublasLt.so.99: $site/nvidia/cublas/lib/libcublasLt.so.99, version nvidia_cublas-13.1.0.3$"
