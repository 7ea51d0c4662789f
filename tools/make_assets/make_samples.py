# SPDX-License-Identifier: Apache-2.0
"""Writes two larger photographs to rate: the held-out one as it is, and underexposed."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import distortions
import photographs

SIDE = 256
TOP, LEFT = 20, 100
DARKEN, LEVEL = 17, 5


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="folder for sample_cat.png and sample_cat_dark.png")
    options = parser.parse_args()
    name = photographs.HELD_OUT_PHOTOGRAPH
    photograph = photographs.load_photographs([name])[name]
    crop = photograph[TOP : TOP + SIDE, LEFT : LEFT + SIDE]
    rng = np.random.default_rng(0)
    for file, kind in (("sample_cat.png", distortions.CLEAN), ("sample_cat_dark.png", DARKEN)):
        picture = Image.fromarray(distortions.distort(crop, kind, LEVEL, rng))
        picture.save(Path(options.out) / file, optimize=True)


if __name__ == "__main__":
    main()
