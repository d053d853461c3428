"""Are the clusters that a graph makes those that the host makes of the same tokens? Asked of every engine that makes any.

Held against float64 clusters they would say little: where two tokens are equally far to seven digits, the last bit decides
which becomes a start, and both answers are right. So the host groups the engine's own tokens, by its own attention, and the
engine's clusters are judged by what no tie can change: that each is the mean of its patches, that the patches which stayed
are the same but for the one at the edge, and that the tokens lie as near to their clusters as to the host's.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from geal_edge.config import ClusterConfig
from geal_edge.models.bundle import CLUSTER_OUTPUTS
from geal_edge.runtime.clusters import knowledge_clusters
from geal_edge.runtime.distill import Distilled, distill
from geal_edge.runtime.parity import Float64s, OutputParity, ParityReport, Tolerances, compare

SHARE_TOLERANCE = 0.05
"""Of the CLS attention, what may be distilled otherwise than by the host: a patch or two at the edge."""
SPREAD_TOLERANCE = 0.2
"""How much looser the clusters may be: what K-Means makes of two starts that differ at a tie lies within it."""
LEAST_SPREAD = 1e-3
"""Mean 1-cos of tokens to their clusters below which looser is not worse: all tokens are alike."""


def compare_all(
    reference: Mapping[str, npt.NDArray[np.floating]],
    answer: Mapping[str, npt.NDArray[Any]],
    tolerances: Tolerances,
    recipe: ClusterConfig,
) -> ParityReport:
    """`compare`, and of an engine that answers `clusters` how far these are from the host's, by `recipe`.

    As outputs of the report, each the worst of all frames:
    clusters        largest |difference| of one number of a row from the unit mean of its patches
    patch_cluster   share of the CLS attention on patches that the one distills away and the other does not
    cluster_spread  mean 1-cos of tokens to their clusters, over the host's, minus 1; 0 where it is smaller

    All are infinite where an answer holds what no cluster can be, or that nothing can be grouped by.
    """
    report = compare(reference, answer, tolerances)
    if CLUSTER_OUTPUTS[0] not in answer:
        return report
    names = ("patch_features", "cls_attention", *CLUSTER_OUTPUTS)
    frames = zip(*(answer[name] for name in names), strict=True)
    errors = np.array([_errors(*frame, recipe=recipe) for frame in frames]).max(axis=0)
    allowed = (tolerances.cluster_error, SHARE_TOLERANCE, SPREAD_TOLERANCE)
    judged = (
        OutputParity(name=name, max_error=float(error), error_tolerance=limit)
        for name, error, limit in zip(("clusters", "patch_cluster", "cluster_spread"), errors, allowed, strict=True)
    )
    return replace(report, outputs=(*report.outputs, *judged))


def _errors(
    features: npt.NDArray[np.float32],
    attention: npt.NDArray[np.float32],
    rows: npt.NDArray[np.float32],
    count: npt.NDArray[np.int32],
    patch_cluster: npt.NDArray[np.int32],
    *,
    recipe: ClusterConfig,
) -> tuple[float, float, float]:
    """One frame's: features (P, D), attention (P,), rows (K, D), count (), patch_cluster (P,)."""
    with np.errstate(over="ignore"):
        tokens = features.astype(np.float16).astype(np.float64)  # as the encoder rounds, and the graph
    named = np.unique(patch_cluster[patch_cluster != -1]).tolist()
    whole = 1 <= int(count) <= len(rows) and named == list(range(int(count)))
    rows = rows[: int(count)]
    finite = all(np.isfinite(values).all() for values in (tokens, attention, rows))
    if not (whole and finite and tokens.any(axis=1).all() and attention.min() >= 0 and attention.any()):
        return math.inf, math.inf, math.inf
    ratio, rule = recipe.attention_ratio, recipe.ratio_rule
    weight = attention.astype(np.float64)
    distilled = distill(tokens, weight, attention_ratio=ratio, ratio_rule=rule)
    patches = np.flatnonzero(patch_cluster >= 0)
    otherwise = np.setxor1d(patches, distilled.patches)
    # The patches that stayed here, grouped by the host: a patch more is no worse grouping.
    own = Distilled(tokens=tokens[patches], attention=weight[patches], patches=patches, patch_count=len(tokens))
    host = knowledge_clusters(own, recipe)
    means = _unit(np.stack([tokens[patch_cluster == i].mean(axis=0) for i in range(len(rows))]))
    spread, hosts = (
        _spread(tokens, each, labels) for each, labels in ((rows, patch_cluster), (host.rows, host.patch_cluster))
    )
    return (
        float(np.abs(rows - means).max()),
        float(weight[otherwise].sum() / weight.sum()),
        max(0.0, spread - hosts) / max(hosts, LEAST_SPREAD),
    )


def _spread(tokens: Float64s, rows: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> float:
    """Mean 1-cos of the tokens that stayed to their clusters."""
    present = labels >= 0
    return float(1.0 - (_unit(tokens[present]) * _unit(rows.astype(np.float64))[labels[present]]).sum(axis=1).mean())


def _unit(vectors: Float64s) -> Float64s:
    unit: Float64s = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return unit
