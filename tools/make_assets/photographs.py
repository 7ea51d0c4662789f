# SPDX-License-Identifier: Apache-2.0
"""The photographs all pictures are cut from, and the rule that cuts them.

Every photograph is shipped inside the scikit-image package and is CC0 or in the public domain
(assets/README.md lists authors and sources). Training crops come from the left 65 % of a
photograph, test crops from the right 35 %, so that no test pixel was ever trained on.
"""

from pathlib import Path

import numpy as np
import skimage
from PIL import Image

PICTURE_SIDE = 112
LARGEST_CROP = 300
TRAINING_SHARE = 0.65
SMALLEST_DEVIATION = 18.0

GRPO_PHOTOGRAPHS = ("astronaut", "coffee", "rocket")
PRETRAINING_PHOTOGRAPHS = GRPO_PHOTOGRAPHS + ("camera", "grass", "gravel", "brick", "retina")
HELD_OUT_PHOTOGRAPH = "chelsea"
GREY_PHOTOGRAPHS = ("camera", "grass", "gravel", "brick")
FILES = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "camera": "camera.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
}


def load_photographs(names):
    """Returns {name: RGB uint8 [height, width, 3]}; read as files, so nothing is downloaded."""
    folder = Path(skimage.__file__).parent / "data"
    return {name: np.asarray(Image.open(folder / FILES[name]).convert("RGB")) for name in names}


def region_of(photograph, part):
    """The columns of a photograph that `part` ("left", "right" or "whole") may use."""
    border = int(photograph.shape[1] * TRAINING_SHARE)
    return {"left": photograph[:, :border], "right": photograph[:, border:], "whole": photograph}[part]


def tint(grey, rng):
    """Gives a grey crop a random dark and a random light colour."""
    dark = rng.uniform(0, 110, 3)
    light = rng.uniform(150, 256, 3)
    return np.clip(dark + grey.astype(np.float32) / 255 * (light - dark), 0, 255).astype(np.uint8)


def draw_crop(name, photograph, part, rng):
    """A random square crop as uint8 [112, 112, 3]: 112 to 300 px, bicubic, mirrored at random.

    Crops that show next to nothing (grey deviation below 18) are drawn again.
    """
    region = region_of(photograph, part)
    largest = min(LARGEST_CROP, region.shape[0], region.shape[1])
    while True:
        side = int(rng.integers(PICTURE_SIDE, largest + 1))
        top = int(rng.integers(0, region.shape[0] - side + 1))
        left = int(rng.integers(0, region.shape[1] - side + 1))
        crop = region[top : top + side, left : left + side]
        picture = Image.fromarray(np.ascontiguousarray(crop))
        crop = np.asarray(picture.resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BICUBIC))
        if np.asarray(Image.fromarray(crop).convert("L")).std() < SMALLEST_DEVIATION:
            continue
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        return tint(crop, rng) if name in GREY_PHOTOGRAPHS else crop
