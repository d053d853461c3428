"""A frame's knowledge clusters by a graph that is still in memory: grouped by the host, or by the graph itself."""

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.config import ClusterConfig
from geal_edge.errors import FrameError, ParityError
from geal_edge.models.bundle import CLUSTER_OUTPUTS
from geal_edge.runtime.clusters import Rows, knowledge_clusters
from geal_edge.runtime.distill import distill
from geal_edge.runtime.encoder import graph_clusters
from geal_edge.runtime.selection_parity import SelectionParity, selection_parity

Answer: TypeAlias = dict[str, npt.NDArray[Any]]
"""To one frame, without the batch's dimension."""


def host_rows(answer: Answer, recipe: ClusterConfig) -> Rows | None:
    """As the encoder and `select` make them of the tokens; None where nothing could be judged. Raises ParityError for NaN."""
    _require_finite(answer)
    tokens = answer["patch_features"].astype(np.float16)  # as the encoder rounds
    distilled = distill(
        tokens, answer["cls_attention"], attention_ratio=recipe.attention_ratio, ratio_rule=recipe.ratio_rule
    )
    try:
        return knowledge_clusters(distilled, recipe).rows
    except FrameError:
        return None


def own_rows(answer: Answer, recipe: ClusterConfig) -> Rows | None:
    """The graph's own where it groups, else the host's."""
    if CLUSTER_OUTPUTS[0] not in answer:
        return host_rows(answer, recipe)
    _require_finite(answer)
    clusters = graph_clusters(answer)
    return host_rows(answer, recipe) if clusters is None else clusters.rows


def judged_parity(pairs: Iterable[tuple[Rows | None, Rows | None]], *, tolerance: float) -> SelectionParity:
    """Selection parity over the frames of which both sides, (exact, found), could judge something."""
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    return selection_parity([a for a, _ in both], [b for _, b in both], tolerance=tolerance)


def _require_finite(answer: Answer) -> None:
    if not all(np.isfinite(values).all() for values in answer.values()):
        raise ParityError(
            "the lowered graph answers NaN or infinity on a calibration frame, so no bundle was written. "
            "Lower --max-loss, so that more layers stay fp32."
        )
