#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: tests/gpu.sh [--build FOLDER] [--out FOLDER] [--golden FOLDER] [--parts NAME,...] [--size SIZE] [--seconds N]
# Checks the CUDA backend on this machine's GPU, within nine minutes. Prints one line per part, and writes the same lines and
# their figures (value, unit, bar) to gpu.json in the folder of --out.
#   --build    a build with its tests (default: build/cuda, made by `launch/build.sh cuda --tests`). With build/emulated,
#              the script runs without a GPU, slowly
#   --out      folder for logs and gpu.json (default: build/gpu). A relative folder is one of the repository
#   --golden   folder with cases.json and compare.py, which compares the network with the reference, and perhaps with steps
#              and compare_step.py, which does the same for steps of a training. Needs Python with h5py
#   --parts    some of device, copy, operations, products, ones, invariance, rows, kernels, network, nccl, golden, training,
#              sanitizer, speed (default: all)
#   --size     size of the model whose speed, products and kernels are measured: 7B (default) or 3B. tiny is for a dry run:
#              the training is small too
#   --seconds  limit for all parts together (default: 540). A part that exceeds its share is stopped and reported as cut.
#              Above 540, every share grows with it
# Exit code 0: no part failed; parts that were not run print the reason. 1: a part failed or was cut, or there is no GPU.
# A bar that is missed is no failure. 2: wrong arguments.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

build=build/cuda
out=build/gpu
golden=
parts=device,copy,operations,products,ones,invariance,rows,kernels,network,nccl,golden,training,sanitizer,speed
size=7B
seconds=540
while [[ $# -gt 0 ]]; do
  case $1 in
    --build | --out | --golden | --parts | --size | --seconds)
      [[ $# -ge 2 ]] || { echo "error: tests/gpu.sh: $1 needs a value" >&2; exit 2; }
      declare "${1#--}=$2"
      shift 2
      ;;
    -h | --help) sed -n '3,19s/^# \?//p' "${BASH_SOURCE[0]}"; exit 0 ;;
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
    device | copy | operations | products | ones | invariance | rows | kernels) ;;
    network | nccl | golden | training | sanitizer | speed) ;;
    *) echo "error: tests/gpu.sh: no part $part; see tests/gpu.sh --help" >&2; exit 2 ;;
  esac
done
if [[ ! -x $build/bin/biqa_learner || ! -d $build/tests ]]; then
  echo "error: tests/gpu.sh: $build has no programs and tests; run \`launch/build.sh cuda --tests\`, or name the build by --build" >&2
  exit 2
fi
mkdir -p "$out" && out=$(CDPATH='' cd -- "$out" && pwd) || exit 2
json=$out/gpu.json
lines=()    # of the JSON
figures=()  # of the part's line in the JSON
texts=()    # the same for the terminal
unknown=0   # a figure of the part is no number
met=0 missed=()
failed=0
emulated=
! grep -qs '^BIQA_CUDA_EMULATED:BOOL=ON' "$build/CMakeCache.txt" || emulated=yes
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# quoted TEXT: a JSON string.
quoted() {
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  printf '"%s"' "$(tr -d '\000-\037' <<<"$text")"
}
is_number() { [[ $1 =~ ^-?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?$ ]]; }
# number NAME VALUE UNIT [>=|<= BAR]: a figure of the next line. Bars hold for 7B on an H100.
number() {
  local name=$1 value=$2 unit=$3 text bar='' verdict
  if ! is_number "$value"; then
    unknown=1 text="$name unknown" value=null
  else
    text="$name $value${unit:+ $unit}"
  fi
  if [[ $# == 5 && $size == 7B ]]; then
    bar=", \"bar\": \"$4 $5\""
    verdict=missed
    if [[ $value != null ]] && awk -v v="$value" -v o="$4" -v b="$5" 'BEGIN { exit !(o == ">=" ? v >= b : v <= b) }'; then
      verdict=met
      met=$((met + 1))
    else
      missed+=("$name")
    fi
    text="$text (bar $4 $5: $verdict)"
  fi
  texts+=("$text")
  figures+=("{\"name\": $(quoted "$name"), \"value\": $value, \"unit\": \"$unit\"$bar}")
}
# say NAME STATE TEXT...: a line of the report, with the figures since the last one. A figure that is no number fails the part.
say() {
  local name=$1 state=$2 text one
  shift 2
  [[ $unknown == 0 || $state != ok ]] || state=failed
  text=$*
  for one in "${texts[@]}"; do text="${text:+$text; }$one"; done
  printf '%-10s %-8s %4d s  %s\n' "$name" "$state" "$SECONDS" "$text"
  lines+=("  {\"part\": \"$name\", \"state\": \"$state\", \"at_seconds\": $SECONDS, \"text\": $(quoted "$text"), \"figures\": [$(
    IFS=,
    echo "${figures[*]}"
  )]}")
  figures=() texts=() unknown=0
  [[ $state == ok || $state == "not run" ]] || failed=1
}
finish() {
  local i
  [[ $met == 0 && ${#missed[@]} == 0 ]] || echo "bars: $met met, ${#missed[@]} missed${missed[*]:+: $(IFS=,; echo "${missed[*]}")}"
  {
    printf '{"build": %s, "seconds": %d, "bars_met": %d, "bars_missed": %d, "parts": [\n' "$(quoted "$build")" "$SECONDS" "$met" "${#missed[@]}"
    for ((i = 0; i < ${#lines[@]}; ++i)); do
      printf '%s%s\n' "${lines[i]}" "$([[ $((i + 1)) == "${#lines[@]}" ]] || echo ,)"
    done
    printf ']}\n'
  } >"$json" || failed=1
  echo "gpu: $json"
  exit $failed
}
wanted() { [[ ,$parts, == *,$1,* ]]; }
share_of() { echo $((seconds > 540 ? $1 * seconds / 540 : $1)); }
# limited NAME SECONDS COMMAND...: runs it with its output in NAME.log; 124 where it takes longer than that or what is left.
limited() {
  local name=$1 limit=$2 left=$((seconds - SECONDS)) start=$SECONDS status
  shift 2
  : >"$out/$name.log"  # no figures of an earlier run
  ((limit < left)) || limit=$left
  ((limit > 0)) || return 124
  timeout --kill-after=10 "$limit" "$@" >"$out/$name.log" 2>&1 </dev/null
  status=$?
  [[ $status != 137 ]] || ((SECONDS - start < limit)) || return 124  # only the second signal ended it
  return $status
}
# within NAME SHARE COMMAND...: limited by a share of the time.
within() { limited "$1" "$(share_of "$2")" "${@:3}"; }
# state_of STATUS: ok, cut or failed.
state_of() {
  case $1 in
    0) echo ok ;;
    124) echo cut ;;
    *) echo failed ;;
  esac
}
# reason NAME STATUS: why a command failed.
reason() {
  local library
  library=$(sed -n 's/.*error while loading shared libraries: \([^:]*\):.*/\1/p' "$out/$1.log" | head -n 1)
  if [[ -n $library ]]; then
    echo "$library: not found (looked in LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-} and in the system's folders, see ldconfig -p)"
  elif [[ $2 == 124 ]]; then
    echo "stopped, for its share of the time was over"
  else
    echo "ends with $2: $(grep -m 1 -E 'error:|Error' "$out/$1.log" || tail -n 1 "$out/$1.log")"
  fi
}
# run_tests NAME SHARE PROGRAM...: GoogleTest programs one after another; counts their cases. Every program must be there.
run_tests() {
  local name=$1 end=$((SECONDS + $(share_of "$2"))) program passed=0 bad=0 skipped=0 state=ok status
  local missing=() late=() notes=()
  shift 2
  : >"$out/$name.log"
  for program in "$@"; do
    if [[ ! -x $build/tests/$program ]]; then
      missing+=("$program")
      continue
    fi
    limited "$name.one" $((end - SECONDS)) env BIQA_TEST_BACKEND="${backend:-}" "$build/tests/$program"
    status=$?
    cat "$out/$name.one.log" >>"$out/$name.log"
    passed=$((passed + $(grep -c '^\[       OK \]' "$out/$name.one.log")))
    skipped=$((skipped + $(grep -c '^\[  SKIPPED \] .* (' "$out/$name.one.log")))
    bad=$((bad + $(grep -c '^\[  FAILED  \] .* (' "$out/$name.one.log")))
    if [[ $status == 124 ]]; then
      late+=("$program")
    elif [[ $status != 0 ]]; then
      state=failed
      notes+=("$program $(reason "$name.one" $status)")
      grep -m 3 -E 'Failure' "$out/$name.one.log" | sed "s/^/    $program: /"
    fi
  done
  rm -f "$out/$name.one.log"
  [[ ${#late[@]} == 0 || $state != ok ]] || state=cut
  [[ ${#late[@]} == 0 ]] || notes+=("not finished: ${late[*]}")
  [[ ${#missing[@]} == 0 ]] || state=failed
  [[ ${#missing[@]} == 0 ]] || notes+=("$build/tests lacks ${missing[*]}")
  [[ $passed != 0 || $state != ok ]] || state=failed
  number passed $passed ''
  number failed $bad ''
  number skipped $skipped ''
  say "$name" $state "$(for one in "${notes[@]}"; do printf '%s. ' "$one"; done)"
}

within start 60 env BIQA_TEST_BACKEND=cuda "$build/tests/ops_rows_test" --gtest_filter='*RmsNorm*'
status=$?
if [[ $status != 0 ]]; then
  why=$(sed -n 's/^skipped: //p' "$out/start.log")
  [[ $status == 77 ]] || why="ops_rows_test: $(reason start $status)"
  echo "error: tests/gpu.sh: $why" >&2
  say start "$([[ $status == 124 ]] && echo cut || echo failed)" "$why"
  finish
fi

if wanted device; then
  if command -v nvidia-smi >/dev/null; then
    within device 20 nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv,noheader
    say device "$(state_of $?)" "$(head -n 1 "$out/device.log"); $("$build/bin/biqa_learner" --version)"
  else
    say device "not run" "no nvidia-smi here; $("$build/bin/biqa_learner" --version)"
  fi
fi

# measured PART SHARE [ARGUMENT...]: what gpu_measures says of a part, until its time is over.
measured() {
  local part=$1 kind line name value unit operator bar status some=
  within "$part" "$2" "$build/tests/gpu_measures" "$part" --size "$size" "${@:3}"
  status=$?
  while IFS= read -r line; do
    kind=${line%%: *} line=${line#*: }
    case $kind in
      figure)
        IFS='|' read -r name value unit operator bar <<<"$line"
        number "$name" "$value" "$unit" ${operator:+"$operator" "$bar"}
        some=yes
        ;;
      line) say "$part" ok "$line" ;;
    esac
  done <"$out/$part.log"
  if [[ $status != 0 || -z $some ]]; then
    say "$part" "$([[ $status == 0 ]] && echo failed || state_of $status)" "$(reason "$part" $status)"
  elif [[ ${#figures[@]} != 0 ]]; then
    say "$part" ok
  fi
  sed -n 's/^detail: /    /p' "$out/$part.log"
}
if wanted copy; then measured copy 15; fi

if wanted operations; then
  backend=cuda
  run_tests operations 120 ops_op_cases_test ops_products_test ops_attention_test ops_head_test ops_lora_test ops_rows_test \
    ops_cuda_tile_attention_test ops_cuda_tile_attention_backward_test ops_cuda_tile_lora_test \
    ops_cuda_tile_heads_test ops_cuda_tile_swiglu_test ops_cuda_vision_attention_test
  backend=
fi

if wanted products; then
  if [[ -n $emulated ]]; then
    say products "not run" "an emulated build has no cuBLASLt"
  else
    within products 90 "$build/tests/ops_cuda_device_test" --gtest_filter='DeviceProducts.*'
    status=$?
    state=$(state_of $status) text=
    count=$(grep -c '^product ' "$out/products.log")
    [[ $state != ok || $count != 0 ]] || state=failed
    [[ $status == 0 ]] || text=$(reason products $status)
    number "products of 7B" "$count" ''
    say products "$state" "$text"
    grep '^product ' "$out/products.log" | sed 's/^/    /'
  fi
fi

if wanted ones; then measured ones 20; fi
if wanted invariance; then measured invariance 50 --classes "$out/classes.txt"; fi
# It stops by itself, and says how far it came.
if wanted rows; then measured rows 60 --classes "$out/classes.txt" --seconds "$(share_of 30)"; fi
if wanted kernels; then measured kernels 40; fi

if wanted network; then
  run_tests network 90 model_network_test_cuda model_training_pass_test_cuda model_vision_test_cuda actor_engine_test_cuda \
    learner_learner_test_cuda policy_cuda_network_test
fi

if wanted nccl; then
  if [[ -n $emulated ]]; then
    say nccl "not run" "an emulated build has no NCCL"
  else
    run_tests nccl 30 comm_nccl_device_test
  fi
fi

# agreed LOG STATUS: a line with the numbers that the last line of a comparison has.
agreed() {
  local agree count
  read -r agree count < <(sed -n 's/^[a-z]*: \([0-9]*\) of \([0-9]*\) .*agree.*/\1 \2/p' "$out/$1.log")
  number agreeing "${agree:-}" ''
  number compared "${count:-}" ''
  say "$1" "$(state_of "$2")" "$([[ $2 == 0 ]] || reason "$1" "$2")"
}
if wanted golden; then
  if [[ -z $golden ]]; then
    say golden "not run" "no --golden"
  elif ! python3 -c 'import h5py' 2>/dev/null; then
    say golden "not run" "Python has no h5py"
  else
    within golden 60 python3 "$golden/compare.py" "$golden" --trace "$build/bin/biqa_trace" --device cuda
    agreed golden $?
    if [[ -e $golden/compare_step.py ]]; then
      within steps 30 python3 "$golden/compare_step.py" "$golden" --trace "'$build/bin/biqa_trace' --device cuda"
      agreed steps $?
    fi
  fi
fi

# train NAME FOLDER OVERRIDE...: some steps of the quickstart on the device, in $out/FOLDER.
train() {
  local name=$1 folder=$2 small=()
  shift 2
  [[ $size != tiny ]] || small=(--set rollout.images_per_step=2 --set rollout.group_size=4)
  within "$name" 45 "$build/bin/biqa_learner" --config configs/quickstart.yaml --set model.device=cuda --set data.eval=[] \
    --set optimizer.schedule=constant --set checkpoint.every=1 --set train.out="$out/$folder" "${small[@]}" "$@"
}
# largest FOLDER FIELD LINES: the largest absolute value of a field of metrics.jsonl. Nothing if that has another number of
# lines, or one of them has no finite number there.
largest() {
  awk -v field="\"$2\":" -v lines="$3" '
    {
      at = index($0, field)
      value = substr($0, at + length(field))
      sub(/^ */, "", value)
      sub(/ *[,}].*/, "", value)
      if (at == 0 || value !~ /^-?[0-9]+([.][0-9]*)?([eE][-+]?[0-9]+)?$/) { bad = 1; next }
      value += 0
      if (value < 0) value = -value
      if (value > most) most = value
    }
    END { if (!bad && NR == lines) printf "%.4g\n", most }' "$out/$1/metrics.jsonl" 2>/dev/null
}
# adapters FOLDER FOLDER: how they compare, tensor by tensor. "equal" or "different", and what differs.
adapters() { within "$1_diff" 10 "$build/bin/biqa_ckpt" diff "$out/$1/adapter.h5" "$out/$2/adapter.h5"; tail -n 1 "$out/$1_diff.log"; }
# training DTYPE: trains ten steps twice, the second time with a stop after five.
training() {
  local dtype=$1 state status gap norm skips same text= steps=10
  local folder=training_$dtype again=again_$dtype
  [[ $size != tiny ]] || steps=4
  rm -rf "${out:?}/$folder" "${out:?}/$again"
  train "$folder" "$folder" --set model.dtype="$dtype" --set train.steps=$steps
  status=$?
  if [[ $status != 0 ]]; then
    say "train $dtype" "$(state_of $status)" "$(reason "$folder" $status)"
    return
  fi
  gap=$(largest "$folder" actor_learner_logp_gap $steps)
  norm=$(largest "$folder" grad_norm $steps)
  skips=$(grep -c 'the update is skipped' "$out/$folder.log")
  state=ok
  [[ $gap == 0 && $skips == 0 && $norm != 0 ]] || state=failed
  number steps $steps ''
  number "log-probability gap" "$gap" ''
  number "skipped updates" "$skips" ''
  number "largest gradient norm" "$norm" ''
  train "$again" "$again" --set model.dtype="$dtype" --set train.steps=$((steps / 2)) &&
    train "${again}_resumed" "$again" --set model.dtype="$dtype" --set train.steps=$steps
  status=$?
  if [[ $status == 0 ]]; then
    same=$(adapters "$folder" "$again")
    [[ $same == equal:* ]] || state=failed
    text="the adapter after a stop and resume: ${same:-not compared}"
  else
    [[ $state == failed ]] || state=$(state_of $status)
    text="adapters were not compared: the second run was $(state_of $status)"
  fi
  say "train $dtype" $state "$text"
}
if wanted training; then
  training f32
  training bf16
fi

# A case in bf16 with sampling, backward and updates.
if wanted sanitizer; then
  if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck; do
      within $tool 45 compute-sanitizer --tool $tool --error-exitcode 9 "$build/tests/policy_cuda_network_test" \
        --gtest_filter='*GenerationIsTheCpus/2:*Updates/2'
      status=$?
      state=$(state_of $status)
      if [[ $status != 0 && $status != 9 && $status != 124 ]] && grep -q 'not supported\|Unable to' "$out/$tool.log"; then
        say $tool "not run" "$(grep -m 1 'not supported\|Unable to' "$out/$tool.log")"
      else
        # It must have looked at something.
        [[ $state != ok ]] || grep -q '^\[       OK \]' "$out/$tool.log" || state=failed
        say $tool "$state" "$(grep 'SUMMARY' "$out/$tool.log" | tail -n 1)"
      fi
    done
  else
    say sanitizer "not run" "no compute-sanitizer here"
  fi
fi

# figure NAME KEY: a median or a limit that biqa_bench printed; nothing where it is no number.
figure() {
  awk -v key="\"$2\":" '/"repeats":/ { exit }
    $1 == key && $2 ~ /^-?[0-9]+([.][0-9]*)?([eE][-+]?[0-9]+)?,?$/ { printf ($2 + 0 >= 1000 ? "%.0f" : "%.4g"), $2; exit }' "$out/$1.log"
}
# computed EXPRESSION VALUE...: an expression of a, b and c; nothing where a value is missing or a divisor is 0.
computed() {
  local expression=$1 value
  shift
  for value in "$@"; do is_number "$value" && [[ $value != 0 ]] || return 0; done
  awk -v a="$1" -v b="${2:-}" -v c="${3:-}" "BEGIN { r = $expression; printf (r >= 1000 ? \"%.0f\" : \"%.4g\"), r }"
}
# share NAME RATE WHAT [>= BAR]: a rate as a share of the data sheet's, or without a bar of the measured product's.
share() {
  local rate peak
  rate=$(figure "$1" "$2")
  peak=$(figure "$1" sheet_gflops_bf16)
  if [[ -n $peak && $peak != 0 ]]; then
    number "$3" "$(computed '100 * a / b' "$rate" "$peak")" "% of the sheet" "${@:4}"
  else
    number "$3" "$(computed '100 * a / b' "$rate" "$(figure "$1" gemm_gflops_bf16)")" "% of the measured product"
  fi
}
# decode_rate NAME SEQUENCES: tokens a second behind the prefill.
decode_rate() { computed "a * ($new - 1) / b" "$2" "$(figure "$1" decode_s)"; }
# measure NAME SECONDS ARGUMENT...: biqa_bench on the random model.
measure() {
  local name=$1 limit=$2
  shift 2
  within "$name" "$limit" "$build/bin/biqa_bench" --device cuda --dtype bf16 --model "$model" \
    --images assets/tiny/train.jsonl --format json --limit-size "$limit_size" "$@"
}
# told NAME LINE STATUS: says that a measurement has no figures, if so.
told() {
  [[ $3 != 0 ]] || return 1
  say "$2" "$(state_of "$3")" "$(reason "$1" "$3")"
}
speed() {
  local cudnn sequences status
  measure speed_alone 60 --what generate --batch 1 --group 1 --new "$new" --repeats 3
  if ! told speed_alone alone $?; then
    number vision "$(figure speed_alone vision_s)" s
    number prefill "$(figure speed_alone prefill_s)" s
    number "vision and prefill" "$(computed 'a + b' "$(figure speed_alone vision_s)" "$(figure speed_alone prefill_s)")" s "<=" 0.045
    number "prompt" "$(figure speed_alone prompt_tokens)" tokens
    number "decode of 1 sequence" "$(decode_rate speed_alone 1)" tokens/s
    number load "$(figure speed_alone load_s)" s
    number product "$(figure speed_alone gemm_gflops_bf16)" GFLOP/s
    say alone ok
  fi
  measure speed_rollout 60 --what generate --batch "$many" --group 4 --new "$new" --repeats 1
  if ! told speed_rollout rollout $?; then
    number "decode with prompts shared by 4" "$(decode_rate speed_rollout $((4 * many)))" tokens/s ">=" 20000
    number "whole rollout" "$(figure speed_rollout generate_tokens_per_s)" tokens/s
    share speed_rollout vision_gflops vision ">=" 40
    share speed_rollout prefill_gflops prefill
    say rollout ok "$((4 * many)) sequences"
  fi
  measure speed_step 120 --what step --batch "$many" --group 4 --new "$new" --stage2 30 --repeats 1
  if ! told speed_step step $?; then
    share speed_step learn_gflops learner ">=" 40
    number "whole step" "$(figure speed_step trajectories_per_s)" trajectories/s ">=" 5
    # The rate counts the tokens of first stages only, so it falls by what the second stages take.
    number "second stage" "$(computed '100 * (a / b - 1)' "$(figure speed_rollout generate_tokens_per_s)" \
      "$(figure speed_step generate_tokens_per_s)")" "% of a rollout without" "<=" 15
    number "log-probability gap" "$(figure speed_step actor_learner_logp_gap)" ''
    number "peak memory" "$(computed 'a / 1073741824' "$(figure speed_step device_peak_bytes)")" GiB
    say step "$([[ $(figure speed_step actor_learner_logp_gap) == 0 ]] && echo ok || echo failed)" "$((4 * many)) trajectories"
  fi
  measure speed_unshared 80 --what generate --batch $((4 * many)) --group 1 --new "$new" --repeats 1
  if ! told speed_unshared unshared $?; then
    number "decode without shared prompts" "$(decode_rate speed_unshared $((4 * many)))" tokens/s ">=" 16000
    say unshared ok "$((4 * many)) sequences"
  fi
  measure speed_recompute 50 --what step --batch "$few" --group 4 --new "$new" --repeats 1 --recompute
  if ! told speed_recompute recompute $?; then
    share speed_recompute learn_gflops learner
    number "peak memory" "$(computed 'a / 1073741824' "$(figure speed_recompute device_peak_bytes)")" GiB
    say recompute ok "$((4 * few)) trajectories"
  fi
  for sequences in 8 64; do
    measure speed_decode$sequences 30 --what generate --batch $((sequences / group)) --group "$group" --new "$new" --repeats 1
    if ! told speed_decode$sequences decode $?; then
      number "decode of $sequences sequences" "$(decode_rate speed_decode$sequences $sequences)" tokens/s
      say decode ok
    fi
  done
  # Our own kernels are the default, so the script does not fail with cuDNN.
  measure speed_cudnn 40 --what generate --batch 1 --group 1 --new 1 --repeats 3 --vision-attention cudnn
  status=$?
  cudnn=$(figure speed_cudnn vision_s)
  if [[ $status == 0 ]]; then
    number "vision with cuDNN's attention" "$cudnn" s
    say cudnn ok
  else
    say cudnn "not run" "$(state_of $status): $(reason speed_cudnn $status)"
  fi
}
if wanted speed; then
  case $size in
    7B) needed=18 tokens=1050 limit_size=8192 many=64 few=4 new=200 group=4 ;;
    3B) needed=9 tokens=1050 limit_size=8192 many=64 few=4 new=200 group=4 ;;
    tiny) needed=1 tokens=0 limit_size=64 many=2 few=1 new=4 group=8 ;;
  esac
  free=$(df -Pk "$out" | awk 'NR == 2 { print $4 }')
  models=$(mktemp -d "$out/model_XXXXXX")
  trap 'rm -rf "$models"' EXIT
  model=$models/$size
  if ! [[ $free =~ ^[0-9]+$ ]] || ((free / 1000000 < needed)); then
    say speed "not run" "$out has ${free:-an unknown number of} KiB free, a random model of $size takes $needed GB"
  else
    within random 150 "$build/bin/biqa_random_model" --size "$size" --image-tokens "$tokens" --out "$model"
    if ! told random speed $?; then speed; fi
  fi
fi
finish
