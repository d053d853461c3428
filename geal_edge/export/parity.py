"""What the weights say: a float64 forward pass in plain NumPy, against which graphs and engines are held (runtime/parity.py).

It shares nothing with the graph but the position embedding: it runs every block in full, then takes what GEAL looks at from
the complete tensors.
"""

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import erf

from geal_edge.models.posembed import interpolate_pos_embed
from geal_edge.models.vit import HEAD_DIM, LAYER_NORM_EPS, Weights
from geal_edge.runtime.parity import Float64s


def reference_forward(
    weights: Weights,
    image: npt.NDArray[np.uint8],
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    tap: Literal["norm", "raw"] = "norm",
    cls_embedding: bool = True,
) -> dict[str, Float64s]:
    """What the graph of the same arguments should answer, in float64.

    image    (N, H, W, 3) uint8 RGB, N >= 1
    returns  `patch_features` (N, P, D), `cls_attention` (N, P), whose rows sum to 1, and `cls_embedding` (N, D)

    Raises UsageError for a size that the patch size does not divide.
    """
    w = {name: tensor.astype(np.float64) for name, tensor in weights.tensors.items()}
    # Frame by frame: all attention maps of a large image at once would not fit.
    answers = [_forward(w, weights, frame, mean, std, tap) for frame in image]
    names = ["patch_features", "cls_attention"] + ["cls_embedding"] * cls_embedding
    return {name: np.stack([answer[name] for answer in answers]) for name in names}


def _forward(
    w: Mapping[str, Float64s],
    weights: Weights,
    frame: npt.NDArray[np.uint8],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    tap: Literal["norm", "raw"],
) -> dict[str, Float64s]:
    """One frame (H, W, 3). T = 1 + P tokens, width D, h heads of 64, M in the MLP."""
    geometry = weights.geometry
    p = geometry.patch_size
    rows, cols = geometry.grid(frame.shape[1], frame.shape[0])

    pixels = (frame / 255 - np.array(mean)) / np.array(std)  # (H, W, 3)
    patches = pixels.reshape(rows, p, cols, p, 3).transpose(0, 2, 4, 1, 3)  # (rows, cols, 3, p, p)
    kernel = w["patch_embed.proj.weight"].reshape(geometry.embed_dim, -1)  # (D, 3pp)
    x = patches.reshape(rows * cols, -1) @ kernel.T + w["patch_embed.proj.bias"]  # (P, D)
    x = np.concatenate([w["cls_token"][0], x])  # (T, D)
    x += interpolate_pos_embed(weights.tensors["pos_embed"], geometry.trained_grid, rows, cols)[0]

    *others, last = (f"blocks.{i}" for i in range(geometry.depth))
    for at in others:
        x, _ = _block(w, at, x)
    features = _layer_norm(w, "norm", x) if tap == "norm" else x  # (T, D)
    x, attention = _block(w, last, x)
    to_patches = attention.mean(0)[0, 1:]  # (P,): the CLS row without its own column
    return {
        "patch_features": features[1:],
        "cls_attention": to_patches / to_patches.sum(),
        "cls_embedding": _layer_norm(w, "norm", x)[0],
    }


def _block(w: Mapping[str, Float64s], at: str, x: Float64s) -> tuple[Float64s, Float64s]:
    """Tokens (T, D) -> tokens (T, D) and the attention (h, T, T)."""
    tokens, dim = x.shape
    qkv = _linear(w, f"{at}.attn.qkv", _layer_norm(w, f"{at}.norm1", x))  # (T, 3D)
    q, k, v = qkv.reshape(tokens, 3, dim // HEAD_DIM, HEAD_DIM).transpose(1, 2, 0, 3)  # (h, T, 64) each
    attention = _softmax(q @ k.swapaxes(1, 2) / math.sqrt(HEAD_DIM))  # (h, T, T)
    mixed = (attention @ v).swapaxes(0, 1).reshape(tokens, dim)
    x = x + _linear(w, f"{at}.attn.proj", mixed)
    hidden = _linear(w, f"{at}.mlp.fc1", _layer_norm(w, f"{at}.norm2", x))  # (T, M)
    gelu = hidden / 2 * (1 + erf(hidden / math.sqrt(2)))
    return x + _linear(w, f"{at}.mlp.fc2", gelu), attention


def _linear(w: Mapping[str, Float64s], name: str, x: Float64s) -> Float64s:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _layer_norm(w: Mapping[str, Float64s], name: str, x: Float64s) -> Float64s:
    centered: Float64s = x - x.mean(-1, keepdims=True)
    variance: Float64s = (centered**2).mean(-1, keepdims=True)  # over D, not D - 1
    return centered / np.sqrt(variance + LAYER_NORM_EPS) * w[f"{name}.weight"] + w[f"{name}.bias"]


def _softmax(scores: Float64s) -> Float64s:
    weight: Float64s = np.exp(scores - scores.max(-1, keepdims=True))
    total: Float64s = weight.sum(-1, keepdims=True)
    return weight / total
