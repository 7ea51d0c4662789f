# SPDX-License-Identifier: Apache-2.0
"""Stage 1 of pre-training: the vision tower alone learns distortion type, level and score.

A head on the mean image embedding predicts the picture's cell (type and level) and its score.
Two initialisations make this quick: DCT filters as patch embedding, and a first MLP that
squares its inputs, so that the second block already sees the energy in each band.
"""

import argparse
import logging
import math
import time

import numpy as np
import torch
import torch.nn.functional as F

import photographs
import pictures
from network import PATCH_SIZE, TEXT, VisionTower, linear

LEARNING_RATE = 2e-3
BATCH = 48
WEIGHT_DECAY = 0.02
WARM_UP = 20
TEST_PICTURES = 480


def dct_filters():
    """96 filters [96, 3, 14, 14]: 60 of luminance, 18 for each of two colour differences."""
    place = (torch.arange(PATCH_SIZE) + 0.5) * math.pi / PATCH_SIZE
    waves = torch.cos(torch.arange(PATCH_SIZE)[:, None] * place)
    fine = range(5, PATCH_SIZE)
    luminance = [(u, v) for u in range(5) for v in range(5)]
    luminance += [(u, 0) for u in fine] + [(0, u) for u in fine] + [(u, u) for u in fine]
    luminance += [(13, 6), (6, 13), (9, 4), (4, 9), (11, 7), (7, 11), (13, 3), (3, 13)]
    chroma = [(u, v) for u in range(3) for v in range(3)]
    chroma += [pair for u in (5, 9, 13) for pair in ((u, 0), (0, u), (u, u))]
    colours = [((1.0, 1.0, 1.0), luminance), ((1.0, -1.0, 0.0), chroma), ((-0.5, -0.5, 1.0), chroma)]
    return torch.stack(
        [torch.tensor(c)[:, None, None] * torch.outer(waves[u], waves[v]) for c, pairs in colours for u, v in pairs]
    )


@torch.no_grad()
def initialise(vision, patches):
    """Sets the DCT patch embedding, scaled to unit variance on `patches`, and the energy MLP."""
    filters = dct_filters()
    weight = torch.stack((filters, filters), dim=2) / 2
    deviation = (patches.flatten(0, 1) @ weight.flatten(1).T).std(dim=0)
    vision.patch_embed.proj.weight.copy_(weight / deviation[:, None, None, None, None])
    block = vision.blocks[0]
    hidden = weight.shape[0]
    both_signs = torch.cat((torch.eye(hidden), -torch.eye(hidden)))
    block.mlp.gate_proj.weight.copy_(both_signs)
    block.mlp.up_proj.weight.copy_(both_signs)
    down = block.mlp.down_proj.weight
    down[:, hidden:] = down[:, :hidden]
    block.attn.proj.weight.mul_(0.1)


def learning_rate_share(step, steps, warm_up, floor=0.0):
    """Linear warm-up, then a cosine from 1 down to `floor`."""
    if step < warm_up:
        return (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def batches(count, size, steps, rng):
    """`steps` batches of indices: one permutation of 0..count-1 after the other."""
    pool = np.empty(0, int)
    for _ in range(steps):
        if len(pool) < size:
            pool = rng.permutation(count)
        yield pool[:size]
        pool = pool[size:]


def evaluate(vision, head, test):
    """PLCC of the predicted score and accuracy of the predicted type on held-out crops."""
    with torch.no_grad():
        pixels = np.stack([p.pixels for p in test])
        output = torch.cat([head(vision(pictures.patches_of(part)).mean(1)) for part in np.array_split(pixels, 8)])
    scores = np.array([p.score for p in test])
    plcc = np.corrcoef(output[:, -1].numpy(), scores)[0, 1]
    kinds = (output[:, :-1].argmax(1).numpy() + 4) // 5
    return plcc, np.mean(kinds == (np.array([p.cell for p in test]) + 4) // 5)


def pretrain(training, steps, seed):
    """Trains a fresh tower on pictures; returns it."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    vision = VisionTower()
    head = linear(TEXT["hidden"], pictures.CELLS + 1, bias=True)
    pixels = np.stack([p.pixels for p in training])
    cells = torch.tensor([p.cell for p in training])
    scores = torch.tensor([p.score for p in training])
    initialise(vision, pictures.patches_of(pixels[:256]))
    optimizer = torch.optim.AdamW(
        [*vision.parameters(), *head.parameters()], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
    )
    start = time.time()
    for step, batch in enumerate(batches(len(training), BATCH, steps, rng)):
        output = head(vision(pictures.patches_of(pixels[batch])).mean(dim=1))
        cell_loss = F.cross_entropy(output[:, :-1], cells[batch])
        score_loss = F.mse_loss(output[:, -1], scores[batch] - 3)
        optimizer.zero_grad()
        (cell_loss + score_loss).backward()
        torch.nn.utils.clip_grad_norm_([*vision.parameters(), *head.parameters()], 1.0)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * learning_rate_share(step, steps, WARM_UP)
        optimizer.step()
        if (step + 1) % 50 == 0:
            logging.info(
                "vision step %d of %d: cell loss %.3f, score loss %.3f, %.0f s",
                step + 1, steps, cell_loss.item(), score_loss.item(), time.time() - start,
            )  # fmt: skip
    test = pictures.draw_pictures(TEST_PICTURES, photographs.GRPO_PHOTOGRAPHS, "right", seed=7)
    logging.info("vision on held-out crops: PLCC %.3f, type accuracy %.2f", *evaluate(vision, head, test))
    return vision


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="file for the tower's weights (.pt)")
    parser.add_argument("--pictures", type=int, default=16000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    training = pictures.draw_pictures(options.pictures, photographs.PRETRAINING_PHOTOGRAPHS, "left", options.seed)
    logging.info("drew %d pictures", len(training))
    torch.save(pretrain(training, options.steps, options.seed).state_dict(), options.out)


if __name__ == "__main__":
    main()
