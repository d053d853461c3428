"""The same ViT in plain torch, for comparison: what a method's reference implementation runs."""

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from geal_edge.config import IMAGENET_MEAN, IMAGENET_STD
from geal_edge.models.posembed import interpolate_pos_embed
from geal_edge.models.vit import HEAD_DIM, LAYER_NORM_EPS, Weights


class Block(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.heads = dim // HEAD_DIM
        self.norm1, self.norm2 = nn.LayerNorm(dim, LAYER_NORM_EPS), nn.LayerNorm(dim, LAYER_NORM_EPS)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim), "proj": nn.Linear(dim, dim)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, hidden), "fc2": nn.Linear(hidden, dim)})

    def attention(self, x: Any) -> tuple[Any, Any]:
        n, t, _ = x.shape
        qkv = self.attn["qkv"](self.norm1(x)).reshape(n, t, 3, self.heads, HEAD_DIM).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        return (q @ k.transpose(-2, -1) / math.sqrt(HEAD_DIM)).softmax(dim=-1), v

    def forward(self, x: Any) -> Any:
        weights, v = self.attention(x)
        x = x + self.attn["proj"]((weights @ v).transpose(1, 2).flatten(2))
        return x + self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](self.norm2(x))))


class VisionTransformer(nn.Module):
    def __init__(self, weights: Weights, side: int) -> None:
        super().__init__()
        g = weights.geometry
        rows, cols = g.grid(side, side)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, g.embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + rows * cols, g.embed_dim))
        projection = nn.Conv2d(3, g.embed_dim, g.patch_size, g.patch_size)
        self.patch_embed = nn.ModuleDict({"proj": projection})
        self.blocks = nn.ModuleList(Block(g.embed_dim, g.mlp_dim) for _ in range(g.depth))
        self.norm = nn.LayerNorm(g.embed_dim, LAYER_NORM_EPS)
        table = interpolate_pos_embed(weights.tensors["pos_embed"], g.trained_grid, rows, cols)
        tensors = {**weights.tensors, "pos_embed": np.asarray(table, np.float32)}
        self.load_state_dict({name: torch.tensor(tensor) for name, tensor in tensors.items()})

    def embed(self, pixels: Any) -> Any:
        x = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed

    def before_last(self, pixels: Any) -> Any:
        x = self.embed(pixels)
        for block in self.blocks[:-1]:
            x = block(x)
        return x

    def last_attention(self, pixels: Any) -> Any:
        return self.blocks[-1].attention(self.before_last(pixels))[0]


class Tokens(nn.Module):
    """The pass for the tokens: all blocks are run, and the second-last one's output is taken."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, pixels: Any) -> Any:
        x = self.vit.before_last(pixels)
        self.vit.blocks[-1](x)
        return self.vit.norm(x)


class Both(nn.Module):
    """Tokens and last attention in one pass."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, pixels: Any) -> tuple[Any, Any]:
        x = self.vit.before_last(pixels)
        return self.vit.norm(x), self.vit.blocks[-1].attention(x)[0]


def vit_of(weights: Weights, side: int) -> VisionTransformer:
    return VisionTransformer(weights, side).eval()


def pixels_of(frames: Any) -> Any:
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W), normalised."""
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255 - mean) / std
