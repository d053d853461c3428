"""An encoder that watches its engine: what answers nonsense, or drifts from the reference, is replaced or stops the run.

    frame -> every so many frames a reference frame first -> engine -> believed, or: the next engine answers the same frame

An engine may be right when it is verified and wrong later: hot memory, a driver that was updated, another process on the GPU.
NaN and the like are seen at once (encoder.py). Numbers that are wrong and look sane are seen at the next reference frame: the
frames since the last one were judged by an engine that cannot be trusted, and the event says how many they are.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeAlias

from geal_edge.errors import BackendError, EngineStopped, MissingDependency, StorageError
from geal_edge.models.bundle import Bundle
from geal_edge.runtime.backends import Backend
from geal_edge.runtime.backends.choice import BackendName, Open
from geal_edge.runtime.clusterparity import compare_all
from geal_edge.runtime.encoder import Encoded, Encoder, EngineChange
from geal_edge.runtime.frame import Image
from geal_edge.runtime.parity import tolerances
from geal_edge.runtime.records import revoke
from geal_edge.runtime.reference import inside, read_reference
from geal_edge.runtime.state import State

OnFailure: TypeAlias = Literal["cpu", "pause"]

CHECK_EVERY = 500
"""Frames between two reference frames: 0.2 % of an engine's time."""
_JETSON = Path("/etc/nv_tegra_release")


def default_on_failure(jetson: Path = _JETSON) -> OnFailure:
    """A Jetson pauses: its CPUs belong to the vehicle's other software, which an engine on the CPU would starve."""
    return "pause" if jetson.exists() else "cpu"


class WatchedEncoder:
    """A bundle on the first of several engines that answers as it must. Use it as a context manager.

    names        engines, the first one first
    open_        a backend of a name, to be entered
    on_failure   "cpu": the next engine takes over; "pause": EngineStopped
    state        where the record of one that failed is revoked
    check_every  frames from one reference frame to the next; the first comes before the first frame

    Entering raises what the first engine raises. A call raises EngineStopped where no engine is left, or none may follow: the
    frame in hand was not judged, and the same command shows it again.
    """

    def __init__(
        self,
        bundle: Bundle,
        names: Sequence[BackendName],
        open_: Open,
        *,
        on_failure: OnFailure,
        state: State,
        check_every: int = CHECK_EVERY,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.bundle = bundle
        self._names = list(names)
        self._open = open_
        self._on_failure = on_failure
        self._state = state
        self._check_every = check_every
        self._wall_ns = wall_ns
        self._reference = read_reference(bundle)
        self._checks = 0
        self._unchecked = 0
        self._changes: list[EngineChange] = []

    @property
    def backend(self) -> Backend:
        """The engine that answers now."""
        return self._encoder.backend

    def __enter__(self) -> "WatchedEncoder":
        self._start(self._names[0])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __call__(self, image: Image) -> Encoded:
        """Encode one frame, uint8 (H, W, 3) RGB of any size."""
        while True:
            try:
                if not self._checks or self._unchecked == self._check_every:
                    self._check()
                encoded = self._encoder(image)
            except BackendError as error:
                self._replace(error)
            else:
                self._unchecked += 1
                return encoded

    def take_changes(self) -> list[EngineChange]:
        """What happened to the engines since the last time it was asked."""
        changes, self._changes = self._changes, []
        return changes

    def _start(self, name: BackendName) -> None:
        with contextlib.ExitStack() as stack:
            self._encoder = stack.enter_context(Encoder(self.bundle, self._open(name)))
            self._stack = stack.pop_all()
        self._checks = self._unchecked = 0

    def _check(self) -> None:
        """Hold the engine against one reference frame, each in its turn. Raises BackendError where it drifts."""
        at = self._checks % len(self._reference.frames)
        expected = {name: values[at : at + 1] for name, values in self._reference.answers.items()}
        answer = {name: values[None] for name, values in self._encoder.answer(self._reference.frames[at]).items()}
        within = inside(self._names[0], self.bundle.manifest)
        allowed = tolerances(within, self.bundle.manifest.tap, self._reference.answers)
        report = compare_all(expected, answer, allowed, self.bundle.manifest.clusters)
        if not report.passed:
            drifted = "; ".join(str(output) for output in report.outputs if not output.passed)
            raise BackendError(f"drifts from the reference answers ({drifted})")
        self._checks += 1
        self._unchecked = 0

    def _replace(self, error: BackendError) -> None:
        """Go over to the next engine that starts, or raise EngineStopped."""
        failed, unchecked, reason = self._names[0], self._unchecked, str(error)
        self._stack.close()
        # The run matters more than the record: a disk that refuses it, or an engine that is gone, is no reason to stop.
        with contextlib.suppress(StorageError, BackendError, MissingDependency):
            revoke(self._state, self.bundle, failed, reason, wall_ns=self._wall_ns())
        tried = [f"{failed}: {reason}"]
        while self._on_failure == "cpu" and len(self._names) > 1:
            del self._names[0]
            try:
                self._start(self._names[0])
            except (BackendError, MissingDependency) as cause:
                tried.append(f"{self._names[0]}: {cause}")
                continue
            self._changes.append(
                EngineChange(was=failed, now=self._names[0], reason="; ".join(tried), unchecked=unchecked)
            )
            return
        self._changes.append(EngineChange(was=failed, now=None, reason="; ".join(tried), unchecked=unchecked))
        raise EngineStopped(
            f"the engine failed, and the run is paused: {'; '.join(tried)}. Nothing is lost: let it answer for itself "
            f"again (geal-edge verify {self.bundle.path} --backend {failed}), or choose another --backend, and the same "
            "command goes on with the frame in hand."
        ) from error
