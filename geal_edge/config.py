"""What the user can choose, as frozen values. Defaults stand here and nowhere else."""

import math
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias, get_args

from geal_edge.errors import UsageError

Metric: TypeAlias = Literal["cosine", "euclidean"]
RatioRule: TypeAlias = Literal["reach", "paper"]
KMeansStart: TypeAlias = Literal["farthest", "random"]
Downsampling: TypeAlias = Literal["clusters", "A1", "A2", "A3", "A4"]
ResizeFilter: TypeAlias = Literal["pil_bicubic", "area"]
Preset: TypeAlias = Literal["geal", "freesel", "pet"]
Strategy: TypeAlias = Literal[
    "geal", "random", "uniform", "every-nth", "coreset-cosine", "coreset-euclidean", "facility-location", "density"
]
Sampling: TypeAlias = Literal["farthest", "probability"]
Reduction: TypeAlias = Literal["max", "mean"]
GuardKind: TypeAlias = Literal["pixels", "all"]
Precision: TypeAlias = Literal["fp32", "fp16", "int8", "int8-dynamic"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

SIZES = {"voc": (224, 224), "cityscapes": (448, 224), "kitti": (640, 192)}
"""Input sizes of the paper by name, (width, height) in pixels."""

RESIZE_FILTERS: tuple[ResizeFilter, ...] = ("pil_bicubic", "area")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """How a frame's tokens become knowledge clusters: the part of the feature space that is not the model.

    attention_ratio     tau in (0, 1]: share of the CLS attention that the tokens kept must carry
    ratio_rule          "reach" keeps the token that crosses the ratio (the authors' code), "paper" drops it (Eq. 2)
    clusters_per_frame  K >= 1
    kmeans_metric       "cosine" or "euclidean"
    kmeans_start        "farthest" (deterministic), or "random" (the authors' way; `kmeans_seed` decides)
    kmeans_steps        Lloyd steps at most
    downsampling        "clusters", or one of the paper's alternatives to them (appendix B; runtime/downsampling.py)
    """

    attention_ratio: float = 0.5
    ratio_rule: RatioRule = "reach"
    clusters_per_frame: int = 25
    kmeans_metric: Metric = "cosine"
    kmeans_start: KMeansStart = "farthest"
    kmeans_steps: int = 5
    kmeans_seed: int = 0
    downsampling: Downsampling = "clusters"

    def __post_init__(self) -> None:
        if not 0.0 < self.attention_ratio <= 1.0:
            raise UsageError(f"attention_ratio = {self.attention_ratio}: must be above 0 and at most 1")
        if self.clusters_per_frame < 1:
            raise UsageError(f"clusters_per_frame = {self.clusters_per_frame}: must be at least 1")
        if self.kmeans_steps < 1:
            raise UsageError(f"kmeans_steps = {self.kmeans_steps}: must be at least 1")
        for name, value, allowed in (
            ("ratio_rule", self.ratio_rule, ("reach", "paper")),
            ("kmeans_metric", self.kmeans_metric, ("cosine", "euclidean")),
            ("kmeans_start", self.kmeans_start, ("farthest", "random")),
            ("downsampling", self.downsampling, get_args(Downsampling)),
        ):
            if value not in allowed:
                raise UsageError(f"{name} = {value!r}: must be one of {', '.join(allowed)}")

        if self.downsampling == "A1" and math.isqrt(self.clusters_per_frame) ** 2 != self.clusters_per_frame:
            raise UsageError(
                f"clusters_per_frame = {self.clusters_per_frame}: downsampling A1 makes a square map, so it must be a square "
                "number, as 25"
            )

    def as_dict(self) -> dict[str, object]:
        """All fields; `downsampling` only where it is not the default, so that older recipes stay the same space."""
        fields = asdict(self)
        if self.downsampling == "clusters":
            del fields["downsampling"]
        return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionConfig:
    """How a pool's frames are ordered: what `select` can choose beside the clusters.

    strategy   "geal" is the method; the others are what it is measured against (runtime/baselines.py)
    metric     of the selection: "cosine" over unit rows, exact on every machine; "euclidean" over raw fp32 rows, which is not
    sampling   "farthest" (GEAL), or "probability" by squared distance (FreeSel)
    reduction  a frame's novelty is the "max" (Eq. 4) or the "mean" (Eq. 5) over its clusters; for "farthest" alone
    """

    strategy: Strategy = "geal"
    metric: Metric = "cosine"
    sampling: Sampling = "farthest"
    reduction: Reduction = "max"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("strategy", self.strategy, get_args(Strategy)),
            ("metric", self.metric, get_args(Metric)),
            ("sampling", self.sampling, get_args(Sampling)),
            ("reduction", self.reduction, get_args(Reduction)),
        ):
            if value not in allowed:
                raise UsageError(f"{name} = {value!r}: must be one of {', '.join(allowed)}")
        if self.sampling == "probability" and self.reduction == "mean":
            raise UsageError(
                "reduction = 'mean': goes with sampling = 'farthest' (the paper's Eq. 5); a draw is over single clusters"
            )
        knobs = (self.metric, self.sampling, self.reduction)
        if self.strategy != "geal" and knobs != ("cosine", "farthest", "max"):
            raise UsageError(
                f"strategy = {self.strategy!r}: takes no metric, sampling or reduction; those belong to 'geal'"
            )


PRESETS: dict[str, ClusterConfig] = {
    "geal": ClusterConfig(),
    "freesel": ClusterConfig(clusters_per_frame=5, kmeans_metric="euclidean"),
    "pet": ClusterConfig(clusters_per_frame=1),
}
"""Named recipes of clusters.

geal     the GEAL paper's (C.2 to C.4): tau 0.5, K = 25, cosine
freesel  FreeSel's later defaults: tau 0.5, K = 5, K-Means euclidean; the start stays the deterministic one
pet      the paper's for image classification, on Oxford-IIIT Pet (C.5): tau 0.5, K = 1, so that a frame is the plain mean of
         its distilled tokens (the authors' CIFAR code normalises the tokens first; the paper does not say so)
"""

SELECTIONS: dict[str, SelectionConfig] = {
    "geal": SelectionConfig(),
    "freesel": SelectionConfig(sampling="probability"),
    "pet": SelectionConfig(),
}
"""How each preset selects: distances are cosine in all of them."""
