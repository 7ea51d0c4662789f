# SPDX-License-Identifier: Apache-2.0
"""Stages 2 and 3 of pre-training: the language model learns the answers, vision frozen.

Stage 2 teaches the texts without endings. A vague caption then goes with a guessed rating. Stage 3
adds the endings, which say whether the rating is guessed or careful. With endings from the start,
GRPO could hardly change how often the model chooses each ending.
"""

import argparse
import logging
import time
from dataclasses import dataclass

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F

import photographs
import pictures
import texts
from network import IMAGE_TOKENS, LanguageModel, VisionTower, positions_of
from pretrain_vision import batches, learning_rate_share
from tokenizer import chat

BATCH = 32
STAGE2_BATCH = 16
STAGE2_WEIGHT = 0.6
DIGIT_WEIGHT = 4.0
WARM_UP = 60
WEIGHT_DECAY = 0.02


@dataclass(frozen=True)
class Stage:
    name: str
    endings: bool
    steps: int
    learning_rate: float


STAGES = (Stage("plain", False, 900, 2e-3), Stage("endings", True, 420, 1.8e-3))


class Encoder:
    """Turns prompts and answers into token ids, targets and loss weights."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.end = tokenizer.token_to_id("<|im_end|>")
        self.image = tokenizer.token_to_id("<|image_pad|>")
        self.digits = {tokenizer.token_to_id(d) for d in "0123456789"}
        prompt = self.ids(chat(texts.USER_PROMPT, picture=True))
        self.image_start = prompt.index(self.image)
        self.prompt = prompt[: self.image_start] + [self.image] * IMAGE_TOKENS + prompt[self.image_start + 1 :]

    def ids(self, text):
        return self.tokenizer.encode(text).ids

    def batch(self, pairs):
        """[(prompt ids, answer)] to ids [n, T] and the loss weights [n, T - 1] of ids[:, 1:]."""
        rows = [(prompt, self.ids(answer) + [self.end]) for prompt, answer in pairs]
        length = max(len(prompt) + len(answer) for prompt, answer in rows)
        ids = torch.full((len(rows), length), self.end)
        weights = torch.zeros(len(rows), length)
        for row, (prompt, answer) in enumerate(rows):
            ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            weights[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(
                [DIGIT_WEIGHT if token in self.digits else 1.0 for token in answer]
            )
        return ids, weights[:, 1:]


@torch.no_grad()
def encode(vision, shown, batch=100):
    """Image embeddings [n, 16, 128], some at a time: the patches of all would take 3 GB."""
    parts = [np.stack([p.pixels for p in shown[at : at + batch]]) for at in range(0, len(shown), batch)]
    return torch.cat([vision(pictures.patches_of(pixels)) for pixels in parts])


def weighted_loss(logits, ids, weights):
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum()


def answer_loss(language, encoder, images, shown, endings, rng):
    """Stage-1 answers on `shown` pictures with the image embeddings [n, 16, 128]."""
    ids, weights = encoder.batch([(encoder.prompt, texts.draw_answer(p, endings, rng)) for p in shown])
    embeddings = language.embed_tokens(ids)
    start = encoder.image_start
    embeddings = torch.cat((embeddings[:, :start], images, embeddings[:, start + IMAGE_TOKENS :]), dim=1)
    return weighted_loss(language(embeddings, positions_of(ids.shape[1], start)), ids, weights)


def caption_loss(language, encoder, shown, rng):
    """Stage-2 ratings from captions alone."""
    pairs = [texts.draw_stage2(p, rng) for p in shown]
    prompts = [encoder.ids(chat(texts.STAGE2_PROMPT.format(caption=caption), picture=False)) for caption, _ in pairs]
    ids, weights = encoder.batch(list(zip(prompts, (answer for _, answer in pairs))))
    return weighted_loss(language(language.embed_tokens(ids), positions_of(ids.shape[1])), ids, weights)


def train_stage(stage, language, encoder, training, images, rng):
    """One stage with a fresh optimiser; its examples are drawn anew at every step."""
    parameters = list(language.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=stage.learning_rate, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)
    start = time.time()
    for step, batch in enumerate(batches(len(training), BATCH + STAGE2_BATCH, stage.steps, rng)):
        shown = [training[i] for i in batch]
        first = answer_loss(language, encoder, images[batch[:BATCH]], shown[:BATCH], stage.endings, rng)
        second = caption_loss(language, encoder, shown[BATCH:], rng)
        optimizer.zero_grad()
        (first + STAGE2_WEIGHT * second).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        share = learning_rate_share(step, stage.steps, WARM_UP, floor=0.03)
        optimizer.param_groups[0]["lr"] = stage.learning_rate * share
        optimizer.step()
        if (step + 1) % 50 == 0:
            logging.info(
                "%s step %d of %d: answer loss %.3f, rating from caption %.3f, %.0f s",
                stage.name, step + 1, stage.steps, first.item(), second.item(), time.time() - start,
            )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vision", required=True, help="the tower's weights, from pretrain_vision.py")
    parser.add_argument("--tokenizer", required=True, help="tokenizer.json, from learn_tokenizer.py")
    parser.add_argument("--out", required=True, help="file for the language model's weights (.pt)")
    parser.add_argument("--pictures", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    vision = VisionTower()
    vision.load_state_dict(torch.load(options.vision))
    training = pictures.draw_pictures(options.pictures, photographs.PRETRAINING_PHOTOGRAPHS, "left", options.seed)
    images = encode(vision, training)
    logging.info("drew and encoded %d pictures", len(training))
    encoder = Encoder(tokenizers.Tokenizer.from_file(options.tokenizer))
    language = LanguageModel()
    rng = np.random.default_rng([options.seed, 1])
    for stage in STAGES:
        train_stage(stage, language, encoder, training, images, rng)
    torch.save(language.state_dict(), options.out)


if __name__ == "__main__":
    main()
