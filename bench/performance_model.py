#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Computes what one H100 SXM should reach with Qwen2.5-VL-7B, for the bars of docs/performance-model.md.

Usage: bench/performance_model.py [--rate NAME=VALUE]...
Every figure is computed from shapes and from the rates below. None is measured. Two forms are computed: "planned" (the
first design: adapter inside the products, bf16 results) and "built" (what src/ops/cuda does today, docs/cuda.md).
"""
import argparse

# Shapes of Qwen2.5-VL-7B (its config.json) and of its vision tower.
LAYERS, HIDDEN, Q, KV, MLP, VOCABULARY = 28, 3584, 3584, 512, 18944, 152064
V_DEPTH, V_HIDDEN, V_MLP, V_CELL, V_FULL, V_WINDOW, V_PIXELS = 32, 1280, 3420, 4, 4, 64, 1176
RANK = 8

# Assumed rates: operations or bytes per second, or seconds. Each can be replaced by --rate.
RATES = {
    "peak": 989.4e12,  # data sheet, dense bf16
    "product": 650e12,  # products of a layer; others measured 790 for one product of 8,192 cubed
    "vision_product": 500e12,  # inner widths of 1,280 and 3,420
    "attention": 230e12,  # forward on tensor cores with mma.sync
    "attention_backward": 200e12,
    "narrow": 100e12,  # the adapter's kernels on tensor cores, whose operands come from memory with little reuse
    "memory": 3.0e12,  # a copy; data sheet 3.35e12
    "launch": 4.0e-6,  # the shortest kernel, with its launch
}

LAYER = HIDDEN * (Q + 2 * KV) + Q * HIDDEN + 3 * HIDDEN * MLP
HEAD = HIDDEN * VOCABULARY
KEY_BYTES = 2 * 2 * KV  # of a token and layer: keys and values in bf16
INPUTS = HIDDEN * 3 + Q + HIDDEN * 2 + MLP  # of the seven projections
OUTPUTS = Q + 2 * KV + HIDDEN + 2 * MLP + HIDDEN
SHARED_INPUTS = HIDDEN + Q + HIDDEN + MLP  # of the four inputs that projections share


class Model:
    def __init__(self, rates, built):
        self.r, self.built = rates, built

    def adapter(self, rows, backward):
        """Seconds of the adapter's own kernels in a layer; fused into the products in the planned form."""
        # A factor is two numbers in bf16: two products with the inputs, three with the inner values (src/ops/cuda/tile_lora.h).
        down, up = 2 * RANK * rows * INPUTS, 2 * RANK * rows * OUTPUTS
        if not self.built:
            return 0.014 * 2 * rows * LAYER / self.r["product"]
        # Readers add the terms of queries, keys, values, gate, up and of the gradient of down's input (tile_heads.h,
        # tile_swiglu.h); one launch adds those of an input.
        if backward:
            bytes_ = rows * (2 * OUTPUTS + 2 * INPUTS + 2 * OUTPUTS + 8 * (2 * HIDDEN + Q))
            return max((5 * down + 4 * up) / self.r["narrow"], bytes_ / self.r["memory"])
        bytes_ = rows * (2 * SHARED_INPUTS + 8 * 2 * HIDDEN)
        return max((2 * down + 3 * up) / self.r["narrow"], bytes_ / self.r["memory"])

    def elements(self, rows, backward):
        """Seconds of norms, rotation, SwiGLU and copies in a layer: bytes that are read and written."""
        if not self.built:
            return rows * (440e3 if backward else 183e3) / self.r["memory"]  # 3.6 and 1.5 GB for 8,192 rows
        if backward:
            bytes_ = 12 * MLP + 2 * 22 * HIDDEN + 12 * HIDDEN + 14 * (Q + 2 * KV) + 8 * Q
        else:
            bytes_ = 2 * 6 * HIDDEN + 4 * (Q + 2 * KV) + 8 * KV + 6 * MLP + 16 * HIDDEN
        return rows * bytes_ / self.r["memory"]

    def forward(self, rows, pairs):
        """Seconds of a layer; `pairs`: of a row and a key that it sees."""
        return (2 * rows * LAYER / self.r["product"] + 4 * Q * pairs / self.r["attention"]
                + self.elements(rows, False) + self.adapter(rows, False))

    def backward(self, rows, pairs):
        # Seven products instead of two: weights and their gradients are computed in both passes.
        return (2 * rows * LAYER / self.r["product"] + 3.5 * 4 * Q * pairs / self.r["attention_backward"]
                + self.elements(rows, True) + self.adapter(rows, True))

    def head(self, rows, backward):
        return (2 if backward else 1) * 2 * rows * HEAD / self.r["product"]

    def micro_batch(self, groups, members, prompt, tokens, gradient=True):
        """Seconds of a pass over packed groups, and the operations that MFU counts."""
        rows = groups * (prompt + members * (tokens - 1))
        pairs = groups * (prompt * prompt / 2 + members * (tokens - 1) * (prompt + tokens / 2))
        scored = groups * members * tokens
        flop = LAYERS * (2 * rows * LAYER + 4 * Q * pairs) + 2 * scored * HEAD
        seconds = LAYERS * self.forward(rows, pairs) + self.head(scored, gradient)
        if gradient:
            seconds += LAYERS * self.backward(rows, pairs)
            flop *= 2
        return seconds, flop, rows

    def iteration(self, members, group, prompt, own):
        """Seconds of one decoding step of `members` sequences, `group` of them per prompt."""
        products = max(2 * LAYER * members / self.r["product"], 2 * LAYER / self.r["memory"])
        # A tile has 64 pairs of a row and a head, so up to nine members with seven heads each. With fewer than 128 tiles some
        # multiprocessors would have none (members_of_tile in src/ops/cuda/batch_tiles.cpp).
        sharing = min(group, max(1, min(9, members * KV // 128 // 128)))
        prompts = members / sharing * prompt
        attention = (prompts + members * own) * KEY_BYTES / self.r["memory"]
        if self.built:  # two of a tile's four warps work on the keys of a member
            pairs = 64 * prompts + (32 if sharing > 1 else 64) * members * own
            attention = max(attention, 4 * 128 * (KV / 128) * pairs / self.r["attention"])
        kernels = 15 if self.built else 8  # besides products and attention
        layer = products + attention + kernels * self.r["launch"]
        head = max(2 * HEAD * members / self.r["product"], 2 * HEAD / self.r["memory"])
        sampling = 0.5e-3
        return LAYERS * layer + head + sampling

    def vision_flop(self, patches):
        block = 4 * V_HIDDEN * V_HIDDEN + 3 * V_HIDDEN * V_MLP
        cell = V_CELL * V_HIDDEN
        weights = V_PIXELS * V_HIDDEN + V_DEPTH * block + (cell * cell + cell * HIDDEN) / V_CELL
        pairs = V_FULL * patches * patches + (V_DEPTH - V_FULL) * patches * min(V_WINDOW, patches)
        return 2 * patches * weights, 4 * V_HIDDEN * pairs

    def vision(self, patches, alone=False):
        """Seconds of a picture, in a batch of eight or alone."""
        products, attention = self.vision_flop(patches)
        rate = self.r["vision_product"] * (0.8 if alone else 1.0)  # fewer rows fill the GPU less
        bytes_ = (32 * V_HIDDEN + 6 * V_MLP) if self.built else (26 * V_HIDDEN + 6 * V_MLP)
        return products / rate + attention / 210e12 + V_DEPTH * patches * bytes_ / self.r["memory"]

    def prefill(self, prompts, prompt):
        rows = prompts * prompt
        return LAYERS * self.forward(rows, prompts * prompt * prompt / 2) + self.head(prompts, False)

    def step(self, prompt, patches, images=64, group=4, tokens=300, longest=400, second=(150, 30)):
        """Seconds of the parts of a step: answers of 200 to 400 tokens, the reference pass, one update."""
        members = images * group
        parts = {"vision": images * self.vision(patches), "prefill": self.prefill(8, prompt) * images / 8}
        # All run to the shortest length, then ever fewer.
        full = 2 * tokens - longest
        parts["decode"] = (full * self.iteration(members, group, prompt, full / 2)
                           + (longest - full) * self.iteration(members / 2, group / 2, prompt, tokens))
        # Second stages join running batches: their rows cost products and attention alone.
        flop = 2 * LAYERS * LAYER + 2 * HEAD
        parts["second stage"] = (self.prefill(8, second[0]) * members / 8
                                 + members * second[1] * flop / self.r["product"])
        reference, _, _ = self.micro_batch(images, group, prompt, tokens, False)
        learning, _, _ = self.micro_batch(images, group, prompt, tokens)
        parts["reference"], parts["forward and backward"] = reference, learning
        parts["optimizer, adapter, waits"] = 0.7
        return parts


def bars(model):
    rows = []
    seconds, flop, count = model.micro_batch(3.5, 4, 1150, 300)
    rows.append(("learner, 8,192 rows with shared prompts", ">= 40 % of the peak",
                 f"{100 * flop / seconds / model.r['peak']:.0f} %, {count / seconds / 1e3:.1f}k rows/s"))
    alone = 256 / model.iteration(256, 1, 1150, 200)
    shared = 256 / model.iteration(256, 8, 1150, 200)
    rows.append(("rollout, 256 sequences", ">= 16k tokens/s", f"{alone / 1e3:.1f}k tokens/s"))
    rows.append(("rollout, prompts shared by 8", ">= 20k tokens/s", f"{shared / 1e3:.1f}k tokens/s"))
    products, attention = model.vision_flop(3996)
    share = (products + attention) / model.vision(3996) / model.r["peak"]
    rows.append(("vision, 8 pictures of 1024 x 768", ">= 40 % of the peak", f"{100 * share:.0f} %"))
    first = model.vision(3996, alone=True) + model.prefill(1, 1150)
    rows.append(("encode and prefill of one picture", "<= 45 ms", f"{1e3 * first:.0f} ms"))
    parts = model.step(1150, 3996)
    total = sum(parts.values())
    rows.append(("whole step, prompt 1,150", ">= 5 trajectories/s", f"{total:.0f} s, {256 / total:.1f} trajectories/s"))
    rows.append(("second stage, of a rollout with the first alone", "<= 15 %",
                 f"{100 * parts['second stage'] / (parts['prefill'] + parts['decode'] + parts['vision']):.0f} %"))
    # Without split-K, the products of o and down lose in decoding; without cuDNN, attention in learning.
    lost = 0.016 * parts["decode"] + 0.015 * (parts["reference"] + parts["forward and backward"])
    rows.append(("batch invariance, of a step", "<= 5 %", f"{100 * lost / total:.1f} %"))
    koniq = model.step(730, 1976)
    rows.append(("whole step of configs/koniq.yaml, prompt 730", "-",
                 f"{sum(koniq.values()):.0f} s, {256 / sum(koniq.values()):.1f} trajectories/s"))
    return rows, parts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", action="append", default=[], metavar="NAME=VALUE", help=", ".join(RATES))
    rates = dict(RATES)
    for given in parser.parse_args().rate:
        name, _, value = given.partition("=")
        if name not in rates:
            parser.error(f"unknown rate {name}: one of {', '.join(rates)}")
        rates[name] = float(value)
    planned, planned_parts = bars(Model(rates, False))
    built, built_parts = bars(Model(rates, True))
    print("Computed, not measured.\n")
    print("| bar | wanted | planned form | built form | measured |\n|---|---|---|---|---|")
    for (name, wanted, figure), (_, _, today) in zip(planned, built):
        print(f"| {name} | {wanted} | {figure} | {today} | not measured |")
    print("\n| part of the step, prompt 1,150 | planned form, s | built form, s |\n|---|---|---|")
    for name, seconds in planned_parts.items():
        print(f"| {name} | {seconds:.2f} | {built_parts[name]:.2f} |")
    print(f"| step | {sum(planned_parts.values()):.1f} | {sum(built_parts.values()):.1f} |")


if __name__ == "__main__":
    main()
