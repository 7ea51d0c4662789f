# SPDX-License-Identifier: Apache-2.0
"""Learns the tokenizer on the templates and writes its three files."""

import argparse
from pathlib import Path

import photographs
import pictures
import tokenizer

PICTURES = 300


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="folder for tokenizer.json, vocab.json and merges.txt")
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    Path(options.out).mkdir(parents=True, exist_ok=True)
    shown = pictures.draw_pictures(PICTURES, photographs.GRPO_PHOTOGRAPHS, "left", options.seed)
    tokenizer.save(tokenizer.learn(shown), options.out)


if __name__ == "__main__":
    main()
