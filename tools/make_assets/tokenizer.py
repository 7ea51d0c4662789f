# SPDX-License-Identifier: Apache-2.0
"""Learns a byte-level BPE of 768 tokens on the final templates, in the form of Qwen2's."""

import json
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

import texts

VOCABULARY = 768
SPECIAL_TOKENS = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Qwen2's split: contractions, words with one leading sign, single digits, signs, white space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def chat(user, picture):
    """The prompt up to the answer; as the chat template writes it."""
    image = "<|vision_start|><|image_pad|><|vision_end|>" if picture else ""
    return (
        f"<|im_start|>system\n{texts.SYSTEM_PROMPT}<|im_end|>\n"
        f"<|im_start|>user\n{image}{user}<|im_end|>\n<|im_start|>assistant\n"
    )


def corpus(pictures, count, rng):
    """`count` prompts and answers of both stages, without special tokens."""
    for _ in range(count // 2):
        picture = pictures[int(rng.integers(len(pictures)))]
        yield f"system\n{texts.SYSTEM_PROMPT}"
        yield f"user\n{texts.USER_PROMPT}"
        yield "assistant\n" + texts.draw_answer(picture, True, rng)
        caption, answer = texts.draw_stage2(picture, rng)
        yield "user\n" + texts.STAGE2_PROMPT.format(caption=caption)
        yield answer
        yield str(texts.human_text(picture, rng))


def learn(pictures, count=20000, seed=3):
    """A tokenizers.Tokenizer: 256 bytes, 504 merges, 8 special tokens at the end."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    size = VOCABULARY - len(SPECIAL_TOKENS)
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(corpus(pictures, count, np.random.default_rng(seed)), trainer)
    if tokenizer.get_vocab_size() != size:
        raise SystemExit(f"error: the templates gave {tokenizer.get_vocab_size()} tokens, not {size}; lengthen them")
    tokenizer.add_special_tokens([tokenizers.AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    return tokenizer


def save(tokenizer, folder):
    """Writes tokenizer.json, vocab.json and merges.txt."""
    folder = Path(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    model = json.loads(tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False) + "\n", encoding="utf-8")
    merges = "".join(" ".join(pair) + "\n" for pair in model["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
