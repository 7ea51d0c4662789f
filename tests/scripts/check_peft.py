#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PEFT loads the adapter folders that biqa writes, and means the same by them as by its own.

    python3 tests/scripts/check_peft.py BUILD/tests/model_peft_test SHARED

The test program writes each golden adapter again; PEFT (0.21, with transformers 5.23 and torch) loads the golden
folder and ours on the golden model and must have identical tensors and scales, with no key missing or unexpected.
"""
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import Qwen2_5_VLForConditionalGeneration

PAIRS = {"flat-tied-all": "flat-tied", "nested-qv": "nested-sharded", "seven-rslora": "seven-bf16",
         "partial-attention": "partial-vision"}


def load(model: Path, adapter: Path):
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(model, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys.*")  # of which PEFT only warns
        tuned = PeftModel.from_pretrained(base, adapter)
    tensors = {name: value for name, value in tuned.state_dict().items() if "lora_" in name}
    scales = {name: module.scaling["default"] for name, module in tuned.named_modules() if isinstance(module, LoraLayer)}
    return tensors, scales


def main() -> int:
    program, shared = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "BIQA_SHARED": str(shared), "BIQA_KEEP_ADAPTERS": folder}
        subprocess.run([program, "--gtest_filter=Peft.ReadsTheGoldenAdapters"], env=environment, check=True,
                       stdout=subprocess.DEVNULL)
        for adapter, model in PAIRS.items():
            want, want_scales = load(shared / "golden/models" / model, shared / "golden/adapters" / adapter)
            have, have_scales = load(shared / "golden/models" / model, Path(folder) / adapter)
            same = want.keys() == have.keys() and all(torch.equal(want[name], have[name]) for name in want)
            same = same and want_scales == have_scales
            print(f"{adapter}: {len(have)} tensors, {'identical' if same else 'DIFFERENT'}")
            wrong += not same
    print(f"peft: {len(PAIRS) - wrong} of {len(PAIRS)} adapters agree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
