#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tests/fixtures/tokenizer: a small tokenizer in both file layouts and what Hugging Face makes of texts with it.

    python3 tests/scripts/make_tokenizer_fixture.py ../shared/golden tests/fixtures/tokenizer

Needs tokenizers 0.23 and h5py. Files: whole/ (tokenizer.json), split/ (vocab.json, merges.txt,
tokenizer_config.json), texts.jsonl (text, its normalised form, its words, its ids), decoded.jsonl (ids, text, text
without special tokens), prompts.jsonl (chat prompts and completions whose ids transformers' processor made).
"""

import argparse
import json
import pathlib
import random
import shutil

import h5py
from tokenizers import Tokenizer

TEXTS = [
    "", " ", "\n", "a", "Hello world", "  lead", "trail  ", "a  b", "a   b ", "a\n b", "a \n b", "a\n\n\nb", "a \n \n b",
    "a\r\nb", "x  \n", "\n  x", "tab\tbetween", "tab\t\tbetween", "I'M I'm i'm 'M", "'SS 's's", "don't", "'", "''", "''t",
    "'LL'll'lL'l", "'RE're'r", "'VE've'v", "'D'd", "x'\u017fy", "'\u017f", "1234567890", "12 34", "a1b2", "½²Ⅳ٣𝟘",
    "e\u0301", "\u00e9", "A\u030a \u00c5 \u212b", "\uac00 \u1100\u1161 \u1100\u1161\u11a8", "\u0344", "q\u0307\u0323",
    "q\u0323\u0307", "が か\u3099", "\u0958", "\u2adc", "\ufb01", "a\u0301\u0301b", "\u0301x", " \u0301x", "“a\u0301”",
    "x\u00a0y", "x\u3000y", "x\u2028y\u2029z", "\u0085a", "\x1ca", "\x1f \x1fa", "a\u200bb", "\ufeffx", "\u180ex", "\x00",
    "\x0b\x0c\x0b", " \u00a0\u3000x", "\u3000\u3000x", "🏳️‍🌈🇩🇪🇯", "👍🏽", "画像はぼやけて。", "naïve café", "ΑΒΓ ἀρχή", "שלום عربي",
    "<|im_start|>user\nRate it.<|im_end|>\n", "a<|endoftext|>b", " <|im_end|> ", "e\u0301<|im_end|>\u0301e", "<|im_end|",
    "<<|im_end|>>", "<tool_call>{}</tool_call>", "<|image_pad|><|image_pad|>", "<|unknown|>", "a" * 300, "ab" * 200,
    "antidisestablishmentarianism" * 8, "字" * 100, "." * 90, " " * 100, "\n" * 60, " \n" * 30, "=" * 80, "Z\u0351" * 40,
    "a" + "\u0323\u0301" * 40, "the rating of this image is quite good " * 3, "therating" * 9, "\"'\"'", " ?\n", "? \n?",
    "<caption>x</caption><reasoning>y</reasoning><rating>3.21</rating>", "def f(x):\n    return x[0]\n", "{\"a\": -1.5e-3}",
]
PIECES = ["a", "the", "Rating", " ", "  ", "\n", "\r\n", "\t", "'s", "'Ll", "'", "1", "23", ".", "?!", "(", "é", "e\u0301", "\u0323",
          "字", "か\u3099", "\u1100\u1161", "👍", "\u200d", "\u00a0", "\u2028", "\u0085", "<|im_end|>", "<|im", "<tool_call>", "ſ", "½"]


def texts():
    rng = random.Random(7)
    mixed = []
    for _ in range(200):
        own = rng.sample(PIECES, rng.choice([2, 4, 8, 16]))
        mixed.append("".join(rng.choice(own) for _ in range(rng.randrange(2, 16))))
    return TEXTS + mixed


def id_lists(tokenizer):
    """Texts back, random ids (mostly broken UTF-8), padding rows and special tokens among them."""
    rng = random.Random(8)
    lists = [[], [534], [600, 0, 100000], [514], [513, 0, 514], [526, 5, 527]]
    lists += [tokenizer.encode(text).ids for text in TEXTS[60:80]]
    for _ in range(150):
        top = rng.choice([256, 256, 512, 540])
        lists.append([rng.randrange(top) for _ in range(rng.randrange(1, 12))])
    # Lone parts of characters: bytes 0x80 … 0xFF are the ids of their letters.
    high = [i for i in range(256) if tokenizer.decode([i]) == "\ufffd"]
    for _ in range(150):
        lists.append([rng.choice(high) for _ in range(rng.randrange(1, 9))])
    return lists


def prompts(golden):
    for case in json.loads((golden / "cases.json").read_text())["cases"]:
        with h5py.File(golden / case["golden"]) as trace:
            ids = trace["input_ids"][:].tolist()
            grids = trace["image_grid_thw"][:].tolist() if "image_grid_thw" in trace else []
        yield {"case": case["name"], "system": case["system"], "prompt": case["prompt"], "completion": case["completion"],
               "tokens_per_image": [t * h * w // 4 for t, h, w in grids], "ids": ids}


def write_lines(path, rows):
    with open(path, "w", encoding="ascii", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, separators=(",", ":")) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("golden", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    source = args.golden / "models" / "seven-bf16"
    for folder, names in {"whole": ["tokenizer.json"], "split": ["vocab.json", "merges.txt", "tokenizer_config.json"]}.items():
        (args.out / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(source / name, args.out / folder / name)
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    split = tokenizer.pre_tokenizer[0]
    rows = []
    for text in texts():
        nfc = tokenizer.normalizer.normalize_str(text)
        rows.append({"text": text, "nfc": nfc, "words": [word for word, _ in split.pre_tokenize_str(nfc)],
                     "ids": tokenizer.encode(text).ids})
    write_lines(args.out / "texts.jsonl", rows)
    write_lines(args.out / "decoded.jsonl",
                [{"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=False),
                  "text_without_special": tokenizer.decode(ids, skip_special_tokens=True)} for ids in id_lists(tokenizer)])
    write_lines(args.out / "prompts.jsonl", prompts(args.golden))


if __name__ == "__main__":
    main()
