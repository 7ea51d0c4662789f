# SPDX-License-Identifier: Apache-2.0
"""A compact Qwen2.5-VL for pictures of one size, with the parameter names of transformers.

Only what pre-training needs: a whole batch of 112x112 pictures, and right-padded sequences
that share their positions. save.py proves it equal to transformers' model.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

VISION = {"hidden": 96, "blocks": 4, "heads": 4, "intermediate": 192, "full": (1, 3), "window": 56}
TEXT = {"hidden": 128, "layers": 3, "heads": 4, "kv_heads": 2, "intermediate": 384, "vocab": 768}
MROPE_SECTION = (4, 6, 6)
ROPE_THETA = 1e4
EPSILON = 1e-6
PATCH_SIZE = 14
PATCH_VALUES = 3 * 2 * PATCH_SIZE * PATCH_SIZE
MERGE = 2
GRID = 8
IMAGE_TOKENS = (GRID // MERGE) ** 2


def linear(inputs, outputs, bias, scale=1.0):
    """A linear layer with weights N(0, scale^2 / inputs) and bias 0."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(layer.weight, std=scale / math.sqrt(inputs))
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def rotate(x, cos, sin):
    """Rotary embedding in the half-split layout; x [..., T, D], cos and sin [T, D]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class VisionAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = linear(VISION["hidden"], 3 * VISION["hidden"], bias=True)
        self.proj = linear(VISION["hidden"], VISION["hidden"], bias=True, scale=0.5)

    def forward(self, x, cos, sin, windows):
        batch, count, hidden = x.shape
        heads = VISION["heads"]
        qkv = self.qkv(x).view(batch * windows, count // windows, 3, heads, hidden // heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        cos, sin = (a.view(1, windows, 1, count // windows, -1) for a in (cos, sin))

        def turned(y):
            return rotate(y.unflatten(0, (batch, windows)), cos, sin).flatten(0, 1)

        y = F.scaled_dot_product_attention(turned(query), turned(key), value)
        return self.proj(y.transpose(1, 2).reshape(batch, count, hidden))


class GatedMLP(nn.Module):
    def __init__(self, hidden, intermediate, bias):
        super().__init__()
        self.gate_proj = linear(hidden, intermediate, bias)
        self.up_proj = linear(hidden, intermediate, bias)
        self.down_proj = linear(intermediate, hidden, bias, scale=0.5)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class VisionBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1 = nn.RMSNorm(VISION["hidden"], eps=EPSILON)
        self.norm2 = nn.RMSNorm(VISION["hidden"], eps=EPSILON)
        self.attn = VisionAttention()
        self.mlp = GatedMLP(VISION["hidden"], VISION["intermediate"], bias=True)

    def forward(self, x, cos, sin, windows):
        x = x + self.attn(self.norm1(x), cos, sin, windows)
        return x + self.mlp(self.norm2(x))


class PatchEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Conv3d(3, VISION["hidden"], (2, PATCH_SIZE, PATCH_SIZE), bias=False)

    def forward(self, patches):
        return patches @ self.proj.weight.flatten(1).T


class Merger(nn.Module):
    def __init__(self):
        super().__init__()
        wide = VISION["hidden"] * MERGE * MERGE
        self.ln_q = nn.RMSNorm(VISION["hidden"], eps=EPSILON)
        self.mlp = nn.Sequential(linear(wide, wide, bias=True), nn.GELU(), linear(wide, TEXT["hidden"], bias=True))

    def forward(self, x):
        return self.mlp(self.ln_q(x).view(x.shape[0], -1, VISION["hidden"] * MERGE * MERGE))


def vision_positions():
    """Row and column of each of the 64 patches, merge group by merge group: [64, 2]."""
    groups = GRID // MERGE
    rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    place = torch.stack((rows, columns), -1).view(groups, MERGE, groups, MERGE, 2)
    return place.transpose(1, 2).reshape(-1, 2)


def window_order():
    """The merge groups in window order; a window is 2x2 groups, a picture has 2x2 windows."""
    groups = GRID // MERGE
    side = VISION["window"] // (PATCH_SIZE * MERGE)
    index = torch.arange(groups * groups).view(groups // side, side, groups // side, side)
    return index.transpose(1, 2).reshape(-1)


class VisionTower(nn.Module):
    """patches [batch, 64, 1176] to image embeddings [batch, 16, 128]."""

    def __init__(self):
        super().__init__()
        self.patch_embed = PatchEmbedding()
        self.blocks = nn.ModuleList(VisionBlock() for _ in range(VISION["blocks"]))
        self.merger = Merger()
        order = window_order()
        self.windows = (GRID * PATCH_SIZE // VISION["window"]) ** 2
        quarter = VISION["hidden"] // VISION["heads"] // 4
        inverse = ROPE_THETA ** (-torch.arange(quarter) / quarter)
        angles = (vision_positions()[..., None] * inverse).flatten(1)
        angles = angles.view(-1, MERGE * MERGE, 2 * quarter)[order].flatten(0, 1).repeat(1, 2)
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, patches):
        x = self.patch_embed(patches)
        x = x.view(x.shape[0], -1, MERGE * MERGE, x.shape[-1])[:, self.order].flatten(1, 2)
        for index, block in enumerate(self.blocks):
            x = block(x, self.cos, self.sin, 1 if index in VISION["full"] else self.windows)
        return self.merger(x)[:, self.order.argsort()]


class TextAttention(nn.Module):
    def __init__(self):
        super().__init__()
        hidden = TEXT["hidden"]
        self.size = hidden // TEXT["heads"]
        self.q_proj = linear(hidden, hidden, bias=True)
        self.k_proj = linear(hidden, TEXT["kv_heads"] * self.size, bias=True)
        self.v_proj = linear(hidden, TEXT["kv_heads"] * self.size, bias=True)
        self.o_proj = linear(hidden, hidden, bias=False, scale=0.5)

    def forward(self, x, cos, sin):
        query, key, value = (
            projection(x).unflatten(-1, (-1, self.size)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        repeats = TEXT["heads"] // TEXT["kv_heads"]
        key = rotate(key, cos, sin).repeat_interleave(repeats, 1)
        value = value.repeat_interleave(repeats, 1)
        y = F.scaled_dot_product_attention(rotate(query, cos, sin), key, value, is_causal=True)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class TextLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn = TextAttention()
        self.mlp = GatedMLP(TEXT["hidden"], TEXT["intermediate"], bias=False)
        self.input_layernorm = nn.RMSNorm(TEXT["hidden"], eps=EPSILON)
        self.post_attention_layernorm = nn.RMSNorm(TEXT["hidden"], eps=EPSILON)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class LanguageModel(nn.Module):
    """Embeddings [batch, T, 128] and positions [3, T] to logits [batch, T, 768], tied head."""

    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(TEXT["vocab"], TEXT["hidden"])
        nn.init.normal_(self.embed_tokens.weight, std=1 / math.sqrt(TEXT["hidden"]))
        self.layers = nn.ModuleList(TextLayer() for _ in range(TEXT["layers"]))
        self.norm = nn.RMSNorm(TEXT["hidden"], eps=EPSILON)

    def forward(self, embeddings, positions):
        half = TEXT["hidden"] // TEXT["heads"] // 2
        inverse = ROPE_THETA ** (-torch.arange(half) / half)
        axis = torch.repeat_interleave(torch.arange(3), torch.tensor(MROPE_SECTION))
        angles = (positions[axis].T * inverse).repeat(1, 2)
        cos, sin = angles.cos(), angles.sin()
        x = embeddings
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x) @ self.embed_tokens.weight.T


def positions_of(length, image_start=None):
    """M-RoPE positions [3, length]; the 16 image tokens, if any, begin at image_start."""
    if image_start is None:
        return torch.arange(length).expand(3, -1)
    side = GRID // MERGE
    before = torch.arange(image_start).expand(3, -1)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    image = torch.stack((torch.zeros_like(rows), rows, columns)).flatten(1) + image_start
    after = torch.arange(length - image_start - IMAGE_TOKENS).expand(3, -1) + image_start + side
    return torch.cat((before, image, after), dim=1)
