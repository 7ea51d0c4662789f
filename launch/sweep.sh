#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: launch/sweep.sh --out DIR [--seeds LIST] [--jobs N] [--np N] [--slurm] [--changed] [--evaluate] [--dry-run] CONFIG… [--set KEY=VALUE]…
# Trains every configuration with every seed, and prints a table: mean and standard deviation over the seeds of the last
# evaluation. CONFIG is a file, or a folder that stands for its *.yaml files. The run folders are DIR/NAME/seed-SEED. NAME is
# the name of the configuration without .yaml. The table is also written to DIR/table.txt and DIR/table.csv.
# Give the same command again after a stop or a failure: finished runs are skipped, others go on from their checkpoints.
#   --seeds LIST    numbers and ranges, such as 1,2,5-8 (default: 1,2,3)
#   --jobs N        number of runs side by side (default: 1; with --slurm: no limit)
#   --np N          ranks of each run (default: 1)
#   --slurm         submit the runs as a Slurm job array instead; the variables of koniq.slurm apply (launch/README.md)
#   --changed       also go on with runs whose settings have changed since they began; otherwise they count as failed
#   --evaluate      evaluate each finished run with biqa_eval on data.eval, and print a second table. The run folders then hold
#                   evaluation.json and predictions.jsonl; the table is also in DIR/evaluations.txt and DIR/evaluations.csv
#   --similarity-model FOLDER  sentence encoder of that evaluation (docs/evaluation.md). Runs that were evaluated without one or
#                   with another are evaluated again, from their predictions.jsonl
#   --against NAME  with --evaluate: also print the differences of the other configurations to this one, paired by seed, with
#                   95 % intervals; they are also in DIR/differences.txt and DIR/differences.csv
#   --dry-run       check the configurations and the files that they name, print what would run, and stop
#   --set KEY=VALUE replaces a setting in all runs
# On Ctrl-C or SIGTERM all runs finish their step and save; the exit code is then 75. On SIGUSR1 they save and continue.
# Before the first run begins, every configuration is checked: its settings, and the files that it names.
# Exit codes: 0 all runs are finished; 1 no run is finished, the table failed, or a file is missing (then no run began); 2 wrong
# usage or configuration; 3 some failed; 75 stopped.
# BIQA_LEARNER is the program to run (default: build/cpu/bin/biqa_learner). biqa_sweep must be next to it.
set -euo pipefail

say() { printf 'sweep.sh: %s\n' "$1" >&2; }
refuse() {  # refuse CODE WHAT
  printf 'error: launch/sweep.sh: %s\n' "$2" >&2
  exit "$1"
}
usage() { refuse 2 "$1; see launch/sweep.sh --help"; }
number() {  # number FLAG TEXT: a whole number above 0
  [[ ${2:-} =~ ^0*[1-9][0-9]{0,5}$ ]] || usage "$1 needs a whole number above 0, not '${2:-}'"
  printf '%d' "$((10#$2))"
}

here=$(dirname "${BASH_SOURCE[0]}")
out='' seed_list=1,2,3 jobs='' ranks=1 slurm=no changed=no dry_run=no evaluate=no similarity=() against=()
inputs=() sets=()
while [[ $# -gt 0 ]]; do
  case $1 in
    -h | --help) sed -n '3,/^set /{/^# /s/^# //p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    --out) [[ -n ${2:-} ]] || usage "--out needs a folder"; out=$2; shift ;;
    --seeds) [[ $# -ge 2 ]] || usage "--seeds needs a list, such as 1,2,3"; seed_list=$2; shift ;;
    --jobs) jobs=$(number --jobs "${2:-}"); shift ;;
    --np) ranks=$(number --np "${2:-}"); shift ;;
    --set) [[ $# -ge 2 ]] || usage "--set needs KEY=VALUE"; sets+=(--set "$2"); shift ;;
    --set=*) sets+=(--set "${1#--set=}") ;;
    --slurm) slurm=yes ;;
    --changed) changed=yes ;;
    --evaluate) evaluate=yes ;;
    --similarity-model) [[ -n ${2:-} ]] || usage "--similarity-model needs a folder"; similarity=(--similarity-model "$2"); shift ;;
    --against) [[ -n ${2:-} ]] || usage "--against needs the name of a configuration"; against=(--against "$2"); shift ;;
    --dry-run) dry_run=yes ;;
    -*) usage "unknown argument $1" ;;
    *) inputs+=("$1") ;;
  esac
  shift
done
[[ -n $out ]] || usage "--out is missing: name a folder for the runs, e.g. --out runs/ablation"
((${#inputs[@]} > 0)) || usage "no configuration named, e.g. configs/miniature/ablation"
for set in "${sets[@]}"; do
  case $set in
    train.out=*) usage "--set $set: the run folders follow from --out" ;;
    train.seed=*) usage "--set $set: name seeds with --seeds" ;;
    checkpoint.resume=*) usage "--set $set: a run of a sweep always goes on from its own newest checkpoint" ;;
  esac
done
[[ $evaluate == no || $slurm == no ]] || usage "--evaluate does not work with --slurm: when the array is done, give it without --slurm"
[[ $evaluate == yes || ${#similarity[@]} == 0 ]] || usage "--similarity-model has no effect without --evaluate"
encoder=''
if ((${#similarity[@]} > 0)); then
  [[ -d ${similarity[1]} ]] || refuse 1 "--similarity-model ${similarity[1]}: there is no such folder; name the folder of a sentence encoder"
  encoder=$(realpath "${similarity[1]}")
fi
[[ $evaluate == yes || ${#against[@]} == 0 ]] || usage "--against has no effect without --evaluate"
learner=${BIQA_LEARNER:-$here/../build/cpu/bin/biqa_learner}
sweep=$(dirname "$learner")/biqa_sweep
evaluator=$(dirname "$learner")/biqa_eval
needed_programs=("$learner" "$sweep")
[[ $evaluate == no ]] || needed_programs+=("$evaluator")
for needed in "${needed_programs[@]}"; do
  [[ -x $needed ]] || refuse 1 "$needed is not there; run launch/setup.sh and launch/build.sh"
done

# ---- the runs: configurations times seeds
seeds=()
IFS=, read -r -a parts <<<"$seed_list"
for part in "${parts[@]}"; do
  [[ $part =~ ^([0-9]{1,9})(-([0-9]{1,9}))?$ ]] || usage "--seeds $seed_list: '$part' is not a number or a range such as 1-3"
  first=$((10#${BASH_REMATCH[1]})) last=$((10#${BASH_REMATCH[3]:-${BASH_REMATCH[1]}}))
  ((first <= last && last - first < 10000)) || usage "--seeds $seed_list: the range $part is empty or too long"
  for ((seed = first; seed <= last; ++seed)); do
    [[ " ${seeds[*]} " != *" $seed "* ]] || usage "--seeds $seed_list: $seed is there twice"
    seeds+=("$seed")
  done
done
((${#seeds[@]} > 0)) || usage "--seeds names no seed"
configs=()
for input in "${inputs[@]}"; do
  if [[ -d $input ]]; then
    found=("${input%/}"/*.yaml)
    [[ -e ${found[0]} ]] || usage "the folder $input has no *.yaml file"
    configs+=("${found[@]}")
  else
    [[ -r $input ]] || usage "there is no configuration $input"
    configs+=("$input")
  fi
done
declare -A file_of=()
for config in "${configs[@]}"; do
  name=$(basename "$config" .yaml)
  if [[ -n ${file_of[$name]:-} ]]; then
    usage "${file_of[$name]} and $config have the same name, so their run folders would be the same; use two sweeps"
  fi
  file_of[$name]=$config
done

if ((${#against[@]} > 0)) && [[ -z ${file_of[${against[1]}]:-} && ! -d $out/${against[1]} ]]; then
  usage "--against ${against[1]}: no such configuration; it must be one of ${!file_of[*]}"
fi

# Sets `arguments`: those of biqa_learner after its configuration.
arguments_of() {  # arguments_of RUN-FOLDER SEED
  arguments=("${sets[@]}" --set "train.seed=$2" --set "train.out=$1" --set checkpoint.resume=auto)
}
titles=() run_configs=() folders=() run_seeds=() states=()
for config in "${configs[@]}"; do
  name=$(basename "$config" .yaml)
  for seed in "${seeds[@]}"; do
    folder=$out/$name/seed-$seed
    arguments_of "$folder" "$seed"
    # This also finds mistakes in a configuration before anything runs.
    status=0
    state=$("$sweep" state --config "$config" "${arguments[@]}" --set checkpoint.save_signal=SIGUSR1) || status=$?
    ((status == 0)) || exit "$status"
    if [[ $changed == yes && $state == changed* ]]; then state=started; fi
    titles+=("$name, seed $seed") run_configs+=("$config") folders+=("$folder") run_seeds+=("$seed") states+=("$state")
  done
done
count=${#titles[@]}
todo=() failed=() stopped=() partial=no finished=0
for ((i = 0; i < count; ++i)); do
  case ${states[i]} in
    finished) finished=$((finished + 1)) ;;
    changed*)
      failed+=("${titles[i]}")
      printf 'error: launch/sweep.sh: %s: %s holds a run with other settings than now (%s); use another --out, or go on with --changed\n' \
        "${titles[i]}" "${folders[i]}" "${states[i]#changed }" >&2
      ;;
    *) todo+=("$i") ;;
  esac
done
# Every configuration with something to do is checked before the first run begins, so that none fails hours later.
missing=0 checked=''
for i in "${todo[@]}"; do
  [[ ${run_configs[i]} != "$checked" ]] || continue
  checked=${run_configs[i]}
  status=0
  "$sweep" check --config "$checked" "${sets[@]}" || status=$?
  ((missing > 0)) || missing=$status
done
[[ $missing == 0 || $dry_run == yes ]] || exit "$missing"
say "$count runs: $finished finished, ${#todo[@]} to do${failed:+, ${#failed[@]} with other settings}"

# ---- what would run
if [[ $slurm == yes ]]; then
  options=(--array="1-${#todo[@]}${jobs:+%$jobs}" --job-name="sweep-$(basename "$out")" --nodes="${BIQA_NODES:-1}")
  options+=(--ntasks-per-node="${BIQA_RANKS_PER_NODE:-${BIQA_GPUS_PER_NODE:-$ranks}}")
  [[ -z ${BIQA_CPUS_PER_RANK:-} ]] || options+=(--cpus-per-task="$BIQA_CPUS_PER_RANK")
  [[ -z ${BIQA_GPUS_PER_NODE:-} ]] || options+=(--gpus-per-node="$BIQA_GPUS_PER_NODE")
fi
jobs=${jobs:-1}
if [[ $dry_run == yes ]]; then
  for ((i = 0; i < count; ++i)); do
    printf '%-9s %s %s\n' "${states[i]%% *}" "${run_configs[i]}" "${folders[i]}"
  done
  if ((${#todo[@]} > 0)); then
    if [[ $slurm == yes ]]; then
      printf '%q ' sbatch "${options[@]}" launch/sweep.slurm LIST "${sets[@]}"
    else
      arguments_of "$out/NAME/seed-SEED" SEED
      printf '%q ' "$here/local.sh" -n "$ranks" CONFIG "${arguments[@]}"
    fi
    printf '\n'
  fi
  exit "$missing"
fi
mkdir -p "$out" || refuse 1 "$out: the folder cannot be made; name another --out"

# ---- as a Slurm job array: each task reads its line of the list
if [[ $slurm == yes ]] && ((${#todo[@]} > 0)); then
  command -v sbatch >/dev/null || refuse 1 "there is no sbatch here; submit on a machine of the cluster, or leave --slurm out"
  list=$(mktemp "$(realpath "$out")/array-XXXXXX.tsv") || refuse 1 "$out: no file can be written there"
  for i in "${todo[@]}"; do
    printf '%s\t%s\t%s\n' "$(realpath -s "${run_configs[i]}")" "$(realpath -ms "${folders[i]}")" "${run_seeds[i]}"
  done >"$list"
  output=$(realpath "$out")/%A_%a.out
  cd "$here/.."
  sbatch "${options[@]}" --output="$output" launch/sweep.slurm "$list" "${sets[@]}" || refuse 1 "sbatch refused the array (see above)"
  say "when the array is done, give the same command again: it prints the table, or submits what is left"
  ((${#failed[@]} == 0)) || exit 3
  exit 0
fi

# ---- on this machine
# Runs side by side share the processors.
if ((jobs > 1)) && [[ -z ${OMP_NUM_THREADS:-} ]]; then
  threads=$(($(bash "$here/processors.sh") / (jobs * ranks)))
  export OMP_NUM_THREADS=$((threads > 0 ? threads : 1))
fi
export BIQA_LEARNER=$learner
declare -A running=() began=()  # index of the run by process
stopping=no
# Each job has its own session, so the terminal's Ctrl-C reaches only this script.
is_evaluated() {  # is_evaluated FOLDER: whether its final adapter was evaluated, with any encoder
  [[ $1/evaluation.json -nt $1/adapter.h5 ]]
}
has_encoder() {  # has_encoder FOLDER: whether its evaluation used the wanted encoder, or no encoder is wanted
  [[ -z $encoder || $(cat "$1/evaluation.encoder" 2>/dev/null || true) == "$encoder" ]]
}
start_evaluation() {  # start_evaluation INDEX
  local folder=${folders[$1]}
  local source=(--config "$folder/config.yaml" --adapter "$folder" --predictions "$folder/predictions.jsonl")
  # If the answers are there, only the figures of texts are computed again.
  if is_evaluated "$folder" && [[ -e $folder/predictions.jsonl ]]; then
    source=(--from-predictions "$folder/predictions.jsonl")
  else
    rm -f "$folder/predictions.jsonl"
  fi
  rm -f "$folder/evaluation.encoder"
  setsid setpriv --pdeathsig TERM "$evaluator" "${source[@]}" "${similarity[@]}" \
    --format json </dev/null >"$folder/.evaluation.part" 2>>"$folder.log" &
  running[$!]=$1
  began[$!]=$SECONDS
}
start_training() {  # start_training INDEX
  mkdir -p "$(dirname "${folders[$1]}")" || refuse 1 "${folders[$1]}: the folder above it cannot be made"
  arguments_of "${folders[$1]}" "${run_seeds[$1]}"
  setsid setpriv --pdeathsig TERM bash "$here/local.sh" -n "$ranks" "${run_configs[$1]}" "${arguments[@]}" \
    </dev/null >>"${folders[$1]}.log" 2>&1 &
  running[$!]=$1
  began[$!]=$SECONDS
  say "${titles[$1]}: begins, log ${folders[$1]}.log"
}
end_evaluation() {  # end_evaluation PROCESS
  local i=${running[$1]} status=0
  wait "$1" || status=$?
  unset "running[$1]"
  if ((status == 0)); then
    mv "${folders[i]}/.evaluation.part" "${folders[i]}/evaluation.json"
    [[ -z $encoder ]] || printf '%s\n' "$encoder" >"${folders[i]}/evaluation.encoder"
    say "${titles[i]}: evaluated in $((SECONDS - began[$1])) s"
  elif ((status == 75)); then
    stopped+=("evaluation of ${titles[i]}")
  else
    failed+=("evaluation of ${titles[i]}")
    printf 'error: launch/sweep.sh: the evaluation of %s failed with exit code %s; see %s\n' "${titles[i]}" "$status" \
      "${folders[i]}.log" >&2
  fi
}
end_training() {  # end_training PROCESS
  local i=${running[$1]} status=0 reason
  wait "$1" || status=$?
  unset "running[$1]"
  local took=$((SECONDS - began[$1]))
  case $status in
    0) finished=$((finished + 1)); say "${titles[i]}: finished in $took s" ;;
    3) finished=$((finished + 1)) partial=yes; say "${titles[i]}: finished in $took s, but some inputs failed; see its log" ;;
    75) stopped+=("${titles[i]}"); say "${titles[i]}: stopped on request" ;;
    *)
      failed+=("${titles[i]}")
      reason=$(grep -a '^error: ' "${folders[i]}.log" | tail -n 1 || true)
      printf 'error: launch/sweep.sh: %s failed with exit code %s: %s; see %s\n' "${titles[i]}" "$status" \
        "${reason#error: }" "${folders[i]}.log" >&2
      ;;
  esac
}
# local.sh finishes the step and saves on the first SIGTERM, and kills the ranks on the second.
stop() {
  stopping=yes
  say "stopping: each run finishes its step and saves (ask again to kill them)"
  ((${#running[@]} == 0)) || kill -TERM "${!running[@]}" 2>/dev/null || true
}
save() { [[ ${kind:-} != training ]] || ((${#running[@]} == 0)) || kill -USR1 "${!running[@]}" 2>/dev/null || true; }
trap stop INT TERM
trap save USR1

# run_all training|evaluation INDEX…: at most `jobs` side by side. Runs that a stop leaves out count as stopped.
run_all() {
  local kind=$1 process
  shift
  while (($# > 0 || ${#running[@]} > 0)); do
    if [[ $stopping == no ]] && (($# > 0 && ${#running[@]} < jobs)); then
      "start_$kind" "$1"
      shift
      continue
    fi
    [[ $stopping == no || ${#running[@]} -gt 0 ]] || break
    for process in "${!running[@]}"; do
      kill -0 "$process" 2>/dev/null || "end_$kind" "$process"
    done
    sleep 0.1 >/dev/null 2>&1 || true  # may outlive this script
  done
  for process in "$@"; do stopped+=("${titles[process]}"); done
}
run_all training "${todo[@]}"
if [[ $evaluate == yes && $stopping == no ]]; then
  # Runs whose final adapter was not evaluated, or not with this encoder.
  unevaluated=()
  for ((i = 0; i < count; ++i)); do
    [[ -e ${folders[i]}/adapter.h5 ]] || continue
    { is_evaluated "${folders[i]}" && has_encoder "${folders[i]}"; } || unevaluated+=("$i")
  done
  run_all evaluation "${unevaluated[@]}"
fi

# ---- the table, and what became of the runs
table=0
write_table() {  # write_table COMMAND NAME [FLAG…]: writes what biqa_sweep COMMAND prints to OUT/NAME.txt and OUT/NAME.csv
  local format file status
  for format in csv table; do
    file=$2.$([[ $format == csv ]] && echo csv || echo txt)
    status=0
    "$sweep" "$1" "$out" "${@:3}" --format "$format" >"$out/.$file.part" 2>"$out/.table.log" || status=$?
    if ((status == 0 || status == 3)); then
      mv "$out/.$file.part" "$out/$file"
    else
      rm -f "$out/.$file.part"
      table=1
    fi
  done
  cat "$out/.table.log" >&2
  rm -f "$out/.table.log"
}
write_table table table
((table > 0)) || cat "$out/table.txt"
if [[ $evaluate == yes ]]; then
  write_table evaluations evaluations
  ((table > 0)) || { echo; cat "$out/evaluations.txt"; }
  if ((${#against[@]} > 0)); then
    write_table evaluations differences "${against[@]}"
    ((table > 0)) || { echo; cat "$out/differences.txt"; }
  fi
fi
say "$finished of $count runs are finished${failed:+, ${#failed[@]} failed}${stopped:+, ${#stopped[@]} stopped}; the table is in $out/table.txt and $out/table.csv"
for title in "${failed[@]}"; do say "failed: $title"; done
for title in "${stopped[@]}"; do say "stopped: $title"; done
if ((${#stopped[@]} > 0)); then exit 75; fi
if ((finished == 0 || table > 0)); then exit 1; fi
if ((${#failed[@]} > 0)) || [[ $partial == yes ]]; then exit 3; fi
