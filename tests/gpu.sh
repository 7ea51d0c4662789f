#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tests/gpu.sh [--build FOLDER] [--out FOLDER] [--golden FOLDER] [--parts NAME,...] [--size SIZE] [--seconds N]
# Checks the CUDA backend on this machine's GPU, within nine minutes. Prints one line per part, and writes the same lines to
# gpu.json in the folder of --out.
#   --build    a build with its tests (default: build/cuda, made by `launch/build.sh cuda --tests`). With build/emulated,
#              the script runs without a GPU, slowly
#   --out      folder for logs and gpu.json (default: build/gpu). A relative folder is one of the repository
#   --golden   folder with cases.json and compare.py, which compares the network with the reference. Needs Python with h5py
#   --parts    some of device, operations, products, network, golden, training, sanitizer, speed (default: all)
#   --size     size of the random model that the part `speed` measures: 7B (default), 3B, or tiny for a dry run
#   --seconds  limit for all parts together (default: 540). A part that exceeds its share is stopped and reported as cut
# Exit code 0: no part failed; parts that were not run print the reason. 1: a part failed or was cut, or there is no GPU.
# 2: wrong arguments.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

build=build/cuda
out=build/gpu
golden=
parts=device,operations,products,network,golden,training,sanitizer,speed
size=7B
seconds=540
while [[ $# -gt 0 ]]; do
  case $1 in
    --build | --out | --golden | --parts | --size | --seconds)
      [[ $# -ge 2 ]] || { echo "error: tests/gpu.sh: $1 needs a value" >&2; exit 2; }
      declare "${1#--}=$2"
      shift 2
      ;;
    -h | --help) sed -n '3,14s/^# \?//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "error: tests/gpu.sh: unknown argument $1; see tests/gpu.sh --help" >&2; exit 2 ;;
  esac
done
[[ $seconds =~ ^[0-9]+$ ]] || { echo "error: tests/gpu.sh: --seconds $seconds is not a whole number" >&2; exit 2; }
case $size in
  7B | 3B | tiny) ;;
  *) echo "error: tests/gpu.sh: no size $size; choose 7B, 3B or tiny" >&2; exit 2 ;;
esac
for part in ${parts//,/ }; do
  case $part in
    device | operations | products | network | golden | training | sanitizer | speed) ;;
    *) echo "error: tests/gpu.sh: no part $part; see tests/gpu.sh --help" >&2; exit 2 ;;
  esac
done
if [[ ! -x $build/bin/biqa_learner || ! -d $build/tests ]]; then
  echo "error: tests/gpu.sh: $build has no programs and tests; run \`launch/build.sh cuda --tests\`, or name the build by --build" >&2
  exit 2
fi
mkdir -p "$out" && out=$(CDPATH='' cd -- "$out" && pwd) || exit 2
json=$out/gpu.json
lines=()
failed=0
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# quoted TEXT: a JSON string.
quoted() {
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  printf '"%s"' "$(tr -d '\000-\037' <<<"$text")"
}
# say NAME STATE FIGURES...: a line of the report.
say() {
  local name=$1 state=$2
  shift 2
  printf '%-10s %-8s %4d s  %s\n' "$name" "$state" "$SECONDS" "$*"
  lines+=("  {\"part\": \"$name\", \"state\": \"$state\", \"at_seconds\": $SECONDS, \"text\": $(quoted "$*")}")
  [[ $state == ok || $state == "not run" ]] || failed=1
}
wanted() { [[ ,$parts, == *,$1,* ]]; }
# within NAME SHARE COMMAND...: runs it with its output in NAME.log; 124 where it takes longer than its share or what is left.
within() {
  local name=$1 share=$2 left=$((seconds - SECONDS))
  shift 2
  : >"$out/$name.log"  # no figures of an earlier run
  ((left > 0)) || return 124
  timeout --kill-after=10 "$((share < left ? share : left))" "$@" >"$out/$name.log" 2>&1 </dev/null
}
# state_of STATUS: ok, cut or failed.
state_of() {
  case $1 in
    0) echo ok ;;
    124 | 137) echo cut ;;
    *) echo failed ;;
  esac
}
# run_tests NAME SHARE PROGRAM...: GoogleTest programs one after another; counts their cases.
run_tests() {
  local name=$1 end=$((SECONDS + $2)) program passed=0 bad=0 skipped=0 state=ok status
  shift 2
  : >"$out/$name.log"
  for program in "$@"; do
    [[ -x $build/tests/${program%% *} ]] || continue
    read -r -a words <<<"$program"
    within "$name.one" $((end - SECONDS)) env BIQA_TEST_BACKEND="${backend:-}" "$build/tests/${words[0]}" "${words[@]:1}"
    status=$?
    cat "$out/$name.one.log" >>"$out/$name.log"
    passed=$((passed + $(grep -c '^\[       OK \]' "$out/$name.one.log")))
    skipped=$((skipped + $(grep -c '^\[  SKIPPED \] .* (' "$out/$name.one.log")))
    bad=$((bad + $(grep -c '^\[  FAILED  \] .* (' "$out/$name.one.log")))
    if [[ $status != 0 ]]; then
      state=$(state_of $status)
      grep -m 3 -E 'Failure|Error|error:' "$out/$name.one.log" | sed "s/^/    $program: /"
    fi
  done
  rm -f "$out/$name.one.log"
  [[ $passed != 0 || $state != ok ]] || state=failed
  say "$name" "$state" "$passed passed, $bad failed, $skipped skipped"
}

within start 60 env BIQA_TEST_BACKEND=cuda "$build/tests/ops_rows_test" --gtest_filter='*RmsNorm*'
if [[ $? == 77 ]]; then
  echo "error: tests/gpu.sh: $(sed -n 's/^skipped: //p' "$out/start.log")" >&2
  exit 1
fi

if wanted device; then
  if command -v nvidia-smi >/dev/null; then
    within device 20 nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv,noheader
    say device "$(state_of $?)" "$(head -n 1 "$out/device.log"); $("$build/bin/biqa_learner" --version)"
  else
    say device "not run" "no nvidia-smi here; $("$build/bin/biqa_learner" --version)"
  fi
fi

if wanted operations; then
  backend=cuda
  run_tests operations 120 ops_op_cases_test ops_products_test ops_attention_test ops_head_test ops_lora_test ops_rows_test \
    ops_cuda_tile_attention_test ops_cuda_tile_attention_backward_test ops_cuda_tile_lora_test \
    ops_cuda_tile_heads_test ops_cuda_tile_swiglu_test ops_cuda_vision_attention_test
  backend=
fi

if wanted products; then
  if [[ -x $build/tests/ops_cuda_device_test ]]; then
    within products 90 "$build/tests/ops_cuda_device_test" --gtest_filter='DeviceProducts.*'
    state=$(state_of $?)
    say products "$state" "$(grep -c '^product ' "$out/products.log") products of 7B; algorithms per product:"
    grep '^product ' "$out/products.log" | sed 's/^/    /'
  else
    say products "not run" "$build has no test of cuBLASLt"
  fi
fi

if wanted network; then
  run_tests network 90 model_network_test_cuda model_training_pass_test_cuda model_vision_test_cuda actor_engine_test_cuda \
    learner_learner_test_cuda policy_cuda_network_test
fi

if wanted golden; then
  if [[ -z $golden ]]; then
    say golden "not run" "no --golden"
  elif ! python3 -c 'import h5py' 2>/dev/null; then
    say golden "not run" "Python has no h5py"
  else
    within golden 60 python3 "$golden/compare.py" "$golden" --trace "$build/bin/biqa_trace" --device cuda
    say golden "$(state_of $?)" "$(tail -n 1 "$out/golden.log")"
  fi
fi

# train NAME OVERRIDE...: some steps of the quickstart on the device; its metrics in $out/NAME.
train() {
  local name=$1
  shift
  rm -rf "${out:?}/$name"
  within "$name" 60 "$build/bin/biqa_learner" --config configs/quickstart.yaml --set model.device=cuda \
    --set train.steps="${steps:-4}" --set data.eval=[] --set train.out="$out/$name" --set checkpoint.every=2 "$@"
}
# column NAME FIELD: the largest absolute value of a field of metrics.jsonl.
column() {
  sed -n "s/.*\"$2\": *\([-0-9.e+]*\).*/\1/p" "$out/$1/metrics.jsonl" |
    awk '{ v = $1 < 0 ? -$1 : $1; if (v > most) most = v } END { print most + 0 }'
}
if wanted training; then
  for dtype in f32 bf16; do
    train "training_$dtype" --set model.dtype=$dtype
    status=$?
    state=$(state_of $status)
    gap=
    if [[ $status == 0 ]]; then
      gap=$(column "training_$dtype" actor_learner_logp_gap)
      [[ $gap == 0 ]] || state=failed
      train "again_$dtype" --set model.dtype=$dtype
      cmp -s "$out/training_$dtype/adapter.h5" "$out/again_$dtype/adapter.h5" || state=failed
    fi
    say "train $dtype" "$state" "gap ${gap:-unknown}, the same adapter twice: $([[ $state == ok ]] && echo yes || echo no)"
  done
fi

if wanted sanitizer; then
  if command -v compute-sanitizer >/dev/null; then
    within sanitizer 90 compute-sanitizer --error-exitcode 9 "$build/tests/policy_cuda_network_test" \
      --gtest_filter='*VisionAndDecoder/0'
    status=$?
    if grep -q 'not supported\|Unable to' "$out/sanitizer.log" && [[ $status != 9 ]]; then
      say sanitizer "not run" "$(grep -m 1 'not supported\|Unable to' "$out/sanitizer.log")"
    else
      say sanitizer "$(state_of $status)" "$(tail -n 1 "$out/sanitizer.log")"
    fi
  else
    say sanitizer "not run" "no compute-sanitizer here"
  fi
fi

# figure NAME KEY: a median or a limit that biqa_bench printed.
figure() {
  awk -v key="\"$2\":" '/"repeats":/ { exit } $1 == key { printf "%.4g", $2; exit }' "$out/$1.log"
}
# gibibytes NAME: the peak of the GPU's memory.
gibibytes() {
  awk -v bytes="$(figure "$1" device_peak_bytes)" 'BEGIN { printf "%.4g", bytes / 1073741824 }'
}
# share NAME RATE: a rate as a share of the data sheet's, or of the measured product's if no sheet is known.
share() {
  awk -v rate="$(figure "$1" "$2")" -v sheet="$(figure "$1" sheet_gflops_bf16)" -v product="$(figure "$1" gemm_gflops_bf16)" 'BEGIN {
    if (sheet > 0) printf "%.1f %% of the sheet", 100 * rate / sheet
    else if (product > 0) printf "%.1f %% of the measured product", 100 * rate / product
  }'
}
# measure NAME SECONDS ARGUMENT...: biqa_bench on the random model.
measure() {
  local name=$1 limit=$2
  shift 2
  within "$name" "$limit" "$build/bin/biqa_bench" --device cuda --dtype bf16 --model "$model" \
    --images assets/tiny/train.jsonl --format json "$@"
}
if wanted speed; then
  # On 7B, what one H100 should reach (docs/performance-model.md).
  bars=("" "" "" "")
  case $size in
    7B) needed=18 tokens=1050 limit=8192 many=64 learned=4 new=200
        bars=("; vision and prefill should take at most 0.045 s" "; should be at least 20000" "; should be at least 40 %" "; should be at least 5") ;;
    3B) needed=9 tokens=1050 limit=8192 many=64 learned=4 new=200 ;;
    tiny) needed=1 tokens=0 limit=64 many=2 learned=1 new=4 ;;
  esac
  free=$(df -Pk "$out" | awk 'NR == 2 { print $4 }')
  model=$(mktemp -d "$out/model_XXXXXX")
  trap 'rm -rf "${model%/"$size"}"' EXIT
  if ! [[ $free =~ ^[0-9]+$ ]] || ((free / 1000000 < needed)); then
    say speed "not run" "$out has ${free:-an unknown number of} KiB free, a random model of $size takes $needed GB"
  else
    within random 150 "$build/bin/biqa_random_model" --size "$size" --image-tokens "$tokens" --out "$model/$size"
    status=$?
    [[ $status == 0 ]] || say speed "$(state_of $status)" "writing a random model: $(tail -n 1 "$out/random.log")"
    model=$model/$size
  fi
  if [[ -e $model/config.json ]]; then
    measure speed_alone 60 --what generate --batch 1 --group 1 --new "$new" --repeats 3 --limit-size "$limit"
    state=$(state_of $?)
    # Our own kernels are the default, so the part does not fail with cuDNN.
    measure speed_cudnn 40 --what generate --batch 1 --group 1 --new 1 --repeats 3 --limit-size 64 --vision-attention cudnn
    status=$?
    cudnn="$(figure speed_cudnn vision_s) s"
    [[ $status == 0 ]] || cudnn="$(state_of $status): $(tail -n 1 "$out/speed_cudnn.log")"
    say alone "$state" "$size: vision $(figure speed_alone vision_s) s, with cuDNN's attention $cudnn; prefill of" \
      "$(figure speed_alone prompt_tokens) tokens $(figure speed_alone prefill_s) s${bars[0]};" \
      "$(figure speed_alone generate_tokens_per_s) tokens/s; load $(figure speed_alone load_s) s;" \
      "product $(figure speed_alone gemm_gflops_bf16) GFLOP/s"
    measure speed_rollout 80 --what generate --batch "$many" --group 4 --new "$new" --repeats 1 --limit-size "$limit"
    say rollout "$(state_of $?)" "$size, $((4 * many)) sequences: $(figure speed_rollout generate_tokens_per_s)" \
      "tokens/s${bars[1]}; vision $(share speed_rollout vision_gflops), prefill $(share speed_rollout prefill_gflops)"
    measure speed_step 100 --what step --batch "$learned" --group 4 --new "$new" --repeats 1 --limit-size "$limit"
    status=$?
    state=$(state_of $status)
    [[ $status != 0 || $(figure speed_step actor_learner_logp_gap) == 0 ]] || state=failed
    say step "$state" "$size: learner $(share speed_step learn_gflops)${bars[2]};" \
      "$(figure speed_step trajectories_per_s) trajectories/s${bars[3]}; gap $(figure speed_step actor_learner_logp_gap)"
    measure speed_recompute 60 --what step --batch "$learned" --group 4 --new "$new" --repeats 1 --limit-size "$limit" \
      --recompute
    say recompute "$(state_of $?)" "$size: learner $(share speed_recompute learn_gflops), peak memory" \
      "$(gibibytes speed_recompute) GiB instead of $(gibibytes speed_step)"
  fi
  rm -rf "${model%/"$size"}"
fi

{
  printf '{"build": %s, "parts": [\n' "$(quoted "$build")"
  for ((i = 0; i < ${#lines[@]}; ++i)); do
    printf '%s%s\n' "${lines[i]}" "$([[ $((i + 1)) == "${#lines[@]}" ]] || echo ,)"
  done
  printf ']}\n'
} >"$json" || failed=1
echo "gpu: $json"
exit $failed
