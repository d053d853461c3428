"""Our forward pass and our graph against somebody else's ViT: torch and transformers' ViTModel, with the same weights.

Run with torch 2.13.0+cpu and transformers 5.23.0, whose in-memory names differ from those in the files on the hub;
both are understood, and `load_state_dict` is strict. transformers interpolates the position embedding without DINO's
0.1, so the model is built for the grid at hand and gets an embedding that torch interpolated by DINO's formula.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geal_edge.config import IMAGENET_MEAN, IMAGENET_STD
from geal_edge.export.graph import build_graph
from geal_edge.export.parity import reference_forward
from geal_edge.models.posembed import interpolate_pos_embed
from geal_edge.models.vit import HEAD_DIM, LAYER_NORM_EPS, Weights
from geal_edge.models.weights import load_weights, untrained
from geal_edge.runtime.parity import Tolerances, compare
from tests.tiny import NORM, TINY8, TINY16, random_frames, run_onnx, tiny_weights

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = [(224, 224), (448, 224), (640, 192)]
EXACT = Tolerances(feature_error=1e-9, feature_cosine=1 - 1e-12, attention_error=1e-9)


@pytest.fixture(params=["seeded ViT-S/16", "trained ViT-T/16"])
def weights(request: pytest.FixtureRequest) -> Weights:
    if request.param == "seeded ViT-S/16":
        return untrained(7)
    shared: Path = request.getfixturevalue("shared")
    return load_weights(shared / "data" / "weights" / "vit_tiny_patch16_224.safetensors")


@pytest.mark.parametrize("width, height", SIZES)
def test_the_graph_computes_what_torch_computes_in_float32(weights, width, height):
    frames = two_frames(width, height)

    answer = run_onnx(build_graph(weights, width=width, height=height, **NORM), frames)

    report = compare(torch_forward(weights, frames, torch.float32), answer)
    assert report.passed, f"\n{report}"


@pytest.mark.parametrize("width, height", SIZES)
def test_our_float64_forward_pass_is_torchs(weights, width, height):
    frames = two_frames(width, height)

    report = compare(torch_forward(weights, frames, torch.float64), reference_forward(weights, frames, **NORM), EXACT)

    assert report.passed, f"\n{report}"


@pytest.mark.parametrize("geometry", [TINY16, TINY8], ids=lambda geometry: geometry.name)
@pytest.mark.parametrize("tap", ["norm", "raw"])
def test_the_tiny_models_of_the_other_tests_are_torchs_too(geometry, tap):
    """Their weights are wild: nothing is near zero, so that every part of the forward pass shows."""
    weights = tiny_weights(geometry)
    frames = random_frames(2, 9 * geometry.patch_size, 4 * geometry.patch_size)

    answer = reference_forward(weights, frames, tap=tap, **NORM)

    report = compare(torch_forward(weights, frames, torch.float64, tap=tap), answer, EXACT)
    assert report.passed, f"\n{report}"


@pytest.mark.parametrize("rows, cols", [(14, 28), (12, 40), (28, 28), (13, 14), (1, 1), (53, 97)])
def test_the_position_embedding_is_torchs(rows, cols):
    table = np.random.default_rng(0).standard_normal((1, 197, 8)).astype(np.float32)

    answer = interpolate_pos_embed(table, (14, 14), rows, cols)

    np.testing.assert_allclose(answer, torch_pos_embed(table, rows, cols), rtol=0, atol=1e-12)


def two_frames(width: int, height: int) -> np.ndarray:
    """One of noise, one of smooth colours with an edge."""
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 255 // width, y * 255 // height, np.where(x > width // 3, 200, 40)], axis=-1)
    return np.concatenate([random_frames(1, width, height), smooth[np.newaxis].astype(np.uint8)])


def torch_pos_embed(table: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """DINO's own call, in float64; only for a table of a square grid."""
    side = int((table.shape[1] - 1) ** 0.5)
    if rows == cols == side:
        return table.astype(np.float64)
    grid = torch.tensor(table[:, 1:], dtype=torch.float64).reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = ((rows + 0.1) / side, (cols + 0.1) / side)
    grid = torch.nn.functional.interpolate(grid, mode="bicubic", scale_factor=scale)
    assert grid.shape[2:] == (rows, cols)
    patches = grid.permute(0, 2, 3, 1).reshape(1, rows * cols, -1).numpy()
    return np.concatenate([table[:, :1].astype(np.float64), patches], axis=1)


def torch_forward(weights: Weights, frames: np.ndarray, dtype: Any, tap: str = "norm") -> dict[str, np.ndarray]:
    """The graph's outputs, from transformers' ViTModel in `dtype`."""
    height, width = frames.shape[1:3]
    model = vit_model(weights, width, height).to(dtype).eval()
    mean, std = (torch.tensor(v, dtype=torch.float64).reshape(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = ((torch.tensor(frames).permute(0, 3, 1, 2) / torch.tensor(255, dtype=torch.float64) - mean) / std).to(
        dtype
    )
    with torch.no_grad():
        answer = model(pixels, output_hidden_states=True, output_attentions=True)
        assert len(answer.hidden_states) == weights.geometry.depth + 1  # embeddings, then each block's output
        second_last = answer.hidden_states[weights.geometry.depth - 1]
        features = model.layernorm(second_last) if tap == "norm" else second_last
        attention = answer.attentions[-1].mean(1)[:, 0, 1:]
        attention = attention / attention.sum(-1, keepdim=True)
    outputs = {
        "patch_features": features[:, 1:],
        "cls_attention": attention,
        "cls_embedding": answer.last_hidden_state[:, 0],
    }
    return {name: values.numpy() for name, values in outputs.items()}


def vit_model(weights: Weights, width: int, height: int) -> Any:
    """A ViTModel for exactly this size, with our weights."""
    geometry = weights.geometry
    config = transformers.ViTConfig(
        hidden_size=geometry.embed_dim,
        num_hidden_layers=geometry.depth,
        num_attention_heads=geometry.heads,
        intermediate_size=geometry.mlp_dim,
        patch_size=geometry.patch_size,
        image_size=(height, width),
        layer_norm_eps=LAYER_NORM_EPS,
        hidden_act="gelu",
        qkv_bias=True,
        attn_implementation="geal_edge_exact",
    )
    model = transformers.ViTModel(config, add_pooling_layer=False).to(torch.float64)
    tensors = {name: tensor.astype(np.float64) for name, tensor in weights.tensors.items()}
    tensors["pos_embed"] = torch_pos_embed(weights.tensors["pos_embed"], *geometry.grid(width, height))
    state = {name: torch.tensor(np.ascontiguousarray(dino_tensor(tensors, name))) for name in model.state_dict()}
    model.load_state_dict(state, strict=True)
    assert sum(part.numel() for part in state.values()) == sum(tensor.size for tensor in tensors.values())  # all used
    return model


def exact_attention(module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, **_: Any) -> Any:
    """transformers' eager attention, but for its softmax, which is float32 even in a float64 model."""
    assert mask is None
    assert scaling == HEAD_DIM**-0.5
    weights = torch.softmax(query @ key.transpose(2, 3) * scaling, dim=-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


transformers.AttentionInterface.register("geal_edge_exact", exact_attention)

OUTSIDE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
}
INSIDE = {  # a part of a block, as the hub's files and as transformers 5 in memory call it -> DINO's name, third of qkv
    "layernorm_before": ("norm1", None),
    "attention.attention.query": ("attn.qkv", 0),
    "attention.attention.key": ("attn.qkv", 1),
    "attention.attention.value": ("attn.qkv", 2),
    "attention.output.dense": ("attn.proj", None),
    "attention.q_proj": ("attn.qkv", 0),
    "attention.k_proj": ("attn.qkv", 1),
    "attention.v_proj": ("attn.qkv", 2),
    "attention.o_proj": ("attn.proj", None),
    "layernorm_after": ("norm2", None),
    "intermediate.dense": ("mlp.fc1", None),
    "output.dense": ("mlp.fc2", None),
    "mlp.fc1": ("mlp.fc1", None),
    "mlp.fc2": ("mlp.fc2", None),
}


def dino_tensor(tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
    """What belongs under transformers' `name`; KeyError where no version that we know has that name."""
    if name in OUTSIDE:
        return tensors[OUTSIDE[name]]
    stem, _, kind = name.rpartition(".")
    if stem in OUTSIDE:
        return tensors[f"{OUTSIDE[stem]}.{kind}"]
    found = re.fullmatch(r"(?:encoder\.)?layers?\.(\d+)\.(.+)", stem)
    if found is None:
        raise KeyError(name)
    block, part = found.groups()
    dino, third = INSIDE[part]
    whole = tensors[f"blocks.{block}.{dino}.{kind}"]
    return whole if third is None else np.split(whole, 3)[third]
