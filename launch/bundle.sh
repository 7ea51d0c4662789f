#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: launch/bundle.sh [--build FOLDER] [--out FOLDER] [--golden FOLDER]
# Makes a folder of at most 60 MiB (default: build/bundle) that checks the CUDA backend on a GPU machine without compilers or
# packages. Copy the folder to that machine and run `bash FOLDER/run.sh` there.
# The folder holds an archive and run.sh. On that machine, run.sh unpacks the archive and needs about 140 MiB of memory for it.
# The archive holds tests/gpu.sh, programs and GPU tests of a build, their libraries, Open MPI's plug-ins and the tiny model.
# --golden adds a folder for the part `golden` of tests/gpu.sh. It must hold cases.json, compare.py, models, adapters, images and
# traces; it may also hold steps and compare_step.py, which are added together.
# The build is build/cuda by default; make it with `BIQA_CUDA_ARCHITECTURES="80;90" launch/build.sh cuda --tests`.
# cuBLASLt, cuDNN and NCCL are not in the folder. run.sh looks for them on the GPU machine: in LD_LIBRARY_PATH, among the
# system's libraries, in the CUDA toolkit and in Python's nvidia-* packages. It takes the major versions that the build needs.
# That machine needs the same version of glibc as this one, or a later one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

build=build/cuda
out=build/bundle
golden=
while [[ $# -gt 0 ]]; do
  case $1 in
    --build) build=${2:?--build needs a folder}; shift ;;
    --out) out=${2:?--out needs a folder}; shift ;;
    --golden) golden=${2:?--golden needs a folder}; shift ;;
    -h | --help) sed -n '3,15s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "error: launch/bundle.sh: unknown argument $1; see launch/bundle.sh --help" >&2; exit 2 ;;
  esac
  shift
done
programs=(biqa_learner biqa_trace biqa_score biqa_ckpt biqa_bench biqa_random_model)
tests=(ops_op_cases_test ops_products_test ops_attention_test ops_head_test ops_lora_test ops_rows_test
  ops_cuda_tile_attention_test ops_cuda_tile_attention_backward_test ops_cuda_tile_lora_test
  ops_cuda_tile_heads_test ops_cuda_tile_swiglu_test ops_cuda_vision_attention_test
  model_network_test_cuda model_training_pass_test_cuda model_vision_test_cuda actor_engine_test_cuda
  learner_learner_test_cuda policy_cuda_network_test gpu_measures)
grep -qs '^BIQA_CUDA_EMULATED:BOOL=ON' "$build/CMakeCache.txt" || tests+=(ops_cuda_device_test comm_nccl_device_test)
for file in "${programs[@]/#/bin/}" "${tests[@]/#/tests/}"; do
  [[ -x $build/$file ]] && continue
  echo "error: launch/bundle.sh: $build/$file is missing; run \`launch/build.sh cuda --tests\`, or name the build by --build" >&2
  exit 1
done

reference=(cases.json compare.py models adapters images traces)
if [[ -n $golden ]]; then
  for name in "${reference[@]}"; do
    [[ -e $golden/$name ]] && continue
    echo "error: launch/bundle.sh: $golden has no $name; --golden needs ${reference[*]}" >&2
    exit 1
  done
  [[ ! -e $golden/steps || ! -e $golden/compare_step.py ]] || reference+=(steps compare_step.py)
fi

staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
mkdir -p "$staging"/{bin,tests,lib,openmpi,configs,assets} "$out"
cp "${programs[@]/#/$build/bin/}" "$staging/bin/"
cp "${tests[@]/#/$build/tests/}" "$staging/tests/"
cp tests/gpu.sh "$staging/tests/"
cp -r assets/tiny "$staging/assets/"
cp configs/quickstart.yaml "$staging/configs/"
grep '^BIQA_CUDA' "$build/CMakeCache.txt" >"$staging/CMakeCache.txt" || true  # tells gpu.sh what build this is
if [[ -n $golden ]]; then
  mkdir "$staging/golden"
  cp -r "${reference[@]/#/$golden/}" "$staging/golden/"
fi

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
for file in "$staging"/bin/* "$staging"/tests/*_{test*,measures} "$staging"/openmpi/lib/*.so; do ldd "$file" 2>/dev/null || true; done |
  sort -u >"$staging/ldd.txt"
awk '$3 ~ /^\// { print $3 }' "$staging/ldd.txt" | sort -u | { grep -vE "$here" || true; } | while IFS= read -r library; do
  cp -L "$library" "$staging/lib/"
done
# The libraries that run.sh must find on the GPU machine, by name with the major version. cuDNN itself loads nvrtc, in the
# version of the CUDA runtime.
awk '$1 ~ /^lib(cublasLt|cudnn|nccl)\.so\.[0-9]+$/ { print $1 } $1 ~ /^libcudart\.so\./ { sub(/cudart/, "nvrtc", $1); print $1 }' \
  "$staging/ldd.txt" | sort -u >"$staging/libraries.txt"
rm "$staging/ldd.txt"
strip "$staging"/bin/* "$staging"/tests/*_{test*,measures} "$staging"/lib/* 2>/dev/null || true

rm -f "$out/files.tar.xz"
# All programs hold the same kernels: a dictionary larger than several programs stores them once.
tar -C "$staging" --sort=name -cf - . | xz --lzma2=preset=2,dict=128MiB -T1 >"$out/files.tar.xz"
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
# An ordinary user's PATH may lack ldconfig.
PATH=$PATH:/usr/sbin:/sbin
known=$(ldconfig -p 2>/dev/null || true)
IFS=: read -r -a given <<<"${LD_LIBRARY_PATH:-}"
IFS=' ' read -r -a sites <<<"$(python3 -c 'import site; print(*site.getsitepackages(), site.getusersitepackages())' 2>/dev/null || true)"
sites+=(/usr/lib/python3* /usr/local/lib/python3* "$HOME"/.local/lib)
folders=("$PWD/files/lib" "${given[@]}")
# version_of FILE: its version, from its real name, from the Python package that lists it, or from the library itself.
version_of() {
  local real record=
  real=$(readlink -f "$1")
  if [[ $real =~ \.so\.([0-9]+\.[0-9.]+)$ ]]; then
    echo "${BASH_REMATCH[1]}"
    return
  fi
  if [[ $real == */nvidia/* ]]; then
    record=$(grep -lF "nvidia/${real##*/nvidia/}," "${real%/nvidia/*}"/nvidia*.dist-info/RECORD 2>/dev/null | head -n 1 || true)
  fi
  if [[ -n $record ]]; then
    basename "$(dirname "$record")" .dist-info
  else
    python3 - "$real" 2>/dev/null <<'PYTHON' || true
import ctypes, os, sys
library, name = ctypes.CDLL(sys.argv[1]), os.path.basename(sys.argv[1])
number = ctypes.c_int()
if "nccl" in name: library.ncclGetVersion(ctypes.byref(number))
elif "cudnn" in name: number.value = library.cudnnGetVersion()
elif "cublasLt" in name: number.value = library.cublasLtGetVersion()
else: sys.exit(1)
print(number.value // 10000, number.value // 100 % 100, number.value % 100, sep=".")
PYTHON
  fi
}
# find_library NAME: its file as the loader would find it, else in the toolkit or in Python's packages.
find_library() {
  local folder
  for folder in "${given[@]}"; do
    [[ ! -e $folder/$1 ]] || { echo "$folder/$1"; return; }
  done
  folder=$(awk -v name="$1" '$1 == name { print $NF; exit }' <<<"$known")
  [[ -z $folder ]] || { echo "$folder"; return; }
  for folder in /usr/local/cuda*/lib64 /usr/local/cuda*/lib; do
    [[ ! -e $folder/$1 ]] || { echo "$folder/$1"; return; }
  done
  find -L "${given[@]}" "${sites[@]}" -name "$1" -print -quit 2>/dev/null || true
}
while IFS= read -r name; do
  found=$(find_library "$name")
  if [[ -z $found ]]; then
    echo "$name: not found (looked in LD_LIBRARY_PATH, ldconfig -p, /usr/local/cuda*/lib64 and the folders of Python's packages)"
    continue
  fi
  version=$(version_of "$found")
  echo "$name: $found, version ${version:-unknown}"
  folders+=("$(dirname "$found")")
done <files/libraries.txt
LD_LIBRARY_PATH=$(IFS=:; echo "${folders[*]}")
export LD_LIBRARY_PATH
[[ ! -e files/golden || " $* " == *" --golden "* ]] || set -- --golden golden "$@"
export OPAL_PREFIX=$PWD/files/openmpi OPAL_PKGLIBDIR=$PWD/files/openmpi/lib OPAL_PKGDATADIR=$PWD/files/openmpi/share
exec bash files/tests/gpu.sh --build . "$@"
END
megabytes=$(du -sm "$out" | cut -f1)
if ((megabytes > 60)); then
  echo "error: launch/bundle.sh: $out has $megabytes MiB, more than 60" >&2
  exit 1
fi
echo "bundle: $out ($megabytes MiB); copy it to the GPU machine and run there: bash $(basename "$out")/run.sh"
