# SPDX-License-Identifier: Apache-2.0
"""Saves the trained weights as a Hugging Face folder and proves that transformers agrees.

Weights are rounded to bfloat16 (half the bytes); every check runs on the rounded ones.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
from PIL import Image

import photographs
import pictures
import texts
from network import EPSILON, IMAGE_TOKENS, MERGE, MROPE_SECTION, PATCH_SIZE, ROPE_THETA, TEXT, VISION
from network import LanguageModel, VisionTower, positions_of
from pretrain_text import Encoder
from tokenizer import SPECIAL_TOKENS, chat

LENGTH_LIMIT = 2048
PIXEL_LIMITS = (3136, 12544)
LARGEST_DIFFERENCE = 1e-3

CHAT_TEMPLATE = """\
{% if messages[0]['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}\
{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>\
{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def write_json(path, value):
    Path(path).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def image_processor_config():
    low, high = PIXEL_LIMITS
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(pictures.IMAGE_MEAN),
        "image_processor_type": "Qwen2VLImageProcessor",
        "image_std": list(pictures.IMAGE_STD),
        "max_pixels": high,
        "merge_size": MERGE,
        "min_pixels": low,
        "patch_size": PATCH_SIZE,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": high, "shortest_edge": low},
        "temporal_patch_size": 2,
    }


def write_processor(folder):
    """Image processor in the older and the newer spelling, tokenizer settings, chat template."""
    image = image_processor_config()
    write_json(folder / "preprocessor_config.json", image | {"processor_class": "Qwen2_5_VLProcessor"})
    video = image | {
        "do_sample_frames": False,
        "max_frames": 768,
        "min_frames": 4,
        "return_metadata": False,
        "video_processor_type": "Qwen2VLVideoProcessor",
    }
    del video["image_processor_type"]
    write_json(
        folder / "processor_config.json",
        {"image_processor": image, "processor_class": "Qwen2_5_VLProcessor", "video_processor": video},
    )
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "extra_special_tokens": list(SPECIAL_TOKENS[2:]),
            "model_max_length": LENGTH_LIMIT,
            "pad_token": "<|endoftext|>",
            "processor_class": "Qwen2_5_VLProcessor",
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def configuration(tokenizer):
    """transformers' configuration of the network."""
    token = tokenizer.token_to_id
    end, pad = token("<|im_end|>"), token("<|endoftext|>")
    text = {
        "attention_dropout": 0.0,
        "bos_token_id": pad,
        "eos_token_id": end,
        "pad_token_id": pad,
        "hidden_act": "silu",
        "hidden_size": TEXT["hidden"],
        "intermediate_size": TEXT["intermediate"],
        "max_position_embeddings": LENGTH_LIMIT,
        "num_attention_heads": TEXT["heads"],
        "num_hidden_layers": TEXT["layers"],
        "num_key_value_heads": TEXT["kv_heads"],
        "rms_norm_eps": EPSILON,
        "rope_parameters": {"mrope_section": list(MROPE_SECTION), "rope_theta": ROPE_THETA, "rope_type": "default"},
        "tie_word_embeddings": True,
        "vocab_size": TEXT["vocab"],
    }
    vision = {
        "depth": VISION["blocks"],
        "fullatt_block_indexes": list(VISION["full"]),
        "hidden_act": "silu",
        "hidden_size": VISION["hidden"],
        "in_channels": 3,
        "intermediate_size": VISION["intermediate"],
        "num_heads": VISION["heads"],
        "out_hidden_size": TEXT["hidden"],
        "patch_size": PATCH_SIZE,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "window_size": VISION["window"],
    }
    return transformers.Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def rounded(state):
    return {name: tensor.to(torch.bfloat16) for name, tensor in state.items()}


def write_model(folder, tokenizer, vision_state, language_state):
    """Builds transformers' model from the two state dictionaries and saves it."""
    model = transformers.Qwen2_5_VLForConditionalGeneration(configuration(tokenizer)).to(torch.bfloat16)
    model.model.visual.load_state_dict(rounded(vision_state))
    model.model.language_model.load_state_dict(rounded(language_state))
    ends = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=ends[1], eos_token_id=ends, pad_token_id=ends[1], do_sample=False
    )
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


@torch.no_grad()
def check(folder, tokenizer, vision_state, language_state):
    """The saved folder gives the prompts, tokens and logits of the compact network."""
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    picture = pictures.draw_pictures(1, photographs.GRPO_PHOTOGRAPHS, "right", seed=11)[0]
    answer = texts.draw_answer(picture, True, np.random.default_rng(0))
    content = [{"type": "image"}, {"type": "text", "text": texts.USER_PROMPT}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    if prompt != chat(texts.USER_PROMPT, picture=True):
        raise SystemExit(f"error: the chat template gives {prompt!r}")
    inputs = processor(text=[prompt + answer], images=[Image.fromarray(picture.pixels)], return_tensors="pt")
    theirs = model(**inputs).logits

    vision, language = VisionTower(), LanguageModel()
    vision.load_state_dict({k: v.float() for k, v in rounded(vision_state).items()})
    language.load_state_dict({k: v.float() for k, v in rounded(language_state).items()})
    encoder = Encoder(tokenizer)
    ids = torch.tensor([encoder.prompt + encoder.ids(answer)])
    if ids.tolist() != inputs["input_ids"].tolist():
        raise SystemExit("error: transformers tokenizes the prompt differently from this script")
    start = encoder.image_start
    embeddings = language.embed_tokens(ids)
    embeddings[:, start : start + IMAGE_TOKENS] = vision(pictures.patches_of(picture.pixels[None]))
    difference = (language(embeddings, positions_of(ids.shape[1], start)) - theirs).abs().max().item()
    print(f"largest difference of a logit to transformers: {difference:.2g} (of {theirs.abs().max().item():.3g})")
    if not difference < LARGEST_DIFFERENCE:
        raise SystemExit("error: transformers' logits differ")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vision", required=True, help="the tower's weights (.pt)")
    parser.add_argument("--language", required=True, help="the language model's weights (.pt)")
    parser.add_argument("--tokenizer", required=True, help="folder with tokenizer.json, vocab.json, merges.txt")
    parser.add_argument("--out", required=True, help="folder of the model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        shutil.copy(Path(options.tokenizer) / name, folder / name)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    vision_state, language_state = torch.load(options.vision), torch.load(options.language)
    write_processor(folder)
    write_model(folder, tokenizer, vision_state, language_state)
    check(folder, tokenizer, vision_state, language_state)


if __name__ == "__main__":
    main()
