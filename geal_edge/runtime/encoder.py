"""A frame becomes patch tokens and CLS attention, and clusters where the graph groups: the answer is believed only if sane."""

from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from geal_edge.config import ClusterConfig
from geal_edge.errors import BackendError
from geal_edge.models.bundle import CLUSTER_OUTPUTS, Bundle, output_dtype
from geal_edge.models.preprocess import resize
from geal_edge.runtime.backends import Arrays, Backend, TensorSpec
from geal_edge.runtime.clusters import KnowledgeClusters, unit_rows
from geal_edge.runtime.frame import Image

UNIT_TOLERANCE = 0.05
"""How far a cluster's length may be from 1 as an engine answers it; bfloat16 makes a few thousandths of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What the model says of one frame.

    patch_features  fp16 (P, D), row-major patches: rounded as stored features are, so that both give the same clusters
    cls_attention   fp32 (P,), >= 0, sums to 1
    cls_embedding   fp32 (D,), what the model says of the whole frame; None where the bundle was exported without it
    clusters        the graph's own, by `recipe`; None where the host is to group: the graph ends at the tokens, or found
                    something without direction
    """

    patch_features: npt.NDArray[np.float16]
    cls_attention: npt.NDArray[np.float32]
    cls_embedding: npt.NDArray[np.float32] | None = None
    clusters: KnowledgeClusters | None = None
    recipe: ClusterConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChange:
    """An engine failed. As the event `engine_changed`, or `engine_stopped` where none follows.

    now        the engine that answers from this frame on; None: none does
    reason     what the failed one did
    unchecked  frames that it answered since it was last held against the reference
    """

    was: str
    now: str | None
    reason: str
    unchecked: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Encoder:
    """A bundle on a backend. Use it as a context manager.

    Raises BundleError or BackendError on entering where the graph is not what the manifest promises.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle = bundle
        self.backend = backend

    def __enter__(self) -> "Encoder":
        self.backend.__enter__()
        try:
            self._require_promised(self.backend.inputs, self._promised_inputs())
            self._require_promised(self.backend.outputs, self._promised_outputs())
        except BaseException:
            self.backend.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.backend.__exit__(kind, error, trace)

    def __call__(self, image: Image) -> Encoded:
        """Encode one frame, uint8 (H, W, 3) RGB of any size. Raises BackendError for an answer that cannot be meant."""
        manifest = self.bundle.manifest
        answer = self.answer(resize(image, manifest.width, manifest.height, manifest.resize))
        return Encoded(
            patch_features=_features(answer),
            cls_attention=_attention(answer),
            cls_embedding=_embedding(answer),
            clusters=graph_clusters(answer) if manifest.clusters_in_graph else None,
            recipe=manifest.clusters if manifest.clusters_in_graph else None,
        )

    def answer(self, image: Image) -> Arrays:
        """All that the engine says of one frame, which has the input size already: not looked at, and valid until the next."""
        batch = self.bundle.manifest.batch
        frames = image[None] if batch in (None, 1) else np.repeat(image[None], batch, axis=0)
        return {name: values[0] for name, values in self.backend.run({"image": frames}).items()}

    def take_changes(self) -> list[EngineChange]:
        """None, ever: one engine alone is not replaced (watched.py)."""
        return []

    def _promised_inputs(self) -> dict[str, TensorSpec]:
        m = self.bundle.manifest
        shape = (m.batch or "N", m.height, m.width, 3)
        return {"image": TensorSpec(dtype=np.dtype(np.uint8), shape=shape)}

    def _promised_outputs(self) -> dict[str, TensorSpec]:
        batch: Any = self.bundle.manifest.batch or "N"
        return {
            name: TensorSpec(dtype=output_dtype(name), shape=(batch, *shape[1:]))
            for name, shape in self.bundle.manifest.outputs.items()
        }

    def _require_promised(self, found: Any, promised: dict[str, TensorSpec]) -> None:
        if dict(found) != promised:
            raise BackendError(
                f"{self.bundle.graph}: the graph has {_words(found)}, the manifest promises {_words(promised)}. "
                "Export the bundle again."
            )


def _features(answer: Arrays) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):  # too large for fp16 becomes inf, and is refused in the next line
        features: npt.NDArray[np.float16] = answer["patch_features"].astype(np.float16)
    if not np.isfinite(features).all():
        raise BackendError("patch_features holds NaN, infinity or numbers beyond fp16: this engine cannot be trusted.")
    return features


def _attention(answer: Arrays) -> npt.NDArray[np.float32]:
    attention: npt.NDArray[np.float32] = answer["cls_attention"].copy()
    total = float(attention.sum(dtype=np.float64))
    if not (abs(total - 1.0) < 1e-2 and attention.min() >= 0.0):
        raise BackendError(f"cls_attention sums to {total:g} instead of 1: this engine cannot be trusted.")
    return attention


def _embedding(answer: Arrays) -> npt.NDArray[np.float32] | None:
    if "cls_embedding" not in answer:
        return None
    embedding: npt.NDArray[np.float32] = answer["cls_embedding"].copy()
    if not np.isfinite(embedding).all():
        raise BackendError("cls_embedding holds NaN or infinity: this engine cannot be trusted.")
    return embedding


def graph_clusters(answer: Arrays) -> KnowledgeClusters | None:
    """What a graph with clusters answers to one frame: clusters (K, D), cluster_count (), patch_cluster (P,).

    None where a token or a cluster has length zero, and so no direction: the host, which groups then, says it of the frame.
    Rows are made unit length once more, in float64, and rounded as the host's are. Raises BackendError for what no cluster
    can be.

    >>> answer = {"patch_features": np.eye(3), "clusters": np.array([[0.6, 0.8, 0.0], [9.0, 9.0, 9.0]])}
    >>> grouped = graph_clusters({**answer, "cluster_count": np.array(1), "patch_cluster": np.array([0, 0, -1])})
    >>> grouped.rows.shape, grouped.patches_of(0)
    ((1, 3), [0, 1])
    """
    rows, count, patch_cluster = (answer[name] for name in CLUSTER_OUTPUTS)
    named = np.unique(patch_cluster[patch_cluster != -1]).tolist()
    if not 1 <= int(count) <= len(rows) or named != list(range(int(count))):
        raise BackendError(f"patch_cluster does not name {count} clusters in turn: this engine cannot be trusted.")
    rows = rows[: int(count)].astype(np.float64)
    if not (rows.any(axis=1).all() and answer["patch_features"][patch_cluster >= 0].any(axis=1).all()):
        return None
    if not (abs(np.linalg.norm(rows, axis=1) - 1.0) < UNIT_TOLERANCE).all():
        raise BackendError(
            "clusters holds NaN, infinity or rows that are not of length 1: this engine cannot be trusted."
        )
    return KnowledgeClusters(rows=unit_rows(rows), patch_cluster=patch_cluster.astype(np.int16))


def _words(specs: Any) -> str:
    return ", ".join(f"{name} {spec}" for name, spec in specs.items())
