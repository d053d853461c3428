"""What the user can choose, as frozen values. Defaults stand here and nowhere else."""

from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

from geal_edge.errors import UsageError

Metric: TypeAlias = Literal["cosine", "euclidean"]
RatioRule: TypeAlias = Literal["reach", "paper"]
KMeansStart: TypeAlias = Literal["farthest", "random"]
ResizeFilter: TypeAlias = Literal["pil_bicubic", "area"]

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
    """

    attention_ratio: float = 0.5
    ratio_rule: RatioRule = "reach"
    clusters_per_frame: int = 25
    kmeans_metric: Metric = "cosine"
    kmeans_start: KMeansStart = "farthest"
    kmeans_steps: int = 5
    kmeans_seed: int = 0

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
        ):
            if value not in allowed:
                raise UsageError(f"{name} = {value!r}: must be one of {', '.join(allowed)}")

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


PRESETS = {"geal": ClusterConfig()}
"""Named settings. `geal` is the paper's: tau 0.5, K = 25, cosine."""
