"""Does an engine compute what the weights say? A float64 forward pass in plain NumPy, and how far an answer is from it.

The forward pass shares nothing with the graph but the position embedding: it runs every block in full, then takes what
GEAL looks at from the complete tensors. An engine is the dict of arrays that it answered; none is imported here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import erf

from geal_edge.config import Precision
from geal_edge.errors import ParityError
from geal_edge.models.posembed import interpolate_pos_embed
from geal_edge.models.vit import HEAD_DIM, LAYER_NORM_EPS, Weights

Float64s: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerances:
    """What an answer may differ by. The defaults are those of a float32 engine.

    feature_error   largest |difference| of one number in `patch_features` or `cls_embedding`
    feature_cosine  smallest cosine between a token and its reference
    attention_error largest |difference| of one number in `cls_attention`
    """

    feature_error: float = 2e-3
    feature_cosine: float = 0.99999
    attention_error: float = 1e-5


FLOAT32 = Tolerances()

TOLERANCES: dict[Precision, Tolerances] = {
    "fp32": FLOAT32,
    "fp16": Tolerances(feature_error=1.0, feature_cosine=0.999, attention_error=2e-3),
    "int8": Tolerances(feature_error=10.0, feature_cosine=0.7, attention_error=5e-2),
    "int8-dynamic": Tolerances(feature_error=10.0, feature_cosine=0.7, attention_error=5e-2),
}
"""For the worst number and token of all. Behind int8 single tokens move much: what that does to the picks is judged by
selection parity; these find a graph that is broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputParity:
    """One output's distance from the reference; NaN or infinity anywhere makes the error infinite and the cosine -1.

    min_cosine and cosine_tolerance are None for the attention, which is judged by its error alone.
    """

    name: str
    max_error: float
    error_tolerance: float
    min_cosine: float | None = None
    cosine_tolerance: float | None = None

    @property
    def passed(self) -> bool:
        alike = self.min_cosine is None or self.cosine_tolerance is None or self.min_cosine >= self.cosine_tolerance
        return alike and self.max_error <= self.error_tolerance

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinity: null is an error beyond all numbers."""
        finite = math.isfinite(self.max_error)
        return {
            "max_error": self.max_error if finite else None,
            "error_tolerance": self.error_tolerance,
            "min_cosine": self.min_cosine,
            "cosine_tolerance": self.cosine_tolerance,
            "passed": self.passed,
        }

    def __str__(self) -> str:
        if not math.isfinite(self.max_error):
            return f"{self.name}: FAILED, holds NaN or infinity"
        verdict = "ok" if self.passed else "FAILED"
        text = f"{self.name}: {verdict}, largest error {self.max_error:.1e} (allowed {self.error_tolerance:.0e})"
        if self.min_cosine is not None:
            text += f", smallest cosine {self.min_cosine:.7f} (allowed {self.cosine_tolerance})"
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """How far an answer is from the reference, output by output; `str` has a line for each."""

    frames: int
    outputs: tuple[OutputParity, ...]

    @property
    def passed(self) -> bool:
        return all(output.passed for output in self.outputs)

    def as_dict(self) -> dict[str, Any]:
        outputs = {output.name: output.as_dict() for output in self.outputs}
        return {"passed": self.passed, "frames": self.frames, "outputs": outputs}

    def __str__(self) -> str:
        return "\n".join(str(output) for output in self.outputs)


def compare(
    reference: Mapping[str, npt.NDArray[np.floating]],
    answer: Mapping[str, npt.NDArray[np.floating]],
    tolerances: Tolerances = FLOAT32,
) -> ParityReport:
    """Hold `answer` against `reference`, in float64; outputs that only the answer has are not looked at.

    Both: `patch_features` (N, P, D), `cls_attention` (N, P), `cls_embedding` (N, D) where the reference has it.
    Raises ParityError where an output is absent or has another shape; a difference is for the caller to judge.
    """
    outputs = []
    for name, expected in reference.items():
        if name not in answer:
            raise ParityError(
                f"output {name!r} is missing, the engine answers {sorted(answer)}. Export the model again."
            )
        if answer[name].shape != expected.shape:
            raise ParityError(
                f"output {name!r} has shape {answer[name].shape}, expected {expected.shape}. Export the model again."
            )
        a, b = expected.astype(np.float64), answer[name].astype(np.float64)
        finite = bool(np.isfinite(a).all() and np.isfinite(b).all())
        error = float(np.abs(a - b).max()) if finite else math.inf
        if name == "cls_attention":
            outputs.append(OutputParity(name=name, max_error=error, error_tolerance=tolerances.attention_error))
            continue
        outputs.append(
            OutputParity(
                name=name,
                max_error=error,
                error_tolerance=tolerances.feature_error,
                min_cosine=_min_cosine(a, b) if finite else -1.0,
                cosine_tolerance=tolerances.feature_cosine,
            )
        )
    return ParityReport(frames=len(next(iter(reference.values()))), outputs=tuple(outputs))


def _min_cosine(a: Float64s, b: Float64s) -> float:
    """Smallest cosine of two arrays' rows (last axis); two zero rows are the same, a zero row and another are not."""
    dots = (a * b).sum(-1)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    same = (a == b).all(-1)
    return float(np.where(same, 1.0, dots / np.where(norms > 0, norms, 1.0)).min())


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
