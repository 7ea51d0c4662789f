#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: launch/bundle.sh [--build FOLDER] [--out FOLDER]
# Makes a folder of at most 60 MiB (default: build/bundle) that checks the CUDA backend on a GPU machine without compilers or
# packages. Copy the folder to that machine and run `bash FOLDER/run.sh` there.
# The folder holds tests/gpu.sh, programs and GPU tests of a build, their libraries, Open MPI's plug-ins and the tiny model.
# The build is build/cuda by default; make it with `launch/build.sh cuda --tests`.
# cuBLASLt, cuDNN and NCCL are not in the folder. run.sh looks for them on the GPU machine: in LD_LIBRARY_PATH, in the CUDA
# toolkit and in Python's nvidia-* packages. That machine needs the same version of glibc as this one, or a later one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

build=build/cuda
out=build/bundle
while [[ $# -gt 0 ]]; do
  case $1 in
    --build) build=${2:?--build needs a folder}; shift ;;
    --out) out=${2:?--out needs a folder}; shift ;;
    -h | --help) sed -n '3,9s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "error: launch/bundle.sh: unknown argument $1; see launch/bundle.sh --help" >&2; exit 2 ;;
  esac
  shift
done
programs=(biqa_learner biqa_trace biqa_score biqa_bench biqa_random_model)
tests=(ops_op_cases_test ops_products_test ops_attention_test ops_head_test ops_lora_test ops_rows_test
  ops_cuda_tile_attention_test ops_cuda_tile_attention_backward_test ops_cuda_tile_lora_test
  ops_cuda_tile_heads_test ops_cuda_tile_swiglu_test ops_cuda_vision_attention_test
  model_network_test_cuda model_training_pass_test_cuda model_vision_test_cuda actor_engine_test_cuda
  learner_learner_test_cuda policy_cuda_network_test)
[[ ! -x $build/tests/ops_cuda_device_test ]] || tests+=(ops_cuda_device_test)  # not in emulated builds
for file in "${programs[@]/#/bin/}" "${tests[@]/#/tests/}"; do
  [[ -x $build/$file ]] && continue
  echo "error: launch/bundle.sh: $build/$file is missing; run \`launch/build.sh cuda --tests\`, or name the build by --build" >&2
  exit 1
done

staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
mkdir -p "$staging"/{bin,tests,lib,openmpi,configs,assets} "$out"
cp "${programs[@]/#/$build/bin/}" "$staging/bin/"
cp "${tests[@]/#/$build/tests/}" "$staging/tests/"
cp tests/gpu.sh "$staging/tests/"
cp -r assets/tiny "$staging/assets/"
cp configs/quickstart.yaml "$staging/configs/"

# Open MPI loads its plug-ins from folders below its prefix.
mpi_lib=$(ompi_info --path pkglibdir --parsable 2>/dev/null | sed -n 's/^path:pkglibdir://p')
mpi_data=$(ompi_info --path pkgdatadir --parsable 2>/dev/null | sed -n 's/^path:pkgdatadir://p')
if [[ ! -d $mpi_lib || ! -d $mpi_data ]]; then
  echo "error: launch/bundle.sh: ompi_info does not name Open MPI's folders; install Open MPI (launch/setup.sh)" >&2
  exit 1
fi
cp -rL "$mpi_lib" "$staging/openmpi/lib"
cp -rL "$mpi_data" "$staging/openmpi/share"

# The libraries of the programs and plug-ins, without the C library, the driver, cuBLAS, cuDNN and NCCL.
here='/(libc|libm|libdl|librt|libpthread|libresolv|ld-linux[^/]*|libcuda|libcublas|libcublasLt|libcudnn[^/]*|libnccl)\.so'
for file in "$staging"/bin/* "$staging"/tests/*_test* "$staging"/openmpi/lib/*.so; do ldd "$file" 2>/dev/null || true; done |
  awk '$3 ~ /^\// { print $3 }' | sort -u | { grep -vE "$here" || true; } | while IFS= read -r library; do
  cp -L "$library" "$staging/lib/"
done
strip "$staging"/bin/* "$staging"/tests/*_test* "$staging"/lib/* 2>/dev/null || true

rm -f "$out/files.tar.xz"
tar -C "$staging" -cf - . | xz -3 -T0 >"$out/files.tar.xz"
cat >"$out/run.sh" <<'END'
#!/usr/bin/env bash
# Usage: run.sh [ARGUMENTS OF tests/gpu.sh]
# Unpacks files.tar.xz in its own folder and runs tests/gpu.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
if [[ ! -e files/.whole ]]; then
  rm -rf files
  mkdir files
  if command -v xz >/dev/null; then
    tar -xJf files.tar.xz -C files
  else
    python3 -c 'import tarfile; tarfile.open("files.tar.xz").extractall("files")'
  fi
  touch files/.whole
fi
given=${LD_LIBRARY_PATH:-}
folders=("$PWD/files/lib" ${given:+"$given"})
# Find the libraries that the bundle lacks: known to the loader, in the toolkit, or in Python's packages.
for name in libcublasLt libcudnn libnccl; do
  if ldconfig -p 2>/dev/null | grep -q "$name\.so"; then
    echo "$name: of the system"
    continue
  fi
  found=$(find ${given//:/ } /usr/local/cuda*/lib64 /usr/lib/python3* /usr/local/lib/python3* "$HOME"/.local/lib \
    $(python3 -c 'import site; print(*site.getsitepackages())' 2>/dev/null) -name "$name.so*" 2>/dev/null | sort | tail -n 1 || true)
  echo "$name: ${found:-not found (looked in LD_LIBRARY_PATH, /usr/local/cuda*/lib64 and the folders of Python packages)}"
  [[ -z $found ]] || folders+=("$(dirname "$found")")
done
LD_LIBRARY_PATH=$(IFS=:; echo "${folders[*]}")
export LD_LIBRARY_PATH
export OPAL_PREFIX=$PWD/files/openmpi OPAL_PKGLIBDIR=$PWD/files/openmpi/lib OPAL_PKGDATADIR=$PWD/files/openmpi/share
exec bash files/tests/gpu.sh --build . "$@"
END
megabytes=$(du -sm "$out" | cut -f1)
if ((megabytes > 60)); then
  echo "error: launch/bundle.sh: $out has $megabytes MiB, more than 60" >&2
  exit 1
fi
echo "bundle: $out ($megabytes MiB); there: bash $(basename "$out")/run.sh"
