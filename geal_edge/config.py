"""What the user can choose, as frozen values. Defaults stand here and nowhere else."""

import ipaddress
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
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
PrivacyMoment: TypeAlias = Literal["append", "upload"]
Position: TypeAlias = Literal["keep", "coarsen", "strip"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """Which frames the encoder is not asked about, beside broken ones (`GuardKind`).

    min_interval_s  seconds of capture time between two frames of a camera that are looked at; 0: no such gate
    standing_still  hold back what shows the same view as the last frame that was looked at
    only_if         conditions on a frame's metadata (runtime/conditions.py): all must hold
    inhibit         the same: none may hold
    """

    min_interval_s: float = 0.0
    standing_still: bool = False
    only_if: tuple[str, ...] = ()
    inhibit: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_number("min_interval_s", self.min_interval_s, "a number of seconds, 0 or more", at_least=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextConfig:
    """What goes with a selected unit of a live source: frames before and after it that nobody judged. Off by default.

    before_s, after_s  seconds of capture time
    rate_hz            frames of each camera per second in between
    """

    before_s: float = 0.0
    after_s: float = 0.0
    rate_hz: float = 2.0

    def __post_init__(self) -> None:
        for name in ("before_s", "after_s"):
            require_number(name, getattr(self, name), "a number of seconds from 0 to 60", at_least=0.0, at_most=60.0)
        require_number("rate_hz", self.rate_hz, "a number above 0 and at most 60", above=0.0, at_most=60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitConfig:
    """What `run` may take from the machine that others use as well. None: no limit.

    cpu_percent        of one core, over time, as 150: a core and a half
    threads            of the encoder
    nice               0 to 19; higher steps back further
    max_rss_bytes      memory in use
    max_temperature_c  of the hottest zone that the system tells of
    """

    cpu_percent: float | None = None
    threads: int | None = None
    nice: int | None = None
    max_rss_bytes: int | None = None
    max_temperature_c: float | None = None

    def __post_init__(self) -> None:
        for name, words, bounds in (
            ("cpu_percent", "percent of one core, above 0", {"above": 0.0}),
            ("threads", "a number of threads, 1 or more", {"at_least": 1}),
            ("nice", "a whole number from 0 to 19", {"at_least": 0, "at_most": 19}),
            ("max_rss_bytes", "a number of bytes, 100 MB or more", {"at_least": 100_000_000}),
            ("max_temperature_c", "degrees Celsius from 30 to 120", {"at_least": 30.0, "at_most": 120.0}),
        ):
            if getattr(self, name) is not None:
                require_number(name, getattr(self, name), words, **bounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskConfig:
    """What a spool may take of its disk, and for how long. None: no limit.

    max_bytes       of all files under the spool: the quota, which is not the budget
    min_free_bytes  that its file system keeps for others
    max_age_days    after so many days frames that were not sent are deleted, selected or not
    """

    max_bytes: int | None = None
    min_free_bytes: int = 200_000_000
    max_age_days: float | None = None

    def __post_init__(self) -> None:
        if self.max_bytes is not None:
            require_number("max_bytes", self.max_bytes, "a number of bytes, 1 MB or more", at_least=1_000_000)
        require_number("min_free_bytes", self.min_free_bytes, "a number of bytes, 0 or more", at_least=0)
        if self.max_age_days is not None:
            require_number("max_age_days", self.max_age_days, "a number of days above 0", above=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleConfig:
    """Who this vehicle is, in all that it sends and tells.

    id  ASCII letters, digits and `._-`; without it the name of this machine
    """

    id: str | None = None

    def __post_init__(self) -> None:
        _require_name("id", self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadConfig:
    """Where released frames are sent, and when (docs/upload.md).

    to               URL of the far side, or a folder
    prefix           what every key begins with; may be empty
    vehicle          who sends, as of VehicleConfig.id; None: as the spool says
    windows          times of the day at which something may be sent, as "22:00-06:00" of the local clock; none: always
    metered          whether a link costs by the byte: "auto" (NetworkManager's flag where it is there), "yes", "no", or a
                     command with its arguments that ends with 0 where it does
    max_bytes_per_s  on average; None: no limit
    inside           `run --config` starts the uploader itself, as a process of its own: where no service manager does
    """

    to: str = field(metadata={"example": "s3://bucket/fleet"})
    prefix: str = ""
    vehicle: str | None = None
    windows: tuple[str, ...] = ()
    metered: str | tuple[str, ...] = "auto"
    max_bytes_per_s: int | None = None
    inside: bool = False

    def __post_init__(self) -> None:
        _require_name("vehicle", self.vehicle)
        if self.prefix and not all(_NAME.fullmatch(part) for part in self.prefix.split("/")):
            raise UsageError(f"prefix = {self.prefix!r}: must be names of letters, digits and ._- with / between them")
        for window in self.windows:
            if not _WINDOW.fullmatch(window):
                raise UsageError(f"windows = {window!r}: must be two times of the day, as 22:00-06:00")
        if isinstance(self.metered, str) and self.metered not in ("auto", "yes", "no"):
            raise UsageError(f"metered = {self.metered!r}: must be auto, yes, no, or a command as a list of words")
        if self.metered == ():
            raise UsageError("metered = []: a command has one word at least")
        if self.max_bytes_per_s is not None:
            require_number("max_bytes_per_s", self.max_bytes_per_s, "a number of bytes, 1000 or more", at_least=1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyConfig:
    """What happens to pictures before they are stored, or before they leave the vehicle (docs/privacy.md).

    command    program with its arguments: gets the bytes of an image file on stdin, and writes those of one of the same format
               and size on stdout, as one that blurs faces does
    python     instead of it, a function as package.module:function: gets uint8 [H, W, 3] RGB, and returns the same shape and type
    timeout_s  seconds for one picture; of a hook that takes longer the picture is not taken
    when       append: before anything is stored; upload: before anything leaves, and the spool has the originals until then
    position   where a picture was taken, in EXIF and in metadata: keep, coarsen (to 0.01 degrees), or strip
    """

    command: tuple[str, ...] | None = None
    python: str | None = None
    timeout_s: float = 10.0
    when: PrivacyMoment = "append"
    position: Position = "keep"

    def __post_init__(self) -> None:
        if self.command is not None and not (self.command and all(self.command)):
            raise UsageError("command = []: must be a program with its arguments, each a text that is not empty")
        if self.python is not None and not _FUNCTION.fullmatch(self.python):
            raise UsageError(f"python = {self.python}: must name a function, as package.module:function")
        if self.command is not None and self.python is not None:
            raise UsageError("has a command and a python function: one hook is taken, so leave one of them out")
        require_number(
            "timeout_s", self.timeout_s, "a number of seconds above 0, at most 600", above=0.0, at_most=600.0
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """What Prometheus can see of the service (docs/metrics.md). Nothing, unless it is asked for.

    listen    address and port of its endpoint, as "127.0.0.1:9464"; a port alone is one of this machine alone
    textfile  a file for node_exporter's textfile collector, as /var/lib/node_exporter/geal-edge.prom
    every_s   seconds from one such file to the next
    """

    listen: str | int | None = None
    textfile: Path | None = None
    every_s: float = 15.0

    def __post_init__(self) -> None:
        require_number("every_s", self.every_s, "a number of seconds from 1 to 3600", at_least=1.0, at_most=3600.0)
        if self.listen is not None:
            self.address()
        if self.textfile is not None and self.textfile.suffix != ".prom":
            raise UsageError(f"textfile = {self.textfile}: must end in .prom, or the collector does not read it")

    def address(self) -> tuple[str, int]:
        """(IP address, port) of `listen`. Raises UsageError.

        >>> MetricsConfig(listen=9464).address(), MetricsConfig(listen="[::1]:9464").address()
        (('127.0.0.1', 9464), ('::1', 9464))
        """
        host, colon, port = str(self.listen).rpartition(":")
        if not colon:
            host = "127.0.0.1"
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        try:
            ipaddress.ip_address(host)
            number = int(port) if port.isascii() and port.isdecimal() else 0
            if not 1 <= number <= 65535:
                raise ValueError
        except ValueError:
            words = "must be a port from 1 to 65535, or an IP address of this machine and a port, as 127.0.0.1:9464"
            raise UsageError(f"listen = {self.listen}: {words}") from None
        return host, number


_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_WINDOW = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")


def _require_name(name: str, value: str | None) -> None:
    """Raise UsageError for what cannot be a part of a key."""
    if value is not None and not _NAME.fullmatch(value):
        raise UsageError(f"{name} = {value!r}: must be ASCII letters, digits and ._- alone, as in car-17")


def require_number(
    name: str,
    value: float,
    words: str,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
) -> None:
    """Raise UsageError for a value that is not `words`."""
    if not (at_least <= value <= at_most and value > above and math.isfinite(value)):
        raise UsageError(f"{name} = {value}: must be {words}")


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
