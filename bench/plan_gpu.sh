#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Usage: bench/plan_gpu.sh 3B|7B|32B|72B CONFIG [PATH/TO/biqa_learner] [--set KEY=VALUE]...
# Prints `biqa_learner --config CONFIG --dry-run` with model.device: cuda for Qwen2.5-VL of that size, without its files: a
# folder with the shapes of its config.json and the embedded model's tokenizer. That tokenizer cuts texts into more tokens, so
# a shorter user text stands for that of CONFIG: prompts of configs/koniq.yaml then have 664 tokens. With Qwen's own tokenizer
# they have about 730. Without the manifests, images of the largest size are assumed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
size=${1:?usage: bench/plan_gpu.sh 3B|7B|32B|72B CONFIG [LEARNER] [--set KEY=VALUE]...}
config=${2:?usage: bench/plan_gpu.sh 3B|7B|32B|72B CONFIG [LEARNER] [--set KEY=VALUE]...}
shift 2
learner=build/cpu/bin/biqa_learner
if [[ ${1:-} != "" && $1 != --* ]]; then learner=$1 && shift; fi

# hidden, intermediate, layers, heads, kv heads, vocabulary, tied, intermediate of the vision tower
case $size in
  3B) shape=(2048 11008 36 16 2 151936 true 3420) ;;
  7B) shape=(3584 18944 28 28 4 152064 false 3420) ;;
  32B) shape=(5120 27648 64 40 8 152064 false 3456) ;;
  72B) shape=(8192 29568 80 64 8 152064 false 3456) ;;
  *) echo "error: bench/plan_gpu.sh: unknown size $size; it must be 3B, 7B, 32B or 72B" >&2 && exit 2 ;;
esac
model=$(mktemp -d)
trap 'rm -rf "$model"' EXIT
for file in tokenizer.json tokenizer_config.json vocab.json merges.txt chat_template.jinja generation_config.json; do
  cp "assets/tiny/model/$file" "$model/"
done
sed -E 's/"max_pixels": [0-9]+/"max_pixels": 12845056/; s/"longest_edge": [0-9]+/"longest_edge": 12845056/' \
  assets/tiny/model/preprocessor_config.json >"$model/preprocessor_config.json"
cat >"$model/config.json" <<JSON
{"model_type": "qwen2_5_vl", "hidden_size": ${shape[0]}, "intermediate_size": ${shape[1]}, "num_hidden_layers": ${shape[2]},
 "num_attention_heads": ${shape[3]}, "num_key_value_heads": ${shape[4]}, "vocab_size": ${shape[5]},
 "tie_word_embeddings": ${shape[6]}, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "max_position_embeddings": 128000,
 "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "eos_token_id": 760, "pad_token_id": 761,
 "image_token_id": 766, "video_token_id": 767, "vision_start_token_id": 763, "vision_end_token_id": 764,
 "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": ${shape[7]}, "num_heads": 16,
  "out_hidden_size": ${shape[0]}, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112,
  "fullatt_block_indexes": [7, 15, 23, 31]}}
JSON
"$learner" --config "$config" --dry-run --set "model.path=$model" --set model.device=cuda \
  --set "prompts.user=$(printf 'Judge the picture. %.0s' {1..20})" "$@"
