"""Which layers a precision may lower, measured layer by layer, and whether the result still selects well.

Each layer (for fp16: each role, the same layer of all blocks) is lowered alone, and its loss on frames of the user's is how
far it moves what GEAL looks at: the mean of 1-cos over patch tokens, and the mean L1 distance of the CLS attention, squared.
Such losses add up: lowering many layers costs the sum of what they cost alone, within some per cent (docs/performance.md). So
the fewest layers stay float32 that bring the sum under a limit. The table is what `geal-edge export --sensitivity` prints.

A layer norm stays float32 under fp16 where its input is so large that the square is beyond float16: ONNX Runtime's CPU takes
the statistics in float32 whatever the graph says, so no loss would show there what another engine would make of it.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx

from geal_edge.config import ClusterConfig, Precision
from geal_edge.errors import SourceError
from geal_edge.export.answers import answer_each, answers
from geal_edge.export.framerows import Answer, host_rows, judged_parity, own_rows
from geal_edge.export.graph import serialize
from geal_edge.export.layers import role_of
from geal_edge.export.precision import Ranges, has_weights, to_fp16, to_int8, to_int8_dynamic, with_ranges
from geal_edge.runtime.baselines import nearest_squared
from geal_edge.runtime.clusters import Rows
from geal_edge.runtime.kcenter import draw_first, k_center_greedy, offsets_of
from geal_edge.runtime.observer import Observer
from geal_edge.runtime.selection_parity import COVER_TOLERANCE, SelectionParity
from geal_edge.runtime.spread import Frames
from geal_edge.runtime.threads import one_blas_thread

T = TypeVar("T")

CALIBRATION_FRAMES = 256
"""Frames from which ranges are taken: those that our own selection picks from the pool."""
SENSITIVITY_FRAMES = 8
"""Frames on which every layer is measured: the first that are picked, so those least alike."""

MAX_LOSS: dict[Precision, float] = {"fp16": 1e-3, "int8": 4e-3, "int8-dynamic": 4e-3}
"""What the lowered layers may cost together, where the user gives no limit."""
SQUARE_LIMIT = math.sqrt(float(np.finfo(np.float16).max))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLoss:
    """What lowering one layer alone costs.

    tokens     mean over patch tokens of 1-cos to the float32 graph's
    attention  mean over frames of the L1 distance of the CLS attention, 0 to 2
    cover      mean chord from a knowledge cluster of the float32 graph to the nearest one of these frames: told, not judged
    lowered    whether it was lowered in the end
    """

    layer: str
    tokens: float
    attention: float
    cover: float
    lowered: bool = True

    @property
    def loss(self) -> float:
        """The sum that adds up from layer to layer."""
        return self.tokens + self.attention**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """The table: every layer that could be lowered, the most sensitive first."""

    layers: tuple[LayerLoss, ...]
    max_loss: float

    @property
    def stays_fp32(self) -> tuple[str, ...]:
        return tuple(layer.layer for layer in self.layers if not layer.lowered)

    @property
    def loss(self) -> float:
        return sum(layer.loss for layer in self.layers if layer.lowered)

    def __str__(self) -> str:
        width = max(len(layer.layer) for layer in self.layers)
        lines = [f"{'lowered alone':<{width}}   tokens  attention       loss      cover"]
        for layer in self.layers:
            cost = f"{layer.tokens:9.2e}  {layer.attention:9.2e}  {layer.loss:9.2e}  {layer.cover:9.2e}"
            lines.append(f"{layer.layer:<{width}}  {cost}  {'' if layer.lowered else 'stays fp32'}".rstrip())
        lines.append(f"{len(self.stays_fp32)} stay fp32; the others cost {self.loss:.1e} (limit {self.max_loss:.1e})")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """A graph in a lower precision, and what is known of it.

    origin     the calibration source's name
    frames     of it, that were selected from
    """

    model: onnx.ModelProto
    sensitivity: Sensitivity
    selection: SelectionParity
    origin: str
    frames: int

    def as_dict(self) -> dict[str, Any]:
        """What the manifest says beside the tensors' parity."""
        return {
            "selection": self.selection.as_dict(),
            "calibration": {"origin": self.origin, "frames": self.frames},
            "stays_fp32": list(self.sensitivity.stays_fp32),
            "loss": self.sensitivity.loss,
            "max_loss": self.sensitivity.max_loss,
        }

    def advice(self) -> str:
        """What to change where a check failed: the setting, and the layers that it will leave in float32."""
        lowered = [layer for layer in self.sensitivity.layers if layer.lowered]
        if not lowered:
            return "No layer was lowered at all: please report this with the checkpoint's origin and the size."
        worst = ", ".join(layer.layer for layer in lowered[:3])
        return (
            f"Lower --max-loss from {self.sensitivity.max_loss:g} to {self.sensitivity.loss / 2:.1g}, so that more layers stay "
            f"fp32 (next: {worst}); or name a longer --calibrate SOURCE, with {self.frames} frames the measure is coarse."
        )


def lower(
    model: onnx.ModelProto,
    precision: Precision,
    calibrate: Frames,
    *,
    origin: str,
    depth: int,
    batch: int | None,
    recipe: ClusterConfig,
    max_loss: float | None,
    watch: Observer,
) -> Lowered:
    """Lower what may be lowered of a float32 graph, and measure how the result selects.

    calibrate  (n, H, W, 3) uint8 at the input size: frames of the user's (`spread_frames`)
    depth      blocks of the ViT
    recipe     from tokens to knowledge clusters, for both selections: the float32 graph's are grouped by the host, the
               other's by itself where it can
    max_loss   limit of the lowered layers' losses; None = the precision's own

    The judgement is the caller's. Raises SourceError where too few frames could be judged, ParityError where a weight is
    beyond float16, MissingDependency without ONNX Runtime.
    """
    graph = serialize(model)
    watch.begin("selecting calibration frames", len(calibrate))
    exact = _rows(host_rows, graph, calibrate, batch, recipe, watch)
    judged = [i for i, rows in enumerate(exact) if rows is not None]
    if len(judged) < 2:
        raise SourceError(
            f"{origin}: {len(judged)} frames could be judged, two are the least. Name another --calibrate."
        )
    pool = [rows for rows in exact if rows is not None]
    with one_blas_thread():
        first = draw_first(len(pool), 0)
        picks = k_center_greedy(np.concatenate(pool), offsets_of(pool), CALIBRATION_FRAMES, first=first)
    chosen = calibrate[[judged[pick.unit] for pick in picks]]

    layers = layers_of(model, precision, depth)
    ranges = _ranges(model, precision, chosen, batch, watch)
    sensitivity = _sensitivity(
        model, precision, layers, ranges, chosen[:SENSITIVITY_FRAMES], batch, recipe, max_loss, watch
    )
    names = set().union(*(layers[layer.layer] for layer in sensitivity.layers if layer.lowered))
    lowered = lowered_model(model, precision, names, ranges)

    watch.begin("selecting with it", len(calibrate))
    found = _rows(own_rows, serialize(lowered), calibrate, batch, recipe, watch)
    parity = judged_parity(zip(exact, found, strict=True), tolerance=COVER_TOLERANCE[precision])
    return Lowered(model=lowered, sensitivity=sensitivity, selection=parity, origin=origin, frames=parity.frames)


def graph_parity(
    model: onnx.ModelProto, frames: Frames, *, batch: int | None, recipe: ClusterConfig, watch: Observer
) -> SelectionParity:
    """How the clusters that a float32 graph makes select, beside those that the host makes of the same answers."""
    watch.begin("selecting with the graph's clusters", len(frames))
    graph = serialize(model)
    pairs = _rows(
        lambda answer, recipe: (host_rows(answer, recipe), own_rows(answer, recipe)),
        graph,
        frames,
        batch,
        recipe,
        watch,
    )
    return judged_parity(pairs, tolerance=COVER_TOLERANCE["fp32"])


def lowered_model(model: onnx.ModelProto, precision: Precision, names: set[str], ranges: Ranges) -> onnx.ModelProto:
    """The graph with these nodes in the lower precision."""
    if precision == "fp16":
        return to_fp16(model, lambda node: node.name in names)
    if precision == "int8":
        return to_int8(model, lambda node: node.name in names, ranges)
    return to_int8_dynamic(model, lambda node: node.name in names)


def layers_of(model: onnx.ModelProto, precision: Precision, depth: int) -> dict[str, set[str]]:
    """What is lowered together, in forward order: layer -> names of its nodes. Roles for fp16, single matrices for int8."""
    stored = {tensor.name for tensor in model.graph.initializer}
    layers: dict[str, set[str]] = {}
    for node in model.graph.node:
        role = role_of(node, depth)
        if precision == "fp16" and role is not None:
            layers.setdefault(role, set()).add(node.name)
        elif precision != "fp16" and has_weights(node, stored) and (precision == "int8" or node.op_type == "MatMul"):
            layers[node.name.removesuffix(".matmul")] = {node.name}
    return layers


def _sensitivity(
    model: onnx.ModelProto,
    precision: Precision,
    layers: dict[str, set[str]],
    ranges: Ranges,
    frames: Frames,
    batch: int | None,
    recipe: ClusterConfig,
    max_loss: float | None,
    watch: Observer,
) -> Sensitivity:
    expected = answers(serialize(model), frames, batch)
    exact = _pooled(expected, recipe)
    watch.begin("measuring layers", len(layers))
    losses = []
    for layer, names in layers.items():
        if precision == "fp16" and layer == "layer_norm" and max(ranges.values()) > SQUARE_LIMIT:
            losses.append(LayerLoss(layer=layer, tokens=math.inf, attention=math.inf, cover=math.inf))
        else:
            found = answers(serialize(lowered_model(model, precision, names, ranges)), frames, batch)
            losses.append(layer_loss(layer, expected, found, exact, recipe))
        watch.advance()
    limit = MAX_LOSS[precision] if max_loss is None else max_loss
    return Sensitivity(layers=tuple(stay_fp32(losses, limit)), max_loss=limit)


def layer_loss(
    layer: str,
    expected: dict[str, npt.NDArray[Any]],
    found: dict[str, npt.NDArray[Any]],
    exact: Rows,
    recipe: ClusterConfig,
) -> LayerLoss:
    """How far one layer's lowering moves patch tokens, CLS attention and knowledge clusters; infinite where an answer holds NaN
    or infinity.

    exact  the clusters of what is expected
    """
    a, b = (answer["patch_features"].astype(np.float64) for answer in (expected, found))
    cosines = (a * b).sum(-1) / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-300)
    moved = np.abs(expected["cls_attention"].astype(np.float64) - found["cls_attention"]).sum(-1)
    tokens, attention = 1 - float(cosines.mean()), float(moved.mean())
    if not (math.isfinite(tokens) and math.isfinite(attention)):
        return LayerLoss(layer=layer, tokens=math.inf, attention=math.inf, cover=math.inf)
    rows = _pooled(found, recipe)
    with one_blas_thread():
        cover = float(np.sqrt(nearest_squared(exact, rows)).mean()) if len(rows) else math.inf
    return LayerLoss(layer=layer, tokens=max(tokens, 0.0), attention=attention, cover=cover)


def _pooled(stacked: dict[str, npt.NDArray[Any]], recipe: ClusterConfig) -> Rows:
    """The knowledge clusters of all frames of stacked answers; none where no frame could be judged."""
    tokens, attention = stacked["patch_features"], stacked["cls_attention"]
    with one_blas_thread():
        each = [
            host_rows({"patch_features": tokens[i], "cls_attention": attention[i]}, recipe) for i in range(len(tokens))
        ]
    return np.concatenate([np.empty((0, tokens.shape[-1]), np.float16), *(rows for rows in each if rows is not None)])


def stay_fp32(losses: Iterable[LayerLoss], max_loss: float) -> list[LayerLoss]:
    """The layers, the worst first; so many of the first are not lowered that the others cost `max_loss` together at most.

    >>> losses = [LayerLoss(layer=name, tokens=loss, attention=0, cover=0) for name, loss in (("a", 1), ("b", 5), ("c", 2))]
    >>> [(l.layer, l.lowered) for l in stay_fp32(losses, 3.5)]
    [('b', False), ('c', True), ('a', True)]
    """
    ordered = sorted(losses, key=lambda layer: -layer.loss)
    rest = [sum(layer.loss for layer in ordered[i:]) for i in range(len(ordered))]
    return [replace(layer, lowered=left <= max_loss) for layer, left in zip(ordered, rest, strict=True)]


def _ranges(
    model: onnx.ModelProto, precision: Precision, frames: Frames, batch: int | None, watch: Observer
) -> dict[str, float]:
    """Largest magnitudes over the frames: of what goes into matrices for int8, into layer norms for fp16."""
    stored = {tensor.name for tensor in model.graph.initializer}
    if precision == "int8-dynamic":
        return {}
    wanted = [
        node.input[0]
        for node in model.graph.node
        if (has_weights(node, stored) if precision == "int8" else node.op_type == "LayerNormalization")
    ]
    names = list(dict.fromkeys(wanted))
    watch.begin("taking ranges", len(frames))
    largest = dict.fromkeys(names, 0.0)
    for answer in answer_each(serialize(with_ranges(model, names)), frames, batch):
        for name in names:
            largest[name] = max(largest[name], float(answer[f"{name}.largest"]))
        watch.advance()
    return largest


def _rows(
    of: Callable[[Answer, ClusterConfig], T],
    graph: bytes,
    frames: Frames,
    batch: int | None,
    recipe: ClusterConfig,
    watch: Observer,
) -> list[T]:
    """`of` the graph's answer to every frame."""
    found = []
    with one_blas_thread():
        for answer in answer_each(graph, frames, batch):
            found.append(of(answer, recipe))
            watch.advance()
    return found
