#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tests/fixtures/sentence: a tiny random sentence encoder and what transformers computes with it.

    python3 tests/scripts/make_sentence_fixture.py tests/fixtures/sentence
    python3 tests/scripts/make_sentence_fixture.py --real FOLDER

Needs torch and transformers 4. The second form writes expected.json for a real model into its folder. Then the test
`semantic.sentence_encoder` compares it too: BIQA_SENTENCE_MODEL=FOLDER build/cpu/tests/semantic_sentence_encoder_test.

expected.json: texts, their ids, and their vectors (mean or first token, then length 1) in f64; `f32_distance` is the
largest difference of the reference's own f32 run from these.
"""

import argparse
import json
import pathlib
import random

import torch
from transformers import AutoModel, BertConfig, BertModel, BertTokenizerFast

TEXTS = [
    "", " ", "a", "A sharp photo of a boat.", "The picture is very blurry, and colours are washed out!", "not blurry",
    "naïve café CRÈME brûlée", "ÅNGSTRÖM e\u0301 E\u0301 q\u0307\u0323", "İstanbul ı ſ ß ẞ", "ΑΣ ΣΑΣ ς", "ﬁne ﬂat", "a\u00ado",
    "画像はぼやけて。", "字", "abc字def", "한국어 \u1100\u1161\u11a8", "が か\u3099", "שלום عربي", "नमस्ते", "\U00020000\U0002b820\U0002b920",
    "🏳️‍🌈🇩🇪 👍🏽 ok", "a\u200bb", "\ufeffx", "x\u00a0y\u3000z", "x\u2028y\u2029z", "tab\tbetween\r\nlines", "\u0085a\x1cb\x00c\x7f", "a\x0bb\x0cc",
    "don't it's we’ll", "3.52/5 (70%) $5 ^_^ a+b=c <tag> ~x~ `y` |z|", "…—–„“”«»¿¡", "€£¥©®™°±×", "½²Ⅳ٣𝟘", "\ufffd \ue000 \U000e0001",
    "[MASK] [mask] [ MASK ] x[MASK]y [SEP][CLS] [PAD] [UNK] [UNKNOWN]", "[CLS", "[[MASK]]", "##ing ##", "#", "\u0301", "\u0301x", "a" * 100,
    "a" * 101, "é" * 100, "é" * 101, "e\u0301" * 60, "antidisestablishmentarianism" * 4, "unaffable", "word " * 600, "字" * 300, "." * 300,
    "<caption>A boat on a calm lake; the image is grainy.</caption><reasoning>Noise hides fine detail.</reasoning><rating>2.15</rating>",
]
PIECES = ["a", "the", "Picture", "blurry", " ", "  ", "\n", "\t", "'s", "’", "1", "23", ".", "?!", "(", "é", "e\u0301", "\u0323", "字", "か\u3099", "\u1100\u1161",
          "👍", "\u200d", "\u00a0", "\u2028", "\u0085", "[MASK]", "[SEP", "]", "ſ", "½", "İ", "Σ", "ﬁ", "\u00ad", "कि", "\u0e33", "-", "—", "$"]


def texts():
    rng = random.Random(11)
    return TEXTS + ["".join(rng.choice(PIECES) for _ in range(rng.randint(2, 14))) for _ in range(60)]


def words():
    """A small vocabulary: the characters of the texts, and some words and pieces."""
    tokens = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    tokens += list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + list("…—“”’") + list(letters) + ["##" + c for c in letters]
    tokens += list("字画像가はか") + ["ᄒ", "##ᅡ", "##ᆫ", "ᄀ", "##ᆨ", "α", "##σ", "ς", "σ", "ß", "##ß", "👍", "½", "क", "##ि"]
    tokens += ["the", "picture", "is", "sharp", "photo", "of", "blur", "##ry", "##ring", "##ing", "noise", "not", "very", "colours", "are", "and", "cafe",
               "naive", "image", "word", "wa", "##shed", "##out", "un", "##aff", "##able", "un##", "detail"]
    return list(dict.fromkeys(tokens))


def make_model(folder):
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = words()
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    torch.manual_seed(5)
    model = BertModel(BertConfig(
        vocab_size=len(vocabulary), hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
        max_position_embeddings=48, type_vocab_size=2, hidden_act="gelu", layer_norm_eps=1e-12), add_pooling_layer=True)
    with torch.no_grad():
        for name, value in model.named_parameters():
            # Large enough that attention and the activation are far from linear.
            value.normal_(1.0 if "LayerNorm.weight" in name else 0.0, 0.3)
    model.save_pretrained(folder, safe_serialization=True)
    write = lambda name, value: (folder / name).write_text(json.dumps(value, indent=1) + "\n")
    write("tokenizer_config.json", {"do_lower_case": True, "tokenizer_class": "BertTokenizer", "strip_accents": None, "model_max_length": 512})
    write("modules.json", [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                           {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                           {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}])
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write("1_Pooling/config.json", {"word_embedding_dimension": 24, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
                                    "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False})
    write("sentence_bert_config.json", {"max_seq_length": 40, "do_lower_case": False})


def vectors(model, ids, first_token):
    rows = []
    with torch.no_grad():
        for row in ids:
            states = model(input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row), dtype=torch.long)).last_hidden_state[0]
            pooled = states[0] if first_token else states.mean(0)
            rows.append(pooled / pooled.norm())
    return torch.stack(rows)


def write_expected(folder):
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    limit = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    first_token = json.loads((folder / "1_Pooling/config.json").read_text())["pooling_mode_cls_token"]
    all_texts = texts()
    ids = [tokenizer(text, truncation=True, max_length=limit)["input_ids"] for text in all_texts]
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    single = vectors(model, ids, first_token).double()
    double = vectors(model.double(), ids, first_token)
    expected = {"texts": all_texts, "ids": ids, "f32_distance": (single - double).abs().max().item(),
                "vectors": [[round(x, 12) for x in row] for row in double.tolist()]}
    (folder / "expected.json").write_text(json.dumps(expected, ensure_ascii=True, separators=(",", ":")) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true", help="write only expected.json, for the model in FOLDER")
    parser.add_argument("folder", type=pathlib.Path)
    arguments = parser.parse_args()
    if not arguments.real:
        make_model(arguments.folder)
    write_expected(arguments.folder)


if __name__ == "__main__":
    main()
