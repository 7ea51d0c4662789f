# SPDX-License-Identifier: Apache-2.0
"""Trains a tiny Qwen2.5-VL by GRPO in PyTorch: the reference for the C++ trainer.

    python tests/scripts/reference_grpo.py --data assets/tiny --seed 0

Prints the figures on the test pictures before and after training (image and caption-only PLCC,
ROUGE-1 recall; greedy and sampled at temperature 1). It shares no code with biqa: transformers
reads the folder, prepares and encodes the pictures; the language model with its LoRA is written
out below, with a key-value cache, and compared with transformers before it is used.

DATA is a folder with model/, train.jsonl and test.jsonl.
"""

import argparse
import json
import math
import re
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from PIL import Image

USER_PROMPT = "Describe, reason and rate."
STAGE2_PROMPT = "A picture is described so: {caption} Rate it."
NUMBER = r"\s*([-+]?\d+(?:\.\d+)?)\s*"
RATING = re.compile(f"<rating>{NUMBER}</rating>")
CAPTION = re.compile(r"<caption>(.*?)</caption>", re.DOTALL)
ANSWER = re.compile(
    rf"\s*<caption>.*?</caption>\s*<reasoning>.*?</reasoning>\s*<rating>{NUMBER}</rating>\s*", re.DOTALL
)
LEAK = re.compile(r"\d+(?:\.\d+)?")
REWARDS = ("prediction", "consistency", "reasoning", "format")
TOLERANCE = 0.35
ROUGE_FLOOR = 0.1
RANK, ALPHA = 8, 16
CLIP = 0.2
BETA = 0.001
MAX_NORM = 1.0
STAGE1_TOKENS, STAGE2_TOKENS = 96, 24
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def read_manifest(folder, name, limit=None):
    rows = [json.loads(line) for line in open(folder / name, encoding="utf-8")]
    for row in rows:
        text = row["text"]
        row["human"] = " ".join(text[key] for key in ("description", "good", "bad") if text[key])
    return rows[:limit]


class Cache:
    """Keys and values of every layer: [batch, kv heads, length, head size]."""

    def __init__(self, layers):
        self.keys = [None] * layers
        self.values = [None] * layers

    def append(self, layer, key, value):
        if self.keys[layer] is not None:
            key = torch.cat((self.keys[layer], key), dim=2)
            value = torch.cat((self.values[layer], value), dim=2)
        self.keys[layer], self.values[layer] = key, value
        return key, value

    def repeat(self, times):
        self.keys = [k.repeat_interleave(times, 0) for k in self.keys]
        self.values = [v.repeat_interleave(times, 0) for v in self.values]


class LanguageModel:
    """The language model of a transformers checkpoint, in f32, with LoRA on every projection."""

    def __init__(self, model, seed):
        self.config = model.config.text_config
        self.weights = {k: v.detach() for k, v in model.model.language_model.state_dict().items()}
        self.table = self.weights["embed_tokens.weight"]
        self.heads = self.config.num_attention_heads
        self.kv_heads = self.config.num_key_value_heads
        self.size = self.config.hidden_size // self.heads
        rope = self.config.rope_parameters
        half = self.size // 2
        self.inverse = rope["rope_theta"] ** (-torch.arange(half) / half)
        self.axis = torch.repeat_interleave(torch.arange(3), torch.tensor(rope["mrope_section"]))
        generator = torch.Generator().manual_seed(seed)
        self.lora = {}
        for name, weight in self.weights.items():
            if name.split(".")[-2] in PROJECTIONS and name.endswith(".weight"):
                bound = 1 / math.sqrt(weight.shape[1])
                a = (torch.rand(RANK, weight.shape[1], generator=generator) * 2 - 1) * bound
                self.lora[name] = (a.requires_grad_(), torch.zeros(weight.shape[0], RANK, requires_grad=True))

    def parameters(self):
        return [tensor for pair in self.lora.values() for tensor in pair]

    def project(self, name, x, adapter):
        y = F.linear(x, self.weights[name + ".weight"], self.weights.get(name + ".bias"))
        if adapter:
            a, b = self.lora[name + ".weight"]
            y = y + ALPHA / RANK * F.linear(F.linear(x, a), b)
        return y

    def norm(self, name, x):
        return F.rms_norm(x, x.shape[-1:], self.weights[name + ".weight"], self.config.rms_norm_eps)

    def hidden(self, x, positions, adapter, cache=None, mask=None):
        """x [batch, T, hidden], positions [3, batch, T] -> normed hidden states.

        Without a mask attention is causal; with one, [batch, keys] marks the keys that count.
        """
        angles = positions[self.axis].permute(1, 2, 0) * self.inverse
        cos, sin = (f.repeat(1, 1, 2)[:, None] for f in (angles.cos(), angles.sin()))

        def rotate(y):
            first, second = y.chunk(2, -1)
            return y * cos + torch.cat((-second, first), -1) * sin

        length = x.shape[1]
        allowed = None
        if mask is not None and not mask.all():
            before = mask.shape[1] - length
            causal = torch.ones(length, mask.shape[1], dtype=torch.bool).tril(before)
            # A padding row may see itself, or its softmax would have nothing to sum.
            itself = causal & ~causal.tril(before - 1)
            allowed = (mask[:, None] & causal | itself)[:, None]
        for layer in range(self.config.num_hidden_layers):
            at = f"layers.{layer}."
            y = self.norm(at + "input_layernorm", x)
            query, key, value = (
                self.project(f"{at}self_attn.{p}_proj", y, adapter).unflatten(-1, (-1, self.size)).transpose(1, 2)
                for p in "qkv"
            )
            query, key = rotate(query), rotate(key)
            if cache is not None:
                key, value = cache.append(layer, key, value)
            if length == 1:
                # The query heads that share a key head stand as rows of one product.
                query = query.view(x.shape[0], self.kv_heads, -1, self.size)
                y = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
                y = y.reshape(x.shape[0], 1, -1)
            else:
                shared = self.heads // self.kv_heads
                key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
                y = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, is_causal=allowed is None)
                y = y.transpose(1, 2).flatten(2)
            x = x + self.project(at + "self_attn.o_proj", y, adapter)
            y = self.norm(at + "post_attention_layernorm", x)
            gated = F.silu(self.project(at + "mlp.gate_proj", y, adapter)) * self.project(at + "mlp.up_proj", y, adapter)
            x = x + self.project(at + "mlp.down_proj", gated, adapter)
        return self.norm("norm", x)


class Policy:
    """Prompts, sampling and log-probabilities of the model on cached picture embeddings."""

    def __init__(self, folder, seed):
        self.processor = transformers.AutoProcessor.from_pretrained(folder)
        self.model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.model.eval()
        self.tokenizer = self.processor.tokenizer
        self.network = LanguageModel(self.model, seed)
        self.generator = torch.Generator().manual_seed(seed)
        token = self.tokenizer.convert_tokens_to_ids
        self.ends = torch.tensor([token("<|im_end|>"), token("<|endoftext|>")])
        self.never = token(
            ["<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
        )
        self.prompt = self.positions = None

    def chat(self, content):
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    @torch.no_grad()
    def encode_pictures(self, folder, rows):
        """Prepares and encodes every picture once; all have the same prompt."""
        text = self.chat([{"type": "image"}, {"type": "text", "text": USER_PROMPT}])
        for row in rows:
            picture = Image.open(folder / row["image"]).convert("RGB")
            inputs = self.processor(text=[text], images=[picture], return_tensors="pt")
            visual = self.model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
            row["embedding"] = visual if torch.is_tensor(visual) else visual.pooler_output
            if self.prompt is None:
                self.prompt = inputs["input_ids"][0]
                self.place = (self.prompt == self.model.config.image_token_id).nonzero()[:, 0]
                self.positions = self.prompt_positions(inputs["image_grid_thw"][0])
                self.compare(inputs, row)

    def prompt_positions(self, grid):
        """M-RoPE positions of the stage-1 prompt [3, T]."""
        start, count = int(self.place[0]), len(self.place)
        rows, columns = (int(n) // 2 for n in grid[1:])
        place = torch.arange(count)
        image = start + torch.stack((torch.zeros(count, dtype=torch.long), place // columns, place % columns))
        before = torch.arange(start).expand(3, -1)
        after = torch.arange(len(self.prompt) - start - count).expand(3, -1) + start + max(rows, columns)
        return torch.cat((before, image, after), 1)

    def compare(self, inputs, row):
        theirs = self.model(**inputs).logits[0]
        x = self.stage1_embeddings([row], self.prompt[None])
        ours = self.network.hidden(x, self.positions[:, None], adapter=True)[0] @ self.network.table.T
        gap = (ours - theirs).abs().max().item()
        print(f"largest difference of a logit to transformers: {gap:.1e}")
        if not gap < 1e-3:
            raise SystemExit("error: the language model here and in transformers differ")

    def stage1_embeddings(self, rows, ids):
        x = self.network.table[ids]
        x[:, self.place] = torch.stack([row["embedding"] for row in rows])
        return x

    @torch.no_grad()
    def generate(self, x, positions, mask, copies, limit, greedy):
        """Continues prompts x [n, T, hidden]; returns `copies` token lists of each, in order."""
        network, cache = self.network, Cache(self.network.config.num_hidden_layers)
        last = network.hidden(x, positions, True, cache, mask)[:, -1].repeat_interleave(copies, 0)
        cache.repeat(copies)
        mask = mask.repeat_interleave(copies, 0)
        position = positions.amax((0, 2)).repeat_interleave(copies, 0)
        done = torch.zeros(len(last), dtype=torch.bool)
        tokens = []
        for _ in range(limit):
            logits = last @ network.table.T
            logits[:, self.never] = -math.inf
            if greedy:
                chosen = logits.argmax(-1)
            else:
                chosen = torch.multinomial(logits.softmax(-1), 1, generator=self.generator)[:, 0]
            tokens.append(chosen)
            done = done | torch.isin(chosen, self.ends)
            if done.all():
                break
            position = position + 1
            mask = torch.cat((mask, torch.ones(len(mask), 1, dtype=torch.bool)), 1)
            here = position[None, :, None].expand(3, -1, -1)
            last = network.hidden(network.table[chosen][:, None], here, True, cache, mask)[:, -1]
        texts = []
        for sequence in torch.stack(tokens, 1):
            end = torch.isin(sequence, self.ends).nonzero()[:1, 0]
            texts.append(sequence[: int(end) + 1] if len(end) else sequence)
        return texts

    def decode(self, tokens):
        return self.tokenizer.decode(tokens[~torch.isin(tokens, self.ends)])

    def answer(self, rows, copies, greedy):
        """Stage 1: `copies` token lists for each picture."""
        x = self.stage1_embeddings(rows, self.prompt.expand(len(rows), -1))
        positions = self.positions[:, None].expand(-1, len(rows), -1)
        mask = torch.ones(x.shape[:2], dtype=torch.bool)
        return self.generate(x, positions, mask, copies, STAGE1_TOKENS, greedy)

    def rate_captions(self, captions, greedy):
        """Stage 2: one rating for each caption, from the text alone; None stays None."""
        known = [i for i, caption in enumerate(captions) if caption is not None]
        ratings = [None] * len(captions)
        if not known:
            return ratings
        prompts = [self.chat(STAGE2_PROMPT.format(caption=LEAK.sub("", captions[i]))) for i in known]
        prompts = [self.tokenizer(p).input_ids for p in prompts]
        length = max(map(len, prompts))
        ids = torch.tensor([[0] * (length - len(p)) + p for p in prompts])
        mask = torch.tensor([[False] * (length - len(p)) + [True] * len(p) for p in prompts])
        positions = (mask.cumsum(1) - 1).clamp(min=0).expand(3, -1, -1)
        answers = self.generate(self.network.table[ids], positions, mask, 1, STAGE2_TOKENS, greedy)
        for i, tokens in zip(known, answers):
            ratings[i] = find_rating(self.decode(tokens))
        return ratings

    def log_probabilities(self, rows, completions, adapter):
        """Log-probabilities [n, C] of the completions and their mask."""
        width = max(map(len, completions))
        filled = torch.stack([F.pad(c, (0, width - len(c))) for c in completions])
        mask = torch.stack([torch.arange(width) < len(c) for c in completions])
        ids = torch.cat((self.prompt.expand(len(rows), -1), filled), 1)
        after = torch.arange(width) + self.positions.max() + 1
        positions = torch.cat((self.positions, after.expand(3, -1)), 1)[:, None]
        hidden = self.network.hidden(self.stage1_embeddings(rows, ids), positions, adapter)
        logits = hidden[:, len(self.prompt) - 1 : -1] @ self.network.table.T
        return logits.log_softmax(-1).gather(2, filled[..., None])[..., 0], mask


def find_rating(text):
    match = RATING.search(text)
    return float(match[1]) if match else None


def window(rating, score):
    """Raised cosine: 1 at the human score, 0 from a distance of 0.35."""
    if rating is None or abs(rating - score) >= TOLERANCE:
        return 0.0
    return 0.5 * (1 + math.cos(math.pi * (rating - score) / TOLERANCE))


def rouge_recall(human, text):
    """ROUGE-1 recall without stemming."""
    wanted, given = (re.findall("[a-z0-9]+", t.lower()) for t in (human, text))
    return sum(min(wanted.count(w), given.count(w)) for w in set(wanted)) / len(wanted) if wanted else 0.0


def caption_of(text):
    match = CAPTION.search(text)
    return match[1] if match else None


def rewards_of(row, text, rating2):
    """The four rewards in the order of REWARDS."""
    rating = find_rating(text)
    return (
        window(rating, row["score"]),
        window(rating2, row["score"]) if rating is not None else 0.0,
        max(ROUGE_FLOOR, rouge_recall(row["human"], text)),
        0.5 if ANSWER.fullmatch(text) else 0.0,
    )


def correlation(pairs):
    known = np.array([(a, b) for a, b in pairs if a is not None])
    return float(np.corrcoef(known.T)[0, 1]) if len(known) > 2 else math.nan


def evaluate(policy, rows, greedy, batch=240):
    """One answer for each picture, and its caption rated alone."""
    texts, ratings2 = [], []
    for start in range(0, len(rows), batch):
        some = [policy.decode(t) for t in policy.answer(rows[start : start + batch], 1, greedy)]
        texts += some
        ratings2 += policy.rate_captions([caption_of(t) for t in some], greedy)
    ratings, scores = [find_rating(t) for t in texts], [row["score"] for row in rows]
    errors = [a - b for a, b in zip(ratings, scores) if a is not None]
    return {
        "image_plcc": correlation(zip(ratings, scores)),
        "caption_plcc": correlation(zip(ratings2, scores)),
        "rouge1_r": float(np.mean([rouge_recall(r["human"], t) for r, t in zip(rows, texts)])),
        "image_rmse": float(np.sqrt(np.mean(np.square(errors)))),
        "parsed": len(errors) / len(rows),
        "stage2_parsed": sum(r is not None for r in ratings2) / len(rows),
    }


def report(policy, rows, when):
    figures = {}
    for name, greedy in (("greedy", True), ("sampled", False)):
        figures[name] = evaluate(policy, rows, greedy)
        print(f"{when:6} {name:8}" + "".join(f" {k} {v:.3f}" for k, v in figures[name].items()), flush=True)
    return figures


def choice_norm(policy, rows, good, bad):
    """Can GRPO move the choice between two endings? L1 norm of a gradient at the start.

    The mean, over one answer of each picture, of logit(good) - logit(bad) where the ending
    begins, differentiated with respect to LoRA's B. Checkpoints with 102 and more worked.
    """
    cut, used, bads = [], [], 0
    for row, tokens in zip(rows, policy.answer(rows, 1, greedy=False)):
        text = policy.decode(tokens)
        for ending in (good, bad):
            if ending in text:
                cut.append(torch.tensor(policy.tokenizer(text.split(" " + ending)[0]).input_ids))
                used.append(row)
                bads += ending == bad
                break
    if not used:
        return
    first = [policy.tokenizer(" " + ending).input_ids[0] for ending in (good, bad)]
    width = max(map(len, cut))
    ids = torch.cat((policy.prompt.expand(len(cut), -1), torch.stack([F.pad(c, (0, width - len(c))) for c in cut])), 1)
    after = torch.arange(width) + policy.positions.max() + 1
    positions = torch.cat((policy.positions, after.expand(3, -1)), 1)[:, None]
    hidden = policy.network.hidden(policy.stage1_embeddings(used, ids), positions, True)
    last = hidden[torch.arange(len(cut)), torch.tensor([len(policy.prompt) + len(c) - 1 for c in cut])]
    difference = (last @ policy.network.table[first].T).diff(dim=1).mean()
    gradients = torch.autograd.grad(difference, [b for _, b in policy.network.lora.values()])
    norm = sum(g.abs().sum().item() for g in gradients)
    print(f"choice of ending: bad share {bads / len(used):.2f}, gradient norm {norm:.0f} ({len(used)} answers)")


def train_step(policy, optimizer, rows, group, weights):
    """One GRPO step with one update; returns the means that are printed."""
    start = time.time()
    completions = policy.answer(rows, group, greedy=False)
    repeated = [row for row in rows for _ in range(group)]
    texts = [policy.decode(c) for c in completions]
    ratings2 = policy.rate_captions([caption_of(t) for t in texts], greedy=False)
    rewards = torch.tensor([rewards_of(r, t, r2) for r, t, r2 in zip(repeated, texts, ratings2)])
    total = (rewards * weights).sum(1).view(-1, group)
    advantages = ((total - total.mean(1, keepdim=True)) / (total.std(1, keepdim=True) + 1e-4)).view(-1, 1)
    rollout_seconds = time.time() - start
    with torch.no_grad():
        reference, mask = policy.log_probabilities(repeated, completions, adapter=False)
    logp, _ = policy.log_probabilities(repeated, completions, adapter=True)
    ratio = (logp - logp.detach()).exp()
    k3 = (reference - logp).exp() - (reference - logp) - 1
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
    loss = (((BETA * k3 - surrogate) * mask).sum(1) / mask.sum(1)).mean()
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.network.parameters(), MAX_NORM)
    optimizer.step()
    figures = dict(zip(REWARDS, rewards.mean(0).tolist()))
    figures |= {
        "reward": total.mean().item(),
        "kl": ((k3 * mask).sum() / mask.sum()).item(),
        "length": mask.sum(1).float().mean().item(),
        "norm": norm.item(),
        "rollout_s": rollout_seconds,
        "step_s": time.time() - start,
    }
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with model/, train.jsonl, test.jsonl")
    parser.add_argument("--test", type=Path, help="folder of another test.jsonl (default: DATA)")
    parser.add_argument("--seed", type=int, default=0, help="adapter, order and sampling")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--images", type=int, default=16, help="pictures a step")
    parser.add_argument("--group", type=int, default=8, help="answers a picture")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--test-limit", type=int)
    parser.add_argument("--good", default="judged with care.", help="the ending that --bad is compared with")
    parser.add_argument("--bad", default="a quick guess.")
    parser.add_argument("--out", type=Path, help="file for all figures (JSON)")
    for name in REWARDS:
        parser.add_argument(f"--{name}", type=float, default=1.0, help=f"weight of the {name} reward")
    options = parser.parse_args()
    torch.set_num_threads(1)
    policy = Policy(options.data / "model", options.seed)
    rows = read_manifest(options.data, "train.jsonl")
    policy.encode_pictures(options.data, rows)
    test_folder = options.test or options.data
    test = read_manifest(test_folder, "test.jsonl", options.test_limit)
    policy.encode_pictures(test_folder, test)
    choice_norm(policy, test[:64], options.good, options.bad)
    figures = {"before": report(policy, test, "before"), "steps": []}
    weights = torch.tensor([getattr(options, name) for name in REWARDS])
    optimizer = torch.optim.AdamW(policy.network.parameters(), lr=options.lr, weight_decay=0.0)
    rng = np.random.default_rng(options.seed)
    pool = []
    for step in range(options.steps):
        if len(pool) < options.images:
            pool = list(rng.permutation(len(rows)))
        shown, pool = pool[: options.images], pool[options.images :]
        optimizer.param_groups[0]["lr"] = options.lr * (1 - step / options.steps)
        figures["steps"].append(train_step(policy, optimizer, [rows[i] for i in shown], options.group, weights))
        if (step + 1) % 10 == 0:
            last = figures["steps"][-10:]
            means = {key: np.mean([f[key] for f in last]) for key in last[0]}
            print(f"step {step + 1:3}" + "".join(f" {k} {v:.3f}" for k, v in means.items()), flush=True)
    figures["after"] = report(policy, test, "after")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
