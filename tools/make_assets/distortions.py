# SPDX-License-Identifier: Apache-2.0
"""Eleven distortions in five levels, with the mean human score of each (KADID-10k).

The keys are KADID-10k's type numbers. Its scores are means over 81 reference photographs of
(type, level), on its own scale of 1 to 5, higher is better; an undistorted picture gets 4.75.
"""

import io

import numpy as np
from PIL import Image
from scipy import ndimage

CLEAN = 0
CLEAN_SCORE = 4.75
LEVELS = 5
# Stored pictures keep 64 levels per channel: it is hardly visible, and a third of the bytes.
STORED_STEP = 4

TRAINED_TYPES = (1, 8, 10, 11, 13, 16, 17, 19, 21)
HELD_OUT_TYPES = (3, 14)
MEAN_SCORES = {
    1: (4.61, 4.38, 2.91, 1.87, 1.30),
    3: (4.60, 4.10, 2.85, 2.18, 1.67),
    8: (4.58, 3.33, 2.65, 1.82, 1.52),
    10: (4.34, 4.25, 3.87, 1.95, 1.35),
    11: (3.89, 3.39, 3.05, 2.71, 2.30),
    13: (3.58, 2.93, 2.61, 2.31, 2.13),
    14: (4.40, 3.58, 3.08, 2.64, 2.12),
    16: (4.51, 4.29, 3.63, 2.70, 1.81),
    17: (4.60, 4.53, 4.23, 3.53, 2.22),
    19: (4.42, 4.09, 3.24, 1.85, 1.34),
    21: (3.89, 3.10, 2.90, 2.79, 1.50),
}


def mean_score(kind, level):
    """The mean human score of a distortion type at level 1..5 (or of a clean picture)."""
    return CLEAN_SCORE if kind == CLEAN else MEAN_SCORES[kind][level - 1]


def gaussian_blur(x, rng, sigma):
    return ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="nearest")


def motion_blur(x, rng, length):
    step = ((0, 1), (1, 0), (1, 1), (1, -1))[rng.integers(4)]
    kernel = np.zeros((length, length, 1), np.float32)
    along = np.arange(length) - length // 2
    kernel[along * step[0] + length // 2, along * step[1] + length // 2] = 1 / length
    return ndimage.convolve(x, kernel, mode="nearest")


def over_saturate(x, rng, factor):
    grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
    return grey[..., None] + factor * (x - grey[..., None])


def compress(x, rng, quality):
    buffer = io.BytesIO()
    Image.fromarray(np.clip(np.rint(x), 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).astype(np.float32)


def white_noise(x, rng, sigma):
    """Grain: the same noise in the three channels."""
    return x + 255 * sigma * rng.standard_normal(x.shape[:2] + (1,), np.float32)


def multiplicative_noise(x, rng, sigma):
    return x * (1 + sigma * rng.standard_normal(x.shape[:2] + (1,), np.float32))


def impulse_noise(x, rng, share):
    hit = rng.random(x.shape[:2]) < share
    white = rng.random(x.shape[:2]) < 0.5
    return np.where(hit[..., None], np.where(white, 255, 0)[..., None], x)


def gain(x, rng, factor):
    return x * factor


def jitter(x, rng, sigma):
    """Takes each pixel from a place a few pixels off."""
    height, width = x.shape[:2]
    offset = np.rint(sigma * rng.standard_normal((2, height, width))).astype(int)
    rows = np.clip(np.arange(height)[:, None] + offset[0], 0, height - 1)
    columns = np.clip(np.arange(width)[None, :] + offset[1], 0, width - 1)
    return x[rows, columns]


def pixelate(x, rng, block):
    height, width = x.shape[:2]
    picture = Image.fromarray(x.astype(np.uint8))
    small = picture.resize((round(width / block), round(height / block)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST)).astype(np.float32)


DISTORTIONS = {
    1: (gaussian_blur, (0.6, 0.9, 1.4, 2.1, 3.2)),
    3: (motion_blur, (3, 5, 7, 11, 17)),
    8: (over_saturate, (1.3, 1.8, 2.6, 4.0, 7.0)),
    10: (compress, (45, 28, 16, 8, 3)),
    11: (white_noise, (0.02, 0.04, 0.065, 0.10, 0.16)),
    13: (impulse_noise, (0.004, 0.012, 0.03, 0.06, 0.11)),
    14: (multiplicative_noise, (0.06, 0.12, 0.19, 0.28, 0.42)),
    16: (gain, (1.2, 1.45, 1.8, 2.4, 3.4)),
    17: (gain, (0.8, 0.62, 0.45, 0.3, 0.17)),
    19: (jitter, (0.5, 0.9, 1.4, 2.2, 3.4)),
    21: (pixelate, (1.5, 2, 3, 4.5, 8)),
}


def distort(pixels, kind, level, rng):
    """Distorts uint8 [height, width, 3] and rounds to the levels that are stored."""
    x = pixels.astype(np.float32)
    if kind != CLEAN:
        apply, parameters = DISTORTIONS[kind]
        x = apply(x, rng, parameters[level - 1])
    steps = np.rint(np.clip(x, 0, 255) / STORED_STEP)
    return np.minimum(steps * STORED_STEP, 256 - STORED_STEP).astype(np.uint8)
