#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What biqa_ckpt exports, imports and merges means the same to h5py, PEFT and transformers.

    python3 tests/scripts/check_merge.py BUILD/bin/biqa_ckpt MODEL ADAPTER [MODEL ADAPTER]...

MODEL is a Qwen2.5-VL folder, ADAPTER a PEFT folder, a checkpoint or a run of biqa. Needs torch, transformers, PEFT, h5py
and safetensors. For each pair:
  hdf5    import, then h5py reads adapter.h5 and the optimizer shard: values and layout as documented
  peft    export, then PEFT loads the folder with no key missing; the same tensors and scales as the original
  merge   every merged tensor is round(W + scale * sum_r B[:, r] A[r, :]), f32 in the order of r, to the bit; every other
          tensor, the shards, the index and the files beside them are as they were
  logits  transformers loads the merged folder; in float32 its logits are those of base and adapter by PEFT but for what the
          rounding of the merged weights to the file's dtype changes
"""
import json
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import h5py
import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from transformers import Qwen2_5_VLForConditionalGeneration as Network

warnings.simplefilter("ignore", FutureWarning)  # of transformers about itself

# Root mean square of the logits' difference against that of the logits: 300 float32 roundings, or four of the file's.
LIMITS = {torch.float32: 300 * 2.0**-24, torch.bfloat16: 4 * 2.0**-8, torch.float16: 4 * 2.0**-11}


def biqa(program, *words):
    done = subprocess.run([program, *map(str, words)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, words))}: exit code {done.returncode}: {done.stderr}")
    return done.stdout


def tensors_of(folder: Path):
    """Name to (file, tensor) of all weights that transformers would read."""
    single = folder / "model.safetensors"
    files = [single] if single.exists() else sorted(folder.glob("model-*.safetensors"))
    found = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            found.update({name: (file.name, opened.get_tensor(name)) for name in opened.keys()})
    return found


def place(key: str):
    """The module of a key of PEFT or of a model's file, whatever stands before "layers.0.…", "visual.…" or "lm_head"."""
    path = re.sub(r"(\.lora_[AB])?(\.default)?\.weight$", "", key.removeprefix("base_model.model."))
    return re.sub(r"^(model\.)?(language_model\.)?", "", path)


def load_peft(base, folder):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys.*")  # of which PEFT only warns
        tuned = PeftModel.from_pretrained(base, folder)
    tensors = {name: value.clone() for name, value in tuned.state_dict().items() if "lora_" in name}
    scales = {place(name + ".weight"): module.scaling["default"]
              for name, module in tuned.named_modules() if isinstance(module, LoraLayer)}
    return tuned, tensors, scales


def check(program, model: Path, adapter: Path, folder: Path):
    failures = []

    def expect(holds, what):
        if not holds:
            failures.append(what)

    def base():
        return Network.from_pretrained(model, dtype=torch.float32)

    # The original: as PEFT has it, where it is a PEFT folder.
    original = adapter if (adapter / "adapter_config.json").exists() else None
    biqa(program, "export", adapter, "--peft", folder / "peft")
    tuned, tensors, scales = load_peft(base(), folder / "peft")
    old_names = False
    if original is not None:
        with safe_open(original / "adapter_model.safetensors", "pt") as opened:
            stored = {(place(key), "lora_A" in key): opened.get_tensor(key).float() for key in opened.keys()}
            old_names = not any(".language_model." in key for key in opened.keys())
        ours = {(place(key), "lora_A" in key): value for key, value in tensors.items()}
        expect(stored.keys() == ours.keys() and all(torch.equal(stored[k], ours[k]) for k in stored), "peft: other tensors")
        if not old_names:  # which this PEFT no longer finds by itself
            _, want, want_scales = load_peft(base(), original)
            expect(want.keys() == tensors.keys() and all(torch.equal(want[k], tensors[k]) for k in want), "peft: other keys")
            expect(want_scales == scales, "peft: other scales")

    biqa(program, "import", "--peft", folder / "peft", "--out", folder / "imported")
    biqa(program, "verify", folder / "imported")
    expect(json.loads(biqa(program, "diff", folder / "imported", folder / "peft", "--format", "json"))["equal"],
           "hdf5: diff tells them apart")
    with h5py.File(folder / "imported/optimizer-00000-of-00001.h5") as shard:
        master, names = shard["master"][:], [name.decode() for name in shard["names"][:]]
        ranges = {name: (o, n) for name, o, n in zip(names, shard["offset"][:], shard["length"][:])}
        expect(shard.attrs["begin"] == 0 and shard.attrs["end"] == len(master), "hdf5: range of the shard")
    with h5py.File(folder / "imported/adapter.h5") as file:
        trained = {key for key in file.keys() if ".visual." not in key and ".lm_head." not in key}
        expect(trained == set(names), "hdf5: other names")
        expect(isinstance(file.attrs["base_model"], str), "hdf5: base_model")
        for key in file.keys():
            value = file[key][:]
            expect(value.dtype == np.float32, f"hdf5: {key}")
            if key in trained:
                o, n = ranges[key]
                expect(np.array_equal(master[o:o + n], value.ravel()), f"hdf5: {key}")
            same = tensors[key.replace(".weight", ".default.weight")]
            expect(np.array_equal(same.numpy(), value), f"hdf5: {key} against PEFT")
        sources = {(place(key), "lora_A" in key): file[key][:] for key in file.keys()}

    biqa(program, "merge", adapter, "--model", model, "--out", folder / "merged")
    before, after = tensors_of(model), tensors_of(folder / "merged")
    expect(before.keys() == after.keys(), "merge: other tensors")
    merged = 0
    for name, (file, weight) in before.items():
        where, have = after[name]
        expect(where == file and have.dtype == weight.dtype, f"merge: {name} has another file or dtype")
        want = weight
        if name.endswith(".weight") and (place(name), True) in sources:
            a, b = (sources[place(name), half].reshape(sources[place(name), half].shape[0], -1) for half in (True, False))
            total = np.zeros((b.shape[0], a.shape[1]), np.float32)
            for r in range(a.shape[0]):
                total += b[:, r, None] * a[None, r, :]
            want = torch.from_numpy(weight.float().numpy() + np.float32(scales[place(name)]) * total.reshape(weight.shape)).to(weight.dtype)
            merged += 1
        expect(torch.equal(have.view(torch.uint8), want.view(torch.uint8)), f"merge: {name}")
    expect(merged == len(scales), f"merge: {merged} of {len(scales)} tensors")
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            own = file.name in ("README.md", "run.json")  # biqa_ckpt writes these, and keeps those of the model
            copy = folder / "merged" / (f"base_model_{file.name}" if own else file.name)
            expect(copy.exists() and copy.read_bytes() == file.read_bytes(), f"merge: {file.name}")

    torch.manual_seed(1)
    ids = torch.randint(0, 400, (2, 48))
    with torch.no_grad():
        want = tuned.eval()(input_ids=ids).logits
        whole, report = Network.from_pretrained(folder / "merged", dtype=torch.float32, output_loading_info=True)
        expect(not report["missing_keys"] and not report["unexpected_keys"], f"logits: {report}")
        have, plain = whole.eval()(input_ids=ids).logits, base().eval()(input_ids=ids).logits
    rms = lambda x: float(x.double().pow(2).mean().sqrt())
    off, moved = rms(have - want) / rms(want), rms(plain - want) / rms(want)
    dtype = next(iter(before.values()))[1].dtype
    expect(off < LIMITS[dtype], f"logits: off by {off:.2e}, more than {LIMITS[dtype]:.2e}")
    expect(moved > 3 * off, f"logits: the adapter moves them by {moved:.2e} only")
    print(f"{adapter.name} on {model.name}: {len(tensors)} tensors, {merged} merged of {len(before)} in "
          f"{len({file for file, _ in before.values()})} files ({str(dtype)[6:]}); logits off by {off:.1e} "
          f"(limit {LIMITS[dtype]:.1e}), moved by the adapter by {moved:.1e}: {'agree' if not failures else 'WRONG'}")
    for failure in failures[:10]:
        print(f"  {failure}")
    return not failures


def main() -> int:
    if len(sys.argv) < 4 or len(sys.argv) % 2:
        sys.exit(__doc__)
    program, paths = Path(sys.argv[1]).resolve(), [Path(path).resolve() for path in sys.argv[2:]]
    agree = 0
    pairs = list(zip(paths[::2], paths[1::2]))
    for model, adapter in pairs:
        with tempfile.TemporaryDirectory() as folder:
            agree += check(program, model, adapter, Path(folder))
    print(f"merge: {agree} of {len(pairs)} adapters agree")
    return 0 if agree == len(pairs) else 1


if __name__ == "__main__":
    sys.exit(main())
