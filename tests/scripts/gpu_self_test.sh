#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs tests/gpu.sh on fake programs, which print what a GPU machine could print. It changes one thing at a time: the script must
# see each change. Needs neither a build nor a GPU.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
export FAKE=$tree/changes
mkdir -p "$tree/build/bin" "$tree/build/tests" "$tree/tools"

# What every program does unless a file of its name in $FAKE says otherwise.
cat >"$tree/fake" <<'END'
#!/usr/bin/env bash
name=$(basename "$0")
out= steps=0
for word in "$@"; do
  case $word in
    train.out=*) out=${word#*=} ;;
    train.steps=*) steps=${word#*=} ;;
  esac
done
gap=0.0 norm=0.05 adapter=adapter bench_gap=0.0 trajectories=12.5 cublas='product q: 6 algorithms'
same='equal: 42 tensors to the bit' measures=()
case $name-${1:-} in
  gpu_measures-copy) measures=('figure: copy within the memory|2900|GB/s') ;;
  gpu_measures-ones) measures=('figure: wrong ones|0|') ;;
  gpu_measures-invariance) measures=('figure: price of batch invariance for 256 rows|1.5|%|<=|5' 'detail: down, 8192 rows: 9 us') ;;
  gpu_measures-rows) measures=('figure: numbers of rows|1500|of 8192' "detail: $*") ;;
  gpu_measures-kernels)
    for kernel in 'rms_norm, decoding' embed; do
      measures+=('figure: time|4.5|us' 'figure: computed|80|% of the time' "line: $kernel")
    done
    ;;
esac
[[ ! -e $FAKE/$name ]] || . "$FAKE/$name"
case $name in
  biqa_learner)
    [[ -n $out ]] || { echo "biqa 0.1.0"; exit 0; }
    mkdir -p "$out"
    for ((i = 0; i < steps; ++i)); do echo "{\"step\":$i,\"actor_learner_logp_gap\":$gap,\"grad_norm\":$norm}"; done >"$out/metrics.jsonl"
    echo "$adapter" >"$out/adapter.h5"
    ;;
  gpu_measures) printf '%s\n' "${measures[@]}" ;;
  biqa_ckpt) printf '%s\n' "$2 and $3" "$same" ;;
  biqa_random_model) while [[ $# -gt 0 ]]; do [[ $1 != --out ]] || mkdir -p "$2"; shift; done ;;
  biqa_bench)
    printf '%s\n' '{' '  "limits": {' '    "gemm_gflops_bf16": 700000.0,' '    "sheet_gflops_bf16": 989400.0' '  },' '  "median": {' \
      "    \"actor_learner_logp_gap\": $bench_gap," '    "decode_s": 1.5,' '    "device_peak_bytes": 21474836480,' \
      '    "generate_tokens_per_s": 9000.0,' '    "learn_gflops": 450000.0,' '    "load_s": 9.0,' '    "prefill_gflops": 500000.0,' \
      '    "prefill_s": 0.027,' '    "prompt_tokens": 1150.0,' "    \"trajectories_per_s\": $trajectories," \
      '    "vision_gflops": 400000.0,' '    "vision_s": 0.013' '  },' '  "repeats": [' '    {"vision_s": 9}' '  ]' '}'
    ;;
  ops_cuda_device_test) echo "$cublas" ;;
  nvidia-smi) echo "A card, 570.1, 80 GiB, 9.0" ;;
  compute-sanitizer) printf '%s\n' '[       OK ] Case.one (1 ms)' '========= ERROR SUMMARY: 0 errors' ;;
  df) printf '%s\n' 'Filesystem 1024-blocks Used Available' '/dev/x 1 1 99000000' ;;
  *) echo '[       OK ] Case.one (1 ms)' ;;
esac
END
chmod +x "$tree/fake"
for name in biqa_learner biqa_trace biqa_ckpt biqa_bench biqa_random_model; do cp "$tree/fake" "$tree/build/bin/$name"; done
for name in nvidia-smi compute-sanitizer df; do cp "$tree/fake" "$tree/tools/$name"; done
export PATH=$tree/tools:$PATH

# reset: all programs are there, and all is well.
reset() {
  local name
  rm -rf "$FAKE" "$tree/build/CMakeCache.txt"
  mkdir "$FAKE"
  for name in ops_{op_cases,products,attention,head,lora,rows}_test ops_cuda_tile_{attention,attention_backward,lora,heads,swiglu}_test \
    ops_cuda_vision_attention_test ops_cuda_device_test {model_network,model_training_pass,model_vision,actor_engine,learner_learner}_test_cuda \
    policy_cuda_network_test comm_nccl_device_test gpu_measures; do cp "$tree/fake" "$tree/build/tests/$name"; done
}
change() { echo "$2" >"$FAKE/$1"; }  # change PROGRAM SHELL-TEXT
# expect STATUS PATTERN ARGUMENT...: how gpu.sh ends and what one of its lines is.
expect() {
  local status=0 output wanted=$1 pattern=$2
  shift 2
  output=$(bash "$here/../gpu.sh" --build "$tree/build" --out "$tree/out" "$@" 2>&1) || status=$?
  if [[ $status != "$wanted" ]] || ! grep -qE -- "$pattern" <<<"$output" || grep -q 'invalid\|gpu\.sh: line' <<<"$output"; then
    echo "tests/gpu.sh $* ends with $status and says:"
    echo "$output"
    echo "expected: $wanted, $pattern; changes: $(tail -n +1 "$FAKE"/* 2>/dev/null)"
    exit 1
  fi
  if command -v python3 >/dev/null; then
    python3 -m json.tool "$tree/out/gpu.json" >/dev/null || { echo "gpu.json is no JSON"; cat "$tree/out/gpu.json"; exit 1; }
  fi
  reset
}

reset
all=device,copy,operations,products,ones,invariance,rows,kernels,network,nccl,golden,training,sanitizer,speed
# Decoding 256 sequences for 200 tokens takes 1.5 s here: 33,960 tokens/s.
expect 0 '^bars: 8 met, 0 missed$' --parts $all
change biqa_bench 'trajectories=4.5'
expect 0 'whole step 4.5 trajectories/s \(bar >= 5: missed\)' --parts speed
expect 0 '^train f32 +ok .*adapter after a stop and resume: equal: 42 tensors to the bit; steps 10; log-probability gap 0;' --parts training
grep -q '"name": "log-probability gap", "value": 0, "unit": ""' "$tree/out/gpu.json"

# Gaps, gradients and adapters that must fail.
for gap in null NaN 1e-7 -0.5; do
  change biqa_learner "gap=$gap"
  expect 1 '^train f32 +failed .*log-probability gap (unknown|1e-07|0\.5);' --parts training
done
change biqa_learner 'norm=1.0,\"other\":2 gap=\"none\"'
expect 1 '^train bf16 +failed .*gap unknown' --parts training
change biqa_learner '[[ -z $out ]] || { mkdir -p "$out"; echo "{\"step\":1}" >"$out/metrics.jsonl"; exit 0; }'
expect 1 '^train f32 +failed .*gap unknown' --parts training
change biqa_learner '[[ $steps == 0 ]] || ((--steps))'
expect 1 '^train f32 +failed .*gap unknown' --parts training
change biqa_learner 'norm=0.0'
expect 1 '^train f32 +failed .*gradient norm 0' --parts training
change biqa_learner 'echo "step 1: the loss is not finite; the update is skipped on every learner"'
expect 1 '^train f32 +failed .*skipped updates 1' --parts training
change biqa_ckpt 'same="different: 3 of 42 tensors, largest difference 1e-3"'
expect 1 '^train f32 +failed .*resume: different: 3 of 42' --parts training
change biqa_ckpt 'exit 1'
expect 1 '^train f32 +failed .*resume: not compared' --parts training
change biqa_learner '[[ $out != */again_* ]] || sleep 30'
expect 1 '^train f32 +cut .*adapters were not compared' --parts training --seconds 3
change biqa_bench 'bench_gap=null'
expect 1 '^step +failed .*gap unknown' --parts speed
change biqa_bench 'bench_gap=1e-9'
expect 1 '^step +failed' --parts speed
change biqa_bench 'trajectories=null'
expect 1 '^step +failed .*whole step unknown' --parts speed

# Measurements beside whole runs.
expect 0 '^copy +ok .*copy within the memory 2900 GB/s$' --parts copy
expect 0 '^invariance +ok .*256 rows 1.5 % \(bar <= 5: met\)$' --parts invariance
expect 0 '^    down, 8192 rows: 9 us$' --parts invariance
expect 0 '^    rows --size 7B --classes .*/classes.txt --seconds 30$' --parts rows
expect 0 '^    rows .* --seconds 60$' --parts rows --seconds 1080
expect 0 '^kernels +ok +[0-9]+ s  embed; time 4.5 us; computed 80 % of the time$' --parts kernels
change gpu_measures 'measures=("figure: price of batch invariance for 256 rows|7|%|<=|5")'
expect 0 '^bars: 0 met, 1 missed: price of batch invariance for 256 rows$' --parts invariance
change gpu_measures 'measures=("figure: time|nan|us" "figure: computed|80|%" "line: embed")'
expect 1 '^kernels +failed .*embed; time unknown' --parts kernels
change gpu_measures 'measures=()'
expect 1 '^copy +failed ' --parts copy
change gpu_measures 'printf "%s\n" "${measures[@]}" "error: 3 elements are wrong"; exit 1'
expect 1 '^ones +failed .*ends with 1: error: 3 elements are wrong; wrong ones 0$' --parts ones
change gpu_measures 'printf "%s\n" "${measures[@]}"; sleep 30'
expect 1 '^kernels +ok .*rms_norm, decoding' --parts kernels --seconds 2
change gpu_measures 'printf "%s\n" "${measures[@]}"; sleep 30'
expect 1 '^kernels +cut ' --parts kernels --seconds 2
rm "$tree/build/tests/gpu_measures"
expect 1 '^copy +failed ' --parts copy

# The reference, by scripts that need h5py. A golden folder without steps is whole.
golden() {  # golden PATTERN STATUS LAST-LINE-OF-STEPS
  mkdir -p "$tree/golden" "$tree/modules"
  : >"$tree/modules/h5py.py"
  echo 'print("golden: 19 of 19 cases agree")' >"$tree/golden/compare.py"
  rm -f "$tree/golden/compare_step.py"
  [[ $# == 2 ]] || printf '%s\n' 'import sys' "print(\"$3\")" "sys.exit($2)" >"$tree/golden/compare_step.py"
  PYTHONPATH=$tree/modules expect "$2" "$1" --parts golden --golden "$tree/golden"
}
if command -v python3 >/dev/null; then
  golden '^golden +ok +[0-9]+ s  agreeing 19; compared 19$' 0
  golden '^steps +ok +[0-9]+ s  agreeing 3; compared 3$' 0 'steps: 3 of 3 agree'
  golden '^steps +failed .*ends with 1: steps: 2 of 3 agree; agreeing 2; compared 3$' 1 'steps: 2 of 3 agree'
fi

# Programs that are missing, cannot start, fail or take too long.
rm "$tree/build/tests/ops_head_test"
expect 1 '^operations +failed .*lacks ops_head_test' --parts operations
rm "$tree/build/tests/ops_cuda_device_test"
expect 1 '^products +failed ' --parts products
rm "$tree/build/tests/comm_nccl_device_test"
expect 1 '^nccl +failed .*lacks comm_nccl_device_test' --parts nccl
loader='error while loading shared libraries: libx.so.2: cannot open shared object file: No such file or directory'
change comm_nccl_device_test "echo 'comm_nccl_device_test: $loader'; exit 127"
expect 1 '^nccl +failed .*libx.so.2: not found \(looked in LD_LIBRARY_PATH' --parts nccl
change ops_rows_test "echo 'ops_rows_test: $loader'; exit 127"
expect 1 '^start +failed .*libx.so.2: not found' --parts $all
change ops_rows_test "echo 'skipped: no driver'; exit 77"
expect 1 '^start +failed .*no driver' --parts $all
change ops_lora_test "echo '[  FAILED  ] Case.one (1 ms)'; exit 1"
expect 1 '^operations +failed .*passed 11; failed 1;' --parts operations
change ops_lora_test 'exit 139'
expect 1 '^operations +failed .*ops_lora_test ends with 139' --parts operations
for name in "$tree"/build/tests/*_cuda; do change "$(basename "$name")" 'exit 0'; done
change policy_cuda_network_test 'exit 0'
expect 1 '^network +failed .*passed 0' --parts network
change ops_products_test 'sleep 30'
expect 1 '^operations +cut .*not finished: ops_products_test ops_attention_test' --parts operations,network --seconds 2
change ops_products_test 'sleep 30'
expect 1 '^network +cut .*not finished: model_network_test_cuda' --parts operations,network --seconds 2
expect 1 '^start +cut' --seconds 0
change ops_cuda_device_test 'cublas='
expect 1 '^products +failed .*products of 7B 0' --parts products
echo 'BIQA_CUDA_EMULATED:BOOL=ON' >"$tree/build/CMakeCache.txt"
expect 0 '^nccl +not run ' --parts products,nccl

# The sanitizer.
change compute-sanitizer 'echo "========= ERROR SUMMARY: 3 errors"; exit 9'
expect 1 '^racecheck +failed .*3 errors' --parts sanitizer
change compute-sanitizer 'echo "Error: device not supported"; exit 1'
expect 0 '^initcheck +not run .*not supported' --parts sanitizer
change compute-sanitizer 'echo "========= ERROR SUMMARY: 0 errors"; exit 0'
expect 1 '^memcheck +failed' --parts sanitizer
