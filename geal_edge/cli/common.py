"""What several commands share: options, opening what they name, progress on a terminal, and stopping well."""

import os
import re
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, TypeAlias

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from geal_edge.config import GuardKind
from geal_edge.errors import UsageError
from geal_edge.models.bundle import Bundle
from geal_edge.runtime.backends.choice import BackendOrAuto, Open, open_backend
from geal_edge.runtime.encoder import Encoder
from geal_edge.runtime.engines import Engines, choose, require_verified
from geal_edge.runtime.live import LiveSource, is_live
from geal_edge.runtime.observer import Notice
from geal_edge.runtime.privacy.filter import PrivacyFilter
from geal_edge.runtime.settings import read_configuration
from geal_edge.runtime.sources import Source, open_source
from geal_edge.runtime.sources.bags import BagSource
from geal_edge.runtime.state import State
from geal_edge.runtime.stopping import Stop
from geal_edge.runtime.watched import OnFailure, WatchedEncoder, default_on_failure

PROGRESS_AFTER_S = 2.0
DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|min|h)")
SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}

Sources: TypeAlias = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="Folders of images, globs, videos, ROS bags, or `drawn:SEED`; for run also live ones, as `watch:FOLDER` or "
        "`rtsp://HOST/PATH` (docs/live.md).",
    ),
]
RunSources: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE...",
        help="Folders of images, globs, videos, ROS bags, or `drawn:SEED`; or live ones, as `watch:FOLDER` or "
        "`rtsp://HOST/PATH` (docs/live.md).",
        show_default=False,
    ),
]
BundleFolder: TypeAlias = Annotated[
    Path, typer.Option("--bundle", "-b", help="Bundle folder, made by `geal-edge export`.")
]
RunBundle: TypeAlias = Annotated[
    Path | None, typer.Option("--bundle", "-b", help="Bundle folder, made by `geal-edge export`.")
]
SpoolFolder: TypeAlias = Annotated[
    Path, typer.Argument(metavar="SPOOL", help="Spool folder, filled by `geal-edge run`.")
]
SpoolOrUrl: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="SPOOL|URL",
        help="Spool folder; or what `geal-edge upload --to` sent to: a folder, or a URL of s3, gs, az, http or https.",
    ),
]
FrameId: TypeAlias = Annotated[str, typer.Argument(metavar="ID", help="The frame's id, as `geal-edge list` shows it.")]
Fps: TypeAlias = Annotated[
    float | None,
    typer.Option(help="Look at this many frames per second of a video or bag; the others are not seen at all."),
]
LiveFps: TypeAlias = Annotated[
    float | None,
    typer.Option(
        help="Look at this many frames per second of a video, bag or live source; the others are not seen at all. "
        "Live default: 2."
    ),
]
Guard: TypeAlias = Annotated[
    GuardKind | None,
    typer.Option(
        help="Gate broken frames: by their pixels (dark, blurred, covered, frozen, ...); all also leaves out what is seen in "
        "one frame alone, which costs cover. For recordings of a drive, not for single pictures. Default: none.",
    ),
]
Topics: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--topic", help="Image topic of a ROS bag, by name or glob; again for more. Default: the only one."),
]
Group: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--group",
        metavar="SECONDS",
        min=0.0,
        help="Images of several topics of a ROS bag whose capture times differ by at most this are one unit, which is judged, "
        "budgeted and selected as a whole. Without --topic: of all image topics.",
    ),
]
Name: TypeAlias = Annotated[str | None, typer.Option(help="Name for the source, where its own is taken.")]
Threads: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Threads inside one inference. Default: the CPUs this process may use.")
]
BackendChoice: TypeAlias = Annotated[
    BackendOrAuto,
    typer.Option(
        "--backend",
        help="Engine: ONNX Runtime on the CPU or, of an NVIDIA GPU, with CUDA or TensorRT; tensorrt: the plan that `geal-edge "
        "build` made here; OpenVINO in f32, or in bf16 or f16 where the processor can, or in f16 on Intel graphics; "
        "auto: the fastest that `geal-edge verify` has found right on this machine.",
    ),
]
Unverified: TypeAlias = Annotated[
    bool, typer.Option("--unverified", help="Run an engine that `geal-edge verify` has not found right here.")
]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
PrivacyOf: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Configuration whose [privacy] says how the hook is run that pictures of the spool must pass (docs/privacy.md).",
    ),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print the machine form (docs/formats.md).")]


def privacy_of(config: Path | None) -> PrivacyFilter | None:
    """What pictures pass by a configuration; None where none is named.

    Raises ConfigError, and UsageError for a function that cannot be had.
    """
    return None if config is None else PrivacyFilter(read_configuration(config, os.environ).settings.privacy)


def open_sources(
    specs: list[str],
    *,
    name: str | None,
    fps: float | None,
    topics: Sequence[str] | None = None,
    group_s: float | None = None,
) -> list[Source]:
    """Open what the command line names. Raises UsageError where one --name is meant for several."""
    if name is not None and len(specs) > 1:
        raise UsageError(f"--name {name}: names one source, but {len(specs)} were given. Run them one at a time.")
    for spec in specs:
        if is_live(spec):
            raise UsageError(
                f"{spec}: is a live source, which `geal-edge run` alone takes, and not beside recorded ones."
            )
    return [open_source(spec, name=name, fps=fps, topics=topics or (), group_s=group_s) for spec in specs]


def say_notes(sources: Iterable[Source | LiveSource], watch: "Terminal") -> None:
    """What a person should know of recordings that were cut off, or lack a topic that was asked for."""
    for source in sources:
        if isinstance(source, BagSource):
            for note in source.notes:
                watch.warn(f"{source.name}: {note}")


def machine_state() -> State:
    """Where this machine's state lies."""
    return State.of(os.environ)


def backends_of(bundle: Bundle, state: State, threads: int | None = None) -> Open:
    """What opens a backend on a bundle by its name."""
    return lambda name: open_backend(name, bundle.graph, cache=state.of_bundle(bundle.digest), threads=threads)


def open_encoder(
    bundle: Path,
    threads: int | None,
    backend: BackendOrAuto = "ort-cpu",
    *,
    unverified: bool = False,
    watch: "Terminal | None" = None,
) -> Encoder:
    """The bundle on a backend that has answered for itself, to be entered; `watch` is told why where it was chosen."""
    opened, state = Bundle.open(bundle), machine_state()
    first = _chosen(backend, opened, state, unverified=unverified, watch=watch).names[0]
    return Encoder(opened, backends_of(opened, state, threads)(first))


def open_watched(
    bundle: Path,
    threads: int | None,
    backend: BackendOrAuto,
    *,
    unverified: bool,
    on_failure: OnFailure | None,
    watch: "Terminal",
) -> WatchedEncoder:
    """The bundle on a backend that has answered for itself, with those behind it that may take over; to be entered."""
    opened, state = Bundle.open(bundle), machine_state()
    engines = _chosen(backend, opened, state, unverified=unverified, watch=watch)
    return WatchedEncoder(
        opened,
        engines.names,
        backends_of(opened, state, threads),
        on_failure=on_failure or default_on_failure(),
        state=state,
    )


def _chosen(
    backend: BackendOrAuto, bundle: Bundle, state: State, *, unverified: bool, watch: "Terminal | None"
) -> Engines:
    engines = choose(backend, bundle, state)
    if not unverified:
        require_verified(engines.names[0], bundle, state)
    if backend == "auto" and watch is not None:
        watch.warn(f"backend {engines.why}")
    return engines


def duration_s(text: str, flag: str) -> float:
    """Seconds of a length of time. Raises UsageError.

    >>> duration_s("90s", "--for"), duration_s("10min", "--for"), duration_s("0.5h", "--for")
    (90.0, 600.0, 1800.0)
    """
    found = DURATION.fullmatch(text.strip())
    if found is None or float(found[1]) == 0.0:
        raise UsageError(f"{flag} {text}: must be a length of time, as 90s, 10min or 2h")
    return float(found[1]) * SECONDS[found[2]]


def require_writable_place(out: Path) -> None:
    """Raise UsageError where a result could not be written in the end: better said before hours of work than after."""
    if out.is_dir():
        raise UsageError(f"{out}: is a folder. Name the file to write in it.")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise UsageError(f"{out}: its folder does not exist or may not be written. Make it first, or choose another.")


def untrained_note(untrained: bool, watch: "Terminal") -> None:
    if untrained:
        watch.warn(
            "this bundle's weights are UNTRAINED: what it selects shows the machinery, not what DINO would choose."
        )


def plain(text: object) -> str:
    """Text that moves no cursor: names and ids may be anybody's.

    >>> plain("car\\x1b[2J")
    'car?[2J'
    """
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in str(text))


class Terminal:
    """Observer for people: warnings on stderr, and a progress line once a job has taken two seconds on a terminal.

    Use it as a context manager, so that the line is taken away before results are printed.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def begin(self, what: str, total: int | None) -> None:
        self._end()
        self._began = time.monotonic()
        self._what, self._total, self._done = what, total, 0

    def advance(self, **counts: int) -> None:
        self._done += 1
        if self._quiet or not self._console.is_terminal:
            return
        if self._progress is None:
            if time.monotonic() - self._began < PROGRESS_AFTER_S:
                return
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._progress.add_task(self._what, total=self._total, note="")
            self._progress.start()
        note = " ".join(f"{name} {n}" for name, n in counts.items() if n)
        self._progress.update(self._task, completed=self._done, note=note)

    def warn(self, message: str) -> None:
        if not self._quiet:
            self._console.print(f"note: {plain(message)}", markup=False)

    def take_notices(self) -> Sequence[Notice]:
        return ()

    def say(self, message: str = "") -> None:
        """A line of the result, for people, on stdout."""
        if not self._quiet:
            self._end()
            print(message)

    def _end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


@contextmanager
def stopping_well() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM ask to stop after the frame in hand; a second Ctrl-C does not wait."""
    stop = Stop()

    def ask(signum: int, _: FrameType | None) -> None:
        if stop.asked and signum == signal.SIGINT:
            raise KeyboardInterrupt
        stop.ask()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fail_if(condition: bool, code: int) -> None:
    """End with `code` after the result was printed."""
    if condition:
        sys.stdout.flush()
        raise typer.Exit(code)


class Onlooker:
    """Somebody who looks on until they have seen enough: Ctrl-C, SIGTERM, or `q` where keys are listened to."""

    def __init__(self, wake: int, keys: int | None) -> None:
        self.over = False
        self._wake = wake
        self._keys = keys

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until something else is to be seen: another size of the terminal. False: it is over."""
        ready, _, _ = select.select([self._wake, *([] if self._keys is None else [self._keys])], [], [], seconds)
        if self._wake in ready:
            os.read(self._wake, 64)
        if self._keys in ready:
            pressed = os.read(self._keys, 64)
            self.over = self.over or not pressed or b"q" in pressed.lower()
        return not self.over


@contextmanager
def onlooking(*, keys: bool = False) -> Iterator[Onlooker]:
    """Until Ctrl-C, SIGTERM, a terminal that is closed, or a pipe that nobody reads any more: that is no error. At the end the
    terminal is as it was before. keys: whether single keys of it are listened to."""
    wake, told = os.pipe()
    os.set_blocking(told, False)
    listen = sys.stdin.fileno() if keys and sys.stdin.isatty() else None
    onlooker = Onlooker(wake, listen)

    def ask(signum: int, _: FrameType | None) -> None:
        onlooker.over = onlooker.over or signum != signal.SIGWINCH
        with suppress(BlockingIOError):  # it is told already
            os.write(told, b".")

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH)
    before = {number: signal.signal(number, ask) for number in numbers}
    modes = None if listen is None else termios.tcgetattr(listen)
    try:
        if listen is not None:
            tty.setcbreak(listen)
        yield onlooker
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be flushed at the end
    finally:
        if listen is not None and modes is not None:
            termios.tcsetattr(listen, termios.TCSADRAIN, modes)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(wake)
        os.close(told)
