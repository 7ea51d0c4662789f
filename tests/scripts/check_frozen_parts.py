#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Adapters of PEFT with parts on the vision tower, the merger or the head mean the same to biqa as to PEFT.

    python3 tests/scripts/check_frozen_parts.py BUILD/bin IMAGE MODEL [MODEL]...

MODEL is a Qwen2.5-VL folder. PEFT (0.21, with transformers 5.24 and torch) makes adapters on it, with random values. For
each one:
  logits  those of biqa_trace, and its vision_embeds, against PEFT's in float32 on the same input
  names   the same to the bit with an adapter's name in the keys, and with the paths of transformers before 4.52
  export  import and export by biqa_ckpt: PEFT loads what comes out, with the same tensors and scales
  merge   biqa_ckpt merge: transformers' logits of the merged folder against PEFT's
"""
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import h5py
import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration as Network
from transformers.utils import logging

warnings.simplefilter("ignore")
logging.disable_progress_bar()
SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "seven": dict(r=4, lora_alpha=8, target_modules=SEVEN),
    "all-linear": dict(r=3, lora_alpha=6, target_modules="all-linear", use_rslora=True),
    "convolution": dict(r=4, lora_alpha=8, target_modules=["q_proj", "qkv", "proj"], rank_pattern={"qkv": 2},
                        alpha_pattern={"visual.blocks.0.attn.proj": 3}),
    "head": dict(r=4, lora_alpha=8, target_modules=["q_proj", "lm_head"]),
    "vision-only": dict(r=4, lora_alpha=8, target_modules=r".*visual\.blocks\.\d+\.mlp\.(gate_proj|up_proj)"),
    "first-layers": dict(r=4, lora_alpha=8, target_modules=SEVEN, layers_to_transform=[0]),
}
# Root mean square of a difference against that of the values: 300 roundings, or four of the file's type after a merge.
LIMITS = {torch.float32: 300 * 2.0**-24, torch.bfloat16: 4 * 2.0**-8, torch.float16: 4 * 2.0**-11}


def run(program, *words):
    done = subprocess.run([program, *map(str, words)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{program.name} {' '.join(map(str, words))}: exit code {done.returncode}: {done.stderr}")
    return done.stdout


def off(have, want):
    have, want = np.asarray(have, np.float64), np.asarray(want, np.float64)
    return float(np.sqrt(np.mean((have - want) ** 2)) / np.sqrt(np.mean(want**2)))


def trace(bin, model, image, out, *flags):
    run(bin / "biqa_trace", "--model", model, "--dtype", "f32", "--image", image, "--prompt", "Rate this picture.", *flags,
        "--out", out)
    with h5py.File(out) as file:
        return {name: file[name][:] for name in file if isinstance(file[name], h5py.Dataset)}


def reference(network, inputs):
    """Logits [T, V] and vision features of a network on what biqa_trace was given."""
    seen = []
    visual = (network.get_base_model() if isinstance(network, PeftModel) else network).model.visual
    # Whichever of the outputs holds the merged features.
    hook = visual.merger.register_forward_hook(lambda module, given, result: seen.append(result))
    with torch.no_grad():
        logits = network.eval()(input_ids=torch.tensor(inputs["input_ids"])[None],
                                pixel_values=torch.tensor(inputs["pixel_values"]),
                                image_grid_thw=torch.tensor(inputs["image_grid_thw"]),
                                position_ids=torch.tensor(inputs["position_ids"])[:, None]).logits[0]
    hook.remove()
    return logits.numpy(), seen[0].numpy()


def scales_of(network):
    return {name: module.scaling["default"] for name, module in network.named_modules() if isinstance(module, LoraLayer)}


def renamed(adapter: Path, target: Path, change):
    target.mkdir()
    (target / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    save_file({change(name): value for name, value in load_file(adapter / "adapter_model.safetensors").items()},
              target / "adapter_model.safetensors")


def check(bin, image, model, name, settings, folder):
    failures = []

    def expect(holds, what):
        if not holds:
            failures.append(what)

    def base():
        return Network.from_pretrained(model, dtype=torch.float32)

    torch.manual_seed(3)
    made = get_peft_model(base(), LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for key, value in made.named_parameters():
            if "lora_" in key:
                value.normal_(0, 0.1)
    made.save_pretrained(folder / "peft")
    made = PeftModel.from_pretrained(base(), folder / "peft")
    with safe_open(folder / "peft/adapter_model.safetensors", "pt") as file:
        frozen = sum("visual" in key or "lm_head" in key for key in file.keys())

    plain = trace(bin, model, image, folder / "plain.h5")
    have = trace(bin, model, image, folder / "tuned.h5", "--adapter", folder / "peft")
    logits, features = reference(made, have)
    distance = off(have["logits"], logits)
    moved = off(plain["logits"], logits)
    expect(distance < LIMITS[torch.float32], f"logits: off by {distance:.1e}")
    expect(moved > 100 * distance, f"logits: the adapter moves them by {moved:.1e} only")
    # The merger's rows stand window by window, biqa's in the picture's order: compared as sets of rows.
    rows = lambda values: np.asarray(sorted(map(tuple, np.asarray(values, np.float64))))
    seen = off(rows(have["vision_embeds"]), rows(features))
    expect(seen < LIMITS[torch.float32], f"vision: off by {seen:.1e}")

    old = lambda key: key.replace(".model.visual.", ".visual.", 1).replace(".language_model.", ".", 1)
    for label, change in [("an adapter's name", lambda key: key.replace(".weight", ".mine.weight") if "lora_" in key else key),
                          ("old paths", lambda key: key if key.startswith("base_model.model.lm_head") else old(key))]:
        target = folder / label.replace(" ", "-").replace("'", "")
        renamed(folder / "peft", target, change)
        other = trace(bin, model, image, folder / "other.h5", "--adapter", target)
        expect(np.array_equal(other["logits"], have["logits"]), f"names: other logits with {label}")

    run(bin / "biqa_ckpt", "import", "--peft", folder / "peft", "--model", model, "--out", folder / "checkpoint")
    run(bin / "biqa_ckpt", "verify", folder / "checkpoint")
    again = trace(bin, model, image, folder / "again.h5", "--adapter", folder / "checkpoint")
    expect(np.array_equal(again["logits"], have["logits"]), "export: other logits from the checkpoint")
    run(bin / "biqa_ckpt", "export", folder / "checkpoint", "--model", model, "--peft", folder / "exported")
    want = load_file(folder / "peft/adapter_model.safetensors")
    want = {key: value for key, value in want.items() if "lora_" in key}
    came = load_file(folder / "exported/adapter_model.safetensors")
    expect(want.keys() == came.keys() and all(torch.equal(want[key], came[key]) for key in want), "export: other tensors")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys.*")  # of which PEFT only warns
        exported = PeftModel.from_pretrained(base(), folder / "exported")
    expect(scales_of(exported) == scales_of(made), "export: other scales")
    expect(np.array_equal(reference(exported, have)[0], logits), "export: PEFT's logits differ")

    merged = "not merged, since the head is the embedding"
    if not (name == "head" and made.get_base_model().config.tie_word_embeddings):
        run(bin / "biqa_ckpt", "merge", folder / "checkpoint", "--model", model, "--out", folder / "merged")
        whole = Network.from_pretrained(folder / "merged", dtype=torch.float32)
        with safe_open(next((folder / "merged").glob("*.safetensors")), "pt") as file:
            dtype = file.get_tensor(next(iter(file.keys()))).dtype
        distance_merged = off(reference(whole, have)[0], logits)
        expect(distance_merged < LIMITS[dtype], f"merge: off by {distance_merged:.1e}")
        merged = f"merged {distance_merged:.1e} ({str(dtype)[6:]})"
    print(f"{model.name} {name}: {frozen} of {len(want)} tensors frozen; logits off by {distance:.1e}, vision {seen:.1e}, "
          f"{merged}; moved by {moved:.1e}: {'agree' if not failures else 'WRONG'}")
    for failure in failures:
        print(f"  {failure}")
    return not failures


def main() -> int:
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    bin, image, *models = [Path(word).resolve() for word in sys.argv[1:]]
    agree = 0
    for model in models:
        for name, settings in ADAPTERS.items():
            with tempfile.TemporaryDirectory() as folder:
                agree += check(bin, image, model, name, settings, Path(folder))
    count = len(models) * len(ADAPTERS)
    print(f"frozen parts: {agree} of {count} adapters agree")
    return 0 if agree == count else 1


if __name__ == "__main__":
    sys.exit(main())
