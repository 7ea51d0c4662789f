# SPDX-License-Identifier: Apache-2.0
"""Writes the test set (or, with --set train, the training set) of the embedded default.

Pictures are lossless WebP, the manifest is JSON lines.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

import photographs
import pictures
import texts

SEEDS = {"train": 101, "test": 202}
PARTS = {"train": "left", "test": "right"}


def human_text_of(picture, seed, index):
    """Drawn by (seed, index) alone, like the picture."""
    return texts.human_text(picture, np.random.default_rng([seed, index, 1]))


def row_of(name, index, picture, human):
    file = f"{name}/{index:04d}.webp"
    return {
        "id": f"{name}-{index:04d}",
        "image": file,
        "score": round(picture.score, 6),
        "set": name,
        "text": {"description": human.description, "good": human.good, "bad": human.bad},
        "photo": picture.photograph,
        "distortion": picture.kind,
        "level": picture.level,
    }


def write_set(name, count, folder):
    """Writes OUT/NAME.jsonl and OUT/NAME/0000.webp…; a shorter set is a prefix of a longer one."""
    folder = Path(folder)
    (folder / name).mkdir(parents=True, exist_ok=True)
    seed = SEEDS[name]
    drawn = pictures.draw_pictures(count, photographs.GRPO_PHOTOGRAPHS, PARTS[name], seed)
    with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as manifest:
        for index, picture in enumerate(drawn):
            row = row_of(name, index, picture, human_text_of(picture, seed, index))
            Image.fromarray(picture.pixels).save(folder / row["image"], "WEBP", lossless=True, quality=80, method=4)
            manifest.write(json.dumps(row) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", choices=sorted(SEEDS), default="test")
    parser.add_argument("--n", type=int, default=960, help="number of pictures")
    parser.add_argument("--out", required=True, help="folder for the manifest and the pictures")
    options = parser.parse_args()
    write_set(options.set, options.n, options.out)


if __name__ == "__main__":
    main()
