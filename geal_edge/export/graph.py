"""Weights -> ONNX graph, node by node in forward order: a ViT that takes uint8 frames and gives what GEAL looks at.

    image (N, H, W, 3) uint8 RGB
      -> patch_features (N, P, D)   output of the second-last block, after the model's final LayerNorm
      -> cls_attention  (N, P)      last block, CLS row, mean over heads, CLS left out, sums to 1
      -> cls_embedding  (N, D)      the whole model's CLS token after the final LayerNorm (optional)

N frames, P = (H / p) * (W / p) patches in row-major order, T = 1 + P tokens (CLS first), width D, h heads of 64, M in
the MLP. Float outputs are float32. The taps are those of the authors' code; its two passes through the model are one
here, and of the last block there is only what the outputs need.

One form for every engine: opset 17, standard operators, attention as MatMul and Softmax. TensorRT 10 wants
LayerNormalization with one output, knows no Attention and no opset above 20, and takes uint8 into a Cast alone.
Initialisers have their DINO names; matrices are transposed, as MatMul wants them, and the last block's qkv is cut into
q, k and v. A node and the value that it puts out have one name: `blocks.3.attn.qkv`.
"""

from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from geal_edge import __version__
from geal_edge.errors import UsageError
from geal_edge.export.nodes import Nodes
from geal_edge.models.posembed import interpolate_pos_embed
from geal_edge.models.vit import HEAD_DIM, LAYER_NORM_EPS, Weights

OPSET = 17
IR_VERSION = 8
"""The one that came with opset 17: an engine that reads the opset reads the file."""


def build_graph(
    weights: Weights,
    *,
    width: int,
    height: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    batch: int | None = None,
    cls_embedding: bool = True,
    tap: Literal["norm", "raw"] = "norm",
) -> onnx.ModelProto:
    """The graph of `weights` for images of `width` x `height` pixels.

    mean, std      per RGB channel, of pixel values scaled to 0..1
    batch          fixed number of frames N, or None for any number
    cls_embedding  with the output of that name
    tap            "norm": patch features pass the model's final LayerNorm (the authors' code); "raw": they do not

    Raises UsageError for a size that the patch size does not divide, or a batch below 1.
    """
    if batch is not None and batch < 1:
        raise UsageError(f"batch = {batch}: must be at least 1, or left out for any number of frames")
    geometry = weights.geometry
    rows, cols = geometry.grid(width, height)
    patches, dim = rows * cols, geometry.embed_dim
    last = f"blocks.{geometry.depth - 1}"
    g = _Builder(weights, rows, cols)
    g.cut_qkv(f"{last}.attn")

    x = _embed(g, "image", mean, std)  # (N, T, D)
    for i in range(geometry.depth - 1):
        x = _block(g, f"blocks.{i}", x)  # (N, T, D)

    if tap == "norm":
        y = _patch_part(g, "patch_tokens", x, axis=1)  # (N, P, D)
        _layer_norm(g, "patch_features", y, "norm")
    else:
        _patch_part(g, "patch_features", x, axis=1)

    y = _layer_norm(g, f"{last}.norm1", x)  # (N, T, D)
    log_attention = _cls_log_attention(g, f"{last}.attn", y)  # (N, h, 1, T)
    _mean_over_heads(g, "cls_attention", log_attention, f"{last}.attn")  # (N, P)
    if cls_embedding:
        _finish_cls(g, "cls_embedding", x, y, log_attention, last)  # (N, D)

    n = "N" if batch is None else batch
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [n, height, width, 3])
    shapes = {"patch_features": [n, patches, dim], "cls_attention": [n, patches]}
    if cls_embedding:
        shapes["cls_embedding"] = [n, dim]
    graph = helper.make_graph(
        g.nodes,
        f"{geometry.name} {width}x{height}",
        [image],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        initializer=list(g.initializers.values()),
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="geal-edge",
        producer_version=__version__,
    )


def serialize(model: onnx.ModelProto) -> bytes:
    """The file's bytes: the same for the same weights and options, in every process, as a bundle's digest needs it."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


class _Builder(Nodes):
    """The nodes, the checkpoint's tensors, and the numbers that every part needs."""

    def __init__(self, weights: Weights, rows: int, cols: int) -> None:
        super().__init__()
        self.geometry = weights.geometry
        self.rows, self.cols = rows, cols
        self.patches, self.tokens = rows * cols, rows * cols + 1
        self.dim, self.heads = weights.geometry.embed_dim, weights.geometry.heads
        self.weights = dict(weights.tensors)

    def cut_qkv(self, at: str) -> None:
        """q, k and v of one block as tensors of their own."""
        for part in ("weight", "bias"):
            q, k, v = np.split(self.weights.pop(f"{at}.qkv.{part}"), 3)
            self.weights |= {f"{at}.q.{part}": q, f"{at}.k.{part}": k, f"{at}.v.{part}": v}

    def tensor(self, name: str) -> str:
        """One of the checkpoint's tensors, as it is."""
        return self.constant(name, self.weights[name])

    def matrix(self, name: str) -> str:
        """One of the checkpoint's matrices (out, in), transposed for MatMul."""
        return self.constant(name, self.weights[name].T)


def _embed(g: _Builder, image: str, mean: tuple[float, float, float], std: tuple[float, float, float]) -> str:
    """Pixels (N, H, W, 3) -> tokens (N, T, D)."""
    p = g.geometry.patch_size
    pixel_mean, pixel_std = (255 * np.array(v, np.float64).reshape(1, 3, 1, 1) for v in (mean, std))
    x = g.node("Cast", "pixels", image, to=TensorProto.FLOAT)
    x = g.node("Transpose", "pixels.nchw", x, perm=[0, 3, 1, 2])  # (N, 3, H, W)
    x = g.node("Sub", "pixels.centered", x, g.constant("pixels.mean", pixel_mean))
    x = g.node("Mul", "pixels.scaled", x, g.constant("pixels.inverse_std", 1 / pixel_std))

    weight, bias = g.tensor("patch_embed.proj.weight"), g.tensor("patch_embed.proj.bias")
    x = g.node("Conv", "patch_embed.proj", x, weight, bias, kernel_shape=[p, p], strides=[p, p])  # (N, D, H/p, W/p)
    x = g.reshape("patch_embed.flat", x, 0, g.dim, g.patches)
    x = g.node("Transpose", "patch_embed", x, perm=[0, 2, 1])  # (N, P, D)

    # An empty row goes in front, and cls_token comes with the position embedding: nothing needs to know the batch size.
    position = interpolate_pos_embed(g.weights["pos_embed"], g.geometry.trained_grid, g.rows, g.cols)  # (1, T, D)
    position[:, :1] += g.weights["cls_token"]
    x = g.node("Pad", "tokens", x, g.constant("tokens.pads", [0, 1, 0, 0, 0, 0], np.int64))
    return g.node("Add", "embedding", x, g.constant("pos_embed", position))


def _block(g: _Builder, at: str, x: str) -> str:
    """One whole block: (N, T, D) -> (N, T, D)."""
    y = _layer_norm(g, f"{at}.norm1", x)
    y = _linear(g, f"{at}.attn.qkv", y)  # (N, T, 3D)
    y = g.reshape(f"{at}.attn.heads", y, 0, g.tokens, 3 * g.heads, HEAD_DIM)
    y = g.node("Transpose", f"{at}.attn.by_head", y, perm=[0, 2, 1, 3])  # (N, 3h, T, 64)
    q, k, v = (f"{at}.attn.{part}" for part in "qkv")  # (N, h, T, 64) each
    g.node("Split", f"{at}.attn.split", y, outputs=(q, k, v), axis=1)
    k = g.node("Transpose", f"{k}.transposed", k, perm=[0, 1, 3, 2])  # (N, h, 64, T)
    y = g.node("Softmax", f"{at}.attn.softmax", _scores(g, f"{at}.attn", q, k), axis=-1)  # (N, h, T, T)
    y = g.node("MatMul", f"{at}.attn.mix", y, v)  # (N, h, T, 64)
    y = g.node("Transpose", f"{at}.attn.by_token", y, perm=[0, 2, 1, 3])  # (N, T, h, 64)
    y = g.reshape(f"{at}.attn.joined", y, 0, g.tokens, g.dim)  # (N, T, D)
    x = g.node("Add", f"{at}.attn.residual", x, _linear(g, f"{at}.attn.proj", y))
    return _mlp(g, at, x)


def _cls_log_attention(g: _Builder, at: str, y: str) -> str:
    """Logarithm of the CLS row of a block's attention: (N, T, D) after norm1 -> (N, h, 1, T)."""
    q = _linear(g, f"{at}.q", _cls(g, f"{at}.cls", y))  # (N, D)
    q = g.reshape(f"{at}.q.heads", q, 0, g.heads, 1, HEAD_DIM)  # (N, h, 1, 64)
    # K without its bias: that would move a whole row of scores by one number, which the softmax takes away.
    k = g.node("MatMul", f"{at}.k", y, g.matrix(f"{at}.k.weight"))  # (N, T, D)
    k = g.reshape(f"{at}.k.heads", k, 0, g.tokens, g.heads, HEAD_DIM)  # (N, T, h, 64)
    k = g.node("Transpose", f"{at}.k.transposed", k, perm=[0, 2, 3, 1])  # (N, h, 64, T)
    scores = _scores(g, at, q, k)  # (N, h, 1, T)

    # Written out: LogSoftmax is log(softmax) in TensorRT, minus infinity for whatever the softmax rounds to 0.
    largest = g.node("ReduceMax", f"{at}.scores.max", scores, axes=[-1], keepdims=1)
    shifted = g.node("Sub", f"{at}.scores.shifted", scores, largest)
    last_axis = g.constant("last_axis", [-1], np.int64)
    total = g.node("ReduceSum", f"{at}.exp.sum", g.node("Exp", f"{at}.exp", shifted), last_axis, keepdims=1)
    return g.node("Sub", f"{at}.log", shifted, g.node("Log", f"{at}.exp.sum.log", total))


def _mean_over_heads(g: _Builder, name: str, log_attention: str, at: str) -> str:
    """Mean over heads, CLS column dropped, sum 1: (N, h, 1, T) -> (N, P).

    With a[i, j] the attention of head i to patch j, the answer is sum_i a[i, j] / sum_ij a[i, j]: a softmax of log a
    over heads and patches together. Taken so, it holds where CLS looks at itself alone and every a[i, j] rounds to 0.
    """
    y = _patch_part(g, f"{at}.log.patches", log_attention, axis=3)  # (N, h, 1, P)
    y = g.reshape(f"{at}.log.joint", y, 0, g.heads * g.patches)
    y = g.node("Softmax", f"{at}.joint", y, axis=-1)
    y = g.reshape(f"{at}.joint.heads", y, 0, g.heads, g.patches)  # (N, h, P)
    return g.node("ReduceSum", name, y, g.constant("head_axis", [1], np.int64), keepdims=0)


def _finish_cls(g: _Builder, name: str, x: str, y: str, log_attention: str, at: str) -> str:
    """The rest of the last block for the CLS row alone, then the final LayerNorm -> (N, D).

    x (N, T, D) is the block's input, y (N, T, D) the same after norm1.
    """
    v = _linear(g, f"{at}.attn.v", y)  # (N, T, D)
    v = g.reshape(f"{at}.attn.v.heads", v, 0, g.tokens, g.heads, HEAD_DIM)
    v = g.node("Transpose", f"{at}.attn.v.by_head", v, perm=[0, 2, 1, 3])  # (N, h, T, 64)
    attention = g.node("Exp", f"{at}.attn.softmax", log_attention)  # (N, h, 1, T)
    mixed = g.node("MatMul", f"{at}.attn.mix", attention, v)  # (N, h, 1, 64)
    mixed = g.reshape(f"{at}.attn.joined", mixed, 0, g.dim)  # (N, D)
    cls = g.node("Add", f"{at}.attn.residual", _cls(g, f"{at}.cls", x), _linear(g, f"{at}.attn.proj", mixed))
    return _layer_norm(g, name, _mlp(g, at, cls), "norm")


def _mlp(g: _Builder, at: str, x: str) -> str:
    """x + fc2(gelu(fc1(norm2(x)))), whatever stands before D: (..., D) -> (..., D)."""
    y = _layer_norm(g, f"{at}.norm2", x)
    y = _linear(g, f"{at}.mlp.fc1", y)  # (..., M)
    y = _gelu(g, f"{at}.mlp.gelu", y)
    return g.node("Add", f"{at}.mlp.residual", x, _linear(g, f"{at}.mlp.fc2", y))


def _linear(g: _Builder, name: str, x: str) -> str:
    """x W^T + b with the tensors of that name: (..., in) -> (..., out)."""
    y = g.node("MatMul", f"{name}.matmul", x, g.matrix(f"{name}.weight"))
    return g.node("Add", name, y, g.tensor(f"{name}.bias"))


def _layer_norm(g: _Builder, name: str, x: str, tensors: str = "") -> str:
    """Over D, with the tensors of the node's name, or of `tensors`."""
    weight, bias = (g.tensor(f"{tensors or name}.{part}") for part in ("weight", "bias"))
    return g.node("LayerNormalization", name, x, weight, bias, axis=-1, epsilon=LAYER_NORM_EPS)


def _gelu(g: _Builder, name: str, x: str) -> str:
    """x (1 + erf(x / sqrt 2)) / 2, exact, in the order of operations that ONNX Runtime fuses into one kernel."""
    y = g.node("Div", f"{name}.scaled", x, g.constant("gelu.sqrt2", np.sqrt(2)))
    y = g.node("Erf", f"{name}.erf", y)
    y = g.node("Add", f"{name}.plus_one", y, g.constant("gelu.one", 1))
    y = g.node("Mul", f"{name}.doubled", x, y)
    return g.node("Mul", name, y, g.constant("gelu.half", 0.5))


def _scores(g: _Builder, at: str, q: str, k: str) -> str:
    """q k / 8, before the softmax; k comes transposed."""
    return g.node("Mul", f"{at}.scores", g.node("MatMul", f"{at}.qk", q, k), g.constant("attn.scale", HEAD_DIM**-0.5))


def _cls(g: _Builder, name: str, x: str) -> str:
    """(N, T, D) -> (N, D): token 0."""
    return g.node("Gather", name, x, g.constant("cls_index", 0, np.int64), axis=1)


def _patch_part(g: _Builder, name: str, x: str, *, axis: int) -> str:
    """T -> P on one axis: all tokens but CLS."""
    first, end = g.constant("patches.first", [1], np.int64), g.constant("patches.end", [g.tokens], np.int64)
    return g.node("Slice", name, x, first, end, g.constant(f"patches.axis_{axis}", [axis], np.int64))
