# SPDX-License-Identifier: Apache-2.0
"""Draws distorted pictures with a score, and turns pictures into the network's patches."""

from dataclasses import dataclass

import numpy as np
import torch

import distortions
import photographs

SCORE_DEVIATION = 0.2
CLEAN_WEIGHT = 3
PATCH = 14
MERGE = 2
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass
class Picture:
    """pixels uint8 [112, 112, 3]; kind is a KADID type or 0, level 1..5 or 0; score in 1..5."""

    pixels: np.ndarray
    photograph: str
    kind: int
    level: int
    score: float

    @property
    def mean(self):
        return distortions.mean_score(self.kind, self.level)

    @property
    def cell(self):
        """0 for clean, then 1 + 5 * (place of the type) + level - 1, for the trained types."""
        if self.kind == distortions.CLEAN:
            return 0
        return distortions.LEVELS * distortions.TRAINED_TYPES.index(self.kind) + self.level


CELLS = 1 + distortions.LEVELS * len(distortions.TRAINED_TYPES)


def draw_picture(sources, part, kinds, rng):
    """Draws photograph, crop, distortion and score; clean has 3 parts, each type 5."""
    names = sorted(sources)
    name = names[rng.integers(len(names))]
    crop = photographs.draw_crop(name, sources[name], part, rng)
    choice = int(rng.integers(distortions.LEVELS * len(kinds) + CLEAN_WEIGHT))
    kind, level = distortions.CLEAN, 0
    if choice < distortions.LEVELS * len(kinds):
        kind, level = kinds[choice // distortions.LEVELS], choice % distortions.LEVELS + 1
    pixels = distortions.distort(crop, kind, level, rng)
    score = distortions.mean_score(kind, level) + SCORE_DEVIATION * rng.standard_normal()
    return Picture(pixels, name, kind, level, float(np.clip(score, 1, 5)))


def draw_pictures(count, names, part, seed, kinds=distortions.TRAINED_TYPES):
    """`count` pictures; the i-th depends on (seed, i) only, so a shorter set is a prefix."""
    sources = photographs.load_photographs(names)
    return [draw_picture(sources, part, kinds, np.random.default_rng([seed, i])) for i in range(count)]


def patches_of(pixels):
    """uint8 [batch, 112, 112, 3] to f32 [batch, 64, 1176] in Qwen2.5-VL's order.

    Patches follow each other merge group by merge group (2x2 neighbours together); a patch is
    channel, time (the picture twice), row, column.
    """
    x = torch.from_numpy(np.ascontiguousarray(pixels)).float() / 255
    x = (x - torch.tensor(IMAGE_MEAN)) / torch.tensor(IMAGE_STD)
    batch, side = x.shape[0], x.shape[1]
    groups = side // (PATCH * MERGE)
    x = x.view(batch, groups, MERGE, PATCH, groups, MERGE, PATCH, 3)
    x = x.permute(0, 1, 4, 2, 5, 7, 3, 6)
    x = x.reshape(batch, groups * groups * MERGE * MERGE, 3, 1, PATCH * PATCH)
    return x.expand(-1, -1, -1, 2, -1).reshape(batch, x.shape[1], -1)
