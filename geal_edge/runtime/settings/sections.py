"""What a configuration may say: its sections, and the frozen dataclass behind each of their keys.

    geal-edge.toml  [gates] min_interval_s = 1.0   ->   Settings.gates.min_interval_s

A dataclass is all that the reader, the JSON schema and the reference page of docs/service.md know of a section: fields with
their types, defaults and the lines of its docstring, and what its `__post_init__` refuses. To add one: a field of `Settings`,
its line in `SECTIONS`, and whoever it is for gets it in service.py.
"""

import inspect
import re
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from geal_edge.config import (
    ContextConfig,
    DiskConfig,
    GateConfig,
    GuardKind,
    LimitConfig,
    MetricsConfig,
    PrivacyConfig,
    UploadConfig,
    VehicleConfig,
    require_number,
)
from geal_edge.errors import UsageError
from geal_edge.runtime.backends.choice import BackendOrAuto
from geal_edge.runtime.budget import MAX_UNITS, TRIP_GAP_S, BudgetPlan, Cap, Period, live_plan
from geal_edge.runtime.imagefile import Encoding
from geal_edge.runtime.live.opened import require_meant
from geal_edge.runtime.live.source import RATE_HZ
from geal_edge.runtime.memory import MAX_FRAMES
from geal_edge.runtime.release import ReleaseRule
from geal_edge.runtime.sources import require_plain_name
from geal_edge.runtime.sources.rate import MAX_FPS
from geal_edge.runtime.spool import FLUSH_S
from geal_edge.runtime.units import MAX_GROUP_S
from geal_edge.runtime.watched import OnFailure

NO_CAP = "budget: must have a cap at least, as frames_per_day = 50"
_QUOTA = ("max_bytes", "min_free_bytes")
_UPLOAD = tuple(each.name for each in fields(UploadConfig) if each.name != "vehicle")  # which is the section [vehicle]
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """The cameras, which are one live source (docs/live.md).

    uris     one for each camera: watch:FOLDER, v4l2:/dev/video0, gst:PIPELINE, rtsp://HOST/PATH, unix:SOCKET, shm:/NAME,
             ros2:/TOPIC
    rate_hz  frames of each camera that are looked at, per second
    group_s  frames of several cameras whose capture times differ by at most so many seconds are one unit
    name     of the source, in ids and lists
    """

    uris: tuple[str, ...] = field(metadata={"example": ("watch:/data/incoming",)})
    rate_hz: float = RATE_HZ
    group_s: float | None = None
    name: str = "live"

    def __post_init__(self) -> None:
        if not self.uris:
            raise UsageError("uris = []: must name a camera at least")
        try:
            require_meant(self.uris)
        except UsageError as error:
            raise UsageError(f"uris = {error}") from error
        require_number("rate_hz", self.rate_hz, "a number of frames per second above 0", above=0.0, at_most=MAX_FPS)
        if self.group_s is not None:
            require_number(
                "group_s", self.group_s, "a number of seconds from 0 to 3600", at_least=0.0, at_most=MAX_GROUP_S
            )
        try:
            require_plain_name(self.name)
        except UsageError as error:
            raise UsageError(f"name = {self.name}: must be a name without slashes") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleConfig:
    """The model, and the engine that it runs on.

    path               bundle folder, made by `geal-edge export`
    digest             the bundle must have this one, as `geal-edge inspect` tells it
    backend            engine; auto: the fastest that `geal-edge verify` has found right on this machine
    unverified         run an engine that was not found right here
    on_engine_failure  cpu: the next verified engine takes over; pause: end. Without it: pause on a Jetson, else cpu
    allow_untrained    run untrained weights, which show the machinery and choose nothing
    """

    path: Path = field(metadata={"example": Path("/opt/geal-edge/bundle")})
    digest: str | None = None
    backend: BackendOrAuto = "ort-cpu"
    unverified: bool = False
    on_engine_failure: OnFailure | None = None
    allow_untrained: bool = False

    def __post_init__(self) -> None:
        if self.digest is not None and _DIGEST.fullmatch(self.digest) is None:
            raise UsageError(f"digest = {self.digest}: must be sha256: and 64 hexadecimal digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetConfig:
    """What may be released: hard caps together, at least one (docs/live.md).

    frames_per_hour, frames_per_day, frames_per_trip  released in such a time at most; with source.group_s units, not frames
    bytes_per_hour, bytes_per_day, bytes_per_trip     of the files of what is released in such a time, at most
    release  when a selected frame becomes final. Without it: paced; round_end where the longest cap on frames is of a trip
    """

    frames_per_hour: int | None = None
    frames_per_day: int | None = None
    frames_per_trip: int | None = None
    bytes_per_hour: int | None = None
    bytes_per_day: int | None = None
    bytes_per_trip: int | None = None
    release: ReleaseRule | None = None

    def __post_init__(self) -> None:
        for cap in self.caps():
            name = cap_key(cap)
            if cap.counts == "units":
                words = f"a whole number of frames from 1 to {MAX_UNITS}"
                require_number(name, cap.limit, words, at_least=1, at_most=MAX_UNITS)
            else:
                require_number(name, cap.limit, "a whole number of bytes, 1 or more", at_least=1)

    def caps(self) -> list[Cap]:
        """In a fixed order, since a spool is filled with them for ever."""
        limits: tuple[tuple[Literal["units", "bytes"], Period, int | None], ...] = (
            ("units", "day", self.frames_per_day),
            ("units", "hour", self.frames_per_hour),
            ("units", "trip", self.frames_per_trip),
            ("bytes", "day", self.bytes_per_day),
            ("bytes", "hour", self.bytes_per_hour),
            ("bytes", "trip", self.bytes_per_trip),
        )
        return [Cap(limit=limit, counts=counts, period=period) for counts, period, limit in limits if limit is not None]

    def plan(self, gap_s: float) -> BudgetPlan:
        """Raises UsageError where there is no cap, or they cannot go together."""
        if not self.caps():
            raise UsageError(NO_CAP)
        return live_plan(self.caps(), self.release, gap_s=gap_s)


def cap_key(cap: Cap) -> str:
    """The key of a cap.

    >>> from geal_edge.runtime.budget import parse_cap
    >>> cap_key(parse_cap("200MB/day"))
    'bytes_per_day'
    """
    return f"{'frames' if cap.counts == 'units' else 'bytes'}_per_{cap.period}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TripConfig:
    """When a trip is over.

    gap_s  seconds without a frame that end it; power-off ends it as well
    """

    gap_s: float = TRIP_GAP_S

    def __post_init__(self) -> None:
        require_number("gap_s", self.gap_s, "a number of seconds above 0", above=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolConfig:
    """Where the selected frames lie, and how they are stored.

    path      spool folder; made if absent, continued if it is there
    flush_s   counters and the time line are stored every so many seconds; a decision is stored at once
    encoding  how frames without file bytes of their own are stored
    """

    path: Path = field(metadata={"example": Path("/var/lib/geal-edge/spool")})
    flush_s: float = FLUSH_S
    encoding: Encoding = "jpg"

    def __post_init__(self) -> None:
        require_number("flush_s", self.flush_s, "a number of seconds from 1 to 600", at_least=1.0, at_most=600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    """What counts as covered: what this spool has released, and what is known from elsewhere.

    max_frames  that are remembered; of more the most redundant is forgotten
    known       memory files (`geal-edge memory add`) of frames that are labelled or sent already, and of what is to be ignored
    ignore      memory files all of which is to be ignored: it is covered, and never forgotten
    """

    max_frames: int = MAX_FRAMES
    known: tuple[Path, ...] = ()
    ignore: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        require_number("max_frames", self.max_frames, "a whole number of frames, 1 or more", at_least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardConfig:
    """Broken frames.

    guard  pixels: gate broken frames; all: also what is seen in one frame alone. Without it: none
    """

    guard: GuardKind | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A whole configuration that was checked."""

    vehicle: VehicleConfig
    source: SourceConfig
    bundle: BundleConfig
    budget: BudgetConfig
    trip: TripConfig
    spool: SpoolConfig
    disk: DiskConfig
    memory: MemoryConfig
    guard: GuardConfig
    gates: GateConfig
    context: ContextConfig
    limits: LimitConfig
    metrics: MetricsConfig
    privacy: PrivacyConfig
    upload: UploadConfig | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Keys of a section that are fields of one dataclass.

    into      field of `Settings`
    keys      of the dataclass; empty: all
    reload    those of them that a running service can take over (service.py)
    optional  `run` reads none of them; where nothing of it is said, the field of `Settings` is None
    """

    into: str
    config: type
    keys: tuple[str, ...] = ()
    reload: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What its keys go into, and what it is about: what the docstring of the first dataclass says, unless it is said here."""

    parts: tuple[Part, ...]
    words: str = ""

    @property
    def about(self) -> str:
        return self.words or (self.parts[0].config.__doc__ or "").partition("\n")[0]


SECTIONS: dict[str, Section] = {
    "vehicle": Section(parts=(Part(into="vehicle", config=VehicleConfig),)),
    "source": Section(parts=(Part(into="source", config=SourceConfig, reload=("rate_hz",)),)),
    "bundle": Section(parts=(Part(into="bundle", config=BundleConfig),)),
    "budget": Section(parts=(Part(into="budget", config=BudgetConfig),)),
    "trip": Section(parts=(Part(into="trip", config=TripConfig, reload=("gap_s",)),)),
    "spool": Section(
        parts=(
            Part(into="spool", config=SpoolConfig, reload=("flush_s", "encoding")),
            Part(into="disk", config=DiskConfig, keys=_QUOTA, reload=_QUOTA),
        ),
    ),
    "retention": Section(
        parts=(Part(into="disk", config=DiskConfig, keys=("max_age_days",), reload=("max_age_days",)),),
        words="How long frames that nobody sent stay.",
    ),
    "memory": Section(parts=(Part(into="memory", config=MemoryConfig, reload=("max_frames",)),)),
    "gates": Section(
        parts=(
            Part(into="guard", config=GuardConfig),
            Part(into="gates", config=GateConfig, reload=("min_interval_s", "standing_still", "only_if", "inhibit")),
        ),
        words="Which frames the encoder is not asked about, or nobody decides on.",
    ),
    "context": Section(parts=(Part(into="context", config=ContextConfig, reload=("before_s", "after_s", "rate_hz")),)),
    "limits": Section(
        parts=(Part(into="limits", config=LimitConfig, reload=("cpu_percent", "max_rss_bytes", "max_temperature_c")),),
    ),
    "metrics": Section(parts=(Part(into="metrics", config=MetricsConfig),)),
    "privacy": Section(
        parts=(
            Part(into="privacy", config=PrivacyConfig, reload=("command", "python", "timeout_s", "when", "position")),
        ),
    ),
    "upload": Section(
        parts=(Part(into="upload", config=UploadConfig, keys=_UPLOAD, optional=True),),
        words="Where `geal-edge upload --config` sends released frames, and when (docs/upload.md).",
    ),
}
"""Section -> where its keys go, in the order in which a person reads them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key of the configuration.

    section, name  as in the file: [section] name = ...
    into      field of `Settings` that takes it
    config    dataclass of that field
    hint      type of the value
    default   where none is given; `...` where one must be
    example   of a value that must be given, from the field's metadata
    meaning   what the docstring of the dataclass says
    reload    whether a running service can take it over
    optional  whether `run` does without it, and all of its section may be left out
    """

    section: str
    name: str
    into: str
    config: type
    hint: Any
    default: Any
    example: Any
    meaning: str
    reload: bool
    optional: bool

    def __str__(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def required(self) -> bool:
        """Where anything of its section is given, or the section is not optional."""
        return self.default is ...


def _keys_of(section: str, part: Part) -> list[Key]:
    hints, meanings = get_type_hints(part.config), _meanings(part.config.__doc__ or "")
    of_config: dict[str, Field[Any]] = {field.name: field for field in fields(part.config)}
    return [
        Key(
            section=section,
            name=name,
            into=part.into,
            config=part.config,
            hint=hints[name],
            default=... if of_config[name].default is MISSING else of_config[name].default,
            example=of_config[name].metadata.get("example"),
            meaning=meanings.get(name, ""),
            reload=name in part.reload,
            optional=part.optional,
        )
        for name in part.keys or of_config
    ]


_ENTRY = re.compile(r"(\w+(?:, \w+)*) {2,}(\S.*)")


def _meanings(docstring: str) -> dict[str, str]:
    """Field -> what a docstring in our form says of it; two fields may share a line. Python 3.13 takes a docstring's margin away
    when it compiles, older ones do not: here it is gone in any case."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(docstring).splitlines()[1:]:
        if entry := _ENTRY.fullmatch(line):
            names = entry[1].split(", ")
            found.update(dict.fromkeys(names, entry[2]))
        elif names and line.startswith(" "):
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
        else:
            names = []
    return found


KEYS: dict[str, Key] = {
    str(key): key for name, section in SECTIONS.items() for part in section.parts for key in _keys_of(name, part)
}
"""All keys by `section.name`, in the order of `SECTIONS`."""
