"""What selection remembers of a frame: its clusters, in the form that will be measured, and never its image."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from geal_edge.config import ClusterConfig
from geal_edge.runtime.clusters import IntArray, KnowledgeClusters, Rows, unit_rows
from geal_edge.runtime.downsampling import downsample
from geal_edge.runtime.encoder import Encoded
from geal_edge.runtime.features import FrameRecord
from geal_edge.runtime.kcenter import RawRows
from geal_edge.runtime.persistence import BoolArray, only
from geal_edge.runtime.pipeline import clusters_in
from geal_edge.runtime.product import product


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFrame:
    """One frame of a pool.

    digest     sha256 (hex) of the source's own file bytes; None where the source has no bytes per frame (video)
    raw        fp32 (C, D), the clusters' centres before they were made unit rows; None unless Euclid is to measure them
    embedding  fp32 (D,), the CLS embedding; None unless a baseline asks for it
    """

    id: str
    source: str
    frame_index: int
    capture_time_ns: int | None
    digest: str | None
    clusters: KnowledgeClusters
    raw: RawRows | None = None
    embedding: npt.NDArray[np.float32] | None = None

    @property
    def rows(self) -> Rows | RawRows:
        """What the selection measures."""
        return self.clusters.rows if self.raw is None else self.raw


def pool_frame(
    record: FrameRecord,
    encoded: Encoded,
    recipe: ClusterConfig,
    *,
    grid: tuple[int, int],
    raw: bool = False,
    embedding: bool = False,
) -> PoolFrame:
    """Group one frame's features by a recipe. Raises FrameError (`degenerate`) where nothing in it could be judged.

    grid  (rows, columns) of its patches
    """
    clusters, centres = _grouped(record, encoded, recipe, grid)
    return PoolFrame(
        id=record.id,
        source=record.source,
        frame_index=record.frame_index,
        capture_time_ns=record.capture_time_ns,
        digest=record.digest,
        clusters=clusters,
        raw=centres() if raw else None,
        # A copy: stored features come as views of a file, which would stay mapped with every frame.
        embedding=np.array(encoded.cls_embedding) if embedding and encoded.cls_embedding is not None else None,
    )


def only_clusters(frame: PoolFrame, counts: BoolArray) -> PoolFrame:
    """The frame with those of its clusters (C,) that count, at least one."""
    raw = None if frame.raw is None else frame.raw[counts]
    return replace(frame, clusters=only(frame.clusters, counts), raw=raw)


def _grouped(
    record: FrameRecord, encoded: Encoded, recipe: ClusterConfig, grid: tuple[int, int]
) -> tuple[KnowledgeClusters, Callable[[], RawRows]]:
    """A frame's clusters, and what gives their centres before they were made unit rows."""
    if recipe.downsampling != "clusters":
        vectors, patch_cluster = downsample(
            encoded.patch_features, encoded.cls_attention, recipe, grid=grid, frame_id=record.id
        )
        clusters = KnowledgeClusters(rows=unit_rows(vectors), patch_cluster=patch_cluster)
        return clusters, lambda: vectors.astype(np.float32)
    clusters = clusters_in(encoded, recipe)
    return clusters, lambda: _centres(encoded.patch_features, clusters.patch_cluster)


def _centres(tokens: npt.NDArray[np.float16], patch_cluster: npt.NDArray[np.int16]) -> RawRows:
    present = patch_cluster >= 0
    return raw_rows(tokens[present], patch_cluster[present].astype(np.intp))


def raw_rows(tokens: npt.NDArray[np.floating], labels: IntArray) -> RawRows:
    """The centres of clusters that K-Means has found: plain means of their tokens, in fp32.

    tokens (M, D), labels (M,) from 0 without a gap -> (C, D)

    >>> raw_rows(np.array([[2.0, 0.0], [4.0, 0.0], [0.0, 3.0]]), np.array([0, 0, 1])).tolist()
    [[3.0, 0.0], [0.0, 3.0]]
    """
    member = labels == np.arange(labels.max() + 1)[:, None]
    means: RawRows = (product(member, tokens.astype(np.float64)) / member.sum(axis=1, keepdims=True)).astype(np.float32)
    return means
