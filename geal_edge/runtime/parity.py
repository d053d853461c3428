"""How far an engine's answer is from the float64 one, and how far it may be. No engine is imported: an answer is arrays."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.config import Precision
from geal_edge.errors import ParityError

Float64s: TypeAlias = npt.NDArray[np.float64]
Inside: TypeAlias = Precision | Literal["bf16"]
"""What the numbers inside an engine are: a graph's precision, or what the engine computes it in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerances:
    """What an answer may differ by. The defaults are those of a float32 engine.

    feature_error   largest |difference| of one number in `patch_features` or `cls_embedding`
    feature_cosine  smallest cosine between a token and its reference
    attention_error largest |difference| of one number in `cls_attention`
    cluster_error   largest |difference| of one number in a row of `clusters` (clusterparity.py)
    """

    feature_error: float = 2e-3
    feature_cosine: float = 0.99999
    attention_error: float = 1e-5
    cluster_error: float = 5e-4


FLOAT32 = Tolerances()

TOLERANCES: dict[Inside, Tolerances] = {
    "fp32": FLOAT32,
    "fp16": Tolerances(feature_error=1.0, feature_cosine=0.999, attention_error=2e-3, cluster_error=2e-3),
    "bf16": Tolerances(feature_error=4.0, feature_cosine=0.98, attention_error=1e-2, cluster_error=1e-2),
    "int8": Tolerances(feature_error=10.0, feature_cosine=0.7, attention_error=5e-2, cluster_error=1e-2),
    "int8-dynamic": Tolerances(feature_error=10.0, feature_cosine=0.7, attention_error=5e-2, cluster_error=1e-2),
}
"""For the worst number and token of all, the strictest first. Behind int8 single tokens move much: what that does to the picks
is judged by selection parity; these find a graph that is broken. The worst that torch's bfloat16 made of a trained ViT-T/16 was
1.6, 0.995 and 2e-3."""
RAW_RELATIVE_ERROR = 1e-4


def looser(a: Inside, b: Inside) -> Inside:
    """Of two insides the one that is allowed more: an engine that computes a graph in less answers as the lesser does.

    >>> looser("fp32", "bf16"), looser("int8", "bf16")
    ('bf16', 'int8')
    """
    order = list(TOLERANCES)
    return max(a, b, key=order.index)


def tolerances(inside: Inside, tap: str, expected: Mapping[str, npt.NDArray[np.floating]]) -> Tolerances:
    """Those of what is inside. Raw features have no LayerNorm to bound them, so their error is held against their own size.

    tap       "norm" or "raw": what `patch_features` are
    expected  the float64 answers
    """
    allowed = TOLERANCES[inside]
    if tap == "norm":
        return allowed
    largest = float(np.abs(expected["patch_features"]).max())
    grown = allowed.feature_error / FLOAT32.feature_error
    return replace(allowed, feature_error=max(allowed.feature_error, RAW_RELATIVE_ERROR * grown * largest))


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
