"""The uploader: takes the first unit of the outbox, sends all of it, and has it acknowledged; over and over.

    step: is it time, and may the link be used? -> what the privacy hook made of its files -> put frames, context, sidecars
          -> acknowledge

Units go one after another in the order that was frozen at release, and none is begun before the one before it is complete: what
got through when a link is cut is the best selection of that size. Of what is set aside, or too large for a metered link, the
order is left. A step does one thing and says what; `wait_s` is how long nothing will change by itself.
"""

import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from geal_edge.config import UploadConfig
from geal_edge.errors import FrameError, UploadError
from geal_edge.runtime.outbox import Outbox, Receipt
from geal_edge.runtime.outgoing import Outgoing
from geal_edge.runtime.privacy.leaving import stored_bytes
from geal_edge.runtime.sidecar import keys_of
from geal_edge.runtime.upload.link import SMALL_BYTES, Ask, Backoff, Pace, is_metered, is_open, run_program
from geal_edge.runtime.upload.store import Store, Verified, timeout_s

IDLE_S = 10.0
"""Until the outbox is looked at again that had nothing."""
CLOSED_S = 60.0
"""Until a window of the day, or a metered link, is looked at again."""
PRIVACY_AGAIN_S = 3600.0
"""How often a unit is tried again on which the privacy hook failed; at the start too, when it may be another hook."""
METERED_FOR_S = 60.0
"""So long the answer whether the link is metered holds."""
REQUESTS = 3
"""Of one object at most: whether it is there, itself, whether it has come."""


class Step(Enum):
    """What a step did. IDLE: nothing is left; WAITING: it is too soon, after a failure or for the bandwidth; CLOSED: the time of
    the day does not allow it; METERED: all that is left is too large for the link."""

    SENT = "sent"
    SET_ASIDE = "set aside"
    WAITING = "waiting"
    CLOSED = "closed"
    METERED = "metered"
    IDLE = "idle"


def local_time() -> datetime:
    """Of the machine's own time zone."""
    return datetime.now().astimezone()


class Uploader:
    """Sends what is released in a spool.

    vehicle    who sends, as a part of every key
    monotonic  seconds, for waiting; local is the time of the day, for windows; rng jitters the waits; ask runs a program
    busy       told before what may take so many seconds
    """

    def __init__(
        self,
        outbox: Outbox,
        store: Store,
        config: UploadConfig,
        *,
        vehicle: str,
        rng: np.random.Generator,
        monotonic: Callable[[], float] = time.monotonic,
        local: Callable[[], datetime] = local_time,
        ask: Ask = run_program,
        busy: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._outbox = outbox
        self._store = store
        self._config = config
        self._vehicle = vehicle
        self._monotonic = monotonic
        self._local = local
        self._ask = ask
        self._busy = busy
        self._backoff = Backoff(rng)
        self._pace = Pace(config.max_bytes_per_s)
        self._not_before_s = float("-inf")
        self._metered: tuple[float, bool] = (float("-inf"), False)
        self._privacy_again_s = float("-inf")
        self._noted: tuple[str, str] | None = None
        self._failed: Counter[str] = Counter(outbox.failed())
        self.why = ""
        """Why nothing was sent when it was tried last, as a sentence; empty when something was."""

    @property
    def failures(self) -> int:
        """In a row, since something was sent last."""
        return self._backoff.failures

    @property
    def wait_s(self) -> float:
        """Seconds until the next step may do something."""
        now_s = self._monotonic()
        return max(0.0, self._not_before_s - now_s, self._pace.wait_s(now_s))

    def step(self) -> Step:
        """Raises UploadError where only a person can help, and StorageError where the spool's disk refuses."""
        if self.wait_s > 0.0:
            return Step.WAITING
        if not is_open(self._config.windows, self._local().time()):
            return self._closed(Step.CLOSED, "window", f"it waits for {' or '.join(self._config.windows)}")
        if self._monotonic() - self._privacy_again_s >= PRIVACY_AGAIN_S:
            self._privacy_again_s = self._monotonic()
            self._outbox.try_again("privacy")
        metered = self._is_metered()
        at_most_bytes = SMALL_BYTES if metered else None
        outgoing = self._outbox.next(at_most_bytes=at_most_bytes)
        if outgoing is None and metered and self._outbox.next() is not None:
            why = f"the link is metered, where at most {SMALL_BYTES:,} bytes go at once"
            return self._closed(Step.METERED, "metered", why)
        if outgoing is None:
            self._note("idle", "", "all that was released is sent or set aside")
            self._not_before_s = self._monotonic() + IDLE_S
            return Step.IDLE
        return self._send(outgoing, at_most_bytes=at_most_bytes)

    def force(self, id_: str) -> Step:
        """Send the unit of a frame now, whatever the time of the day and the link, and also where it was set aside."""
        outgoing = self._outbox.forced(id_)
        return Step.IDLE if outgoing is None else self._send(outgoing)

    def put(self, key: str, data: bytes) -> None:
        """Something beside the queue, which a later one replaces: a heartbeat. Raises UploadError."""
        self._put(key, data, replace=True)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _send(self, outgoing: Outgoing, *, at_most_bytes: int | None = None) -> Step:
        try:
            self._busy(self._outbox.hook_s(outgoing))
            outgoing = self._outbox.guarded(outgoing)
            if at_most_bytes is not None and outgoing.bytes > at_most_bytes:
                return Step.WAITING  # a hook made it larger; the next step knows, and passes it over
            receipts = self._put_all(outgoing)
        except UploadError as error:
            if error.outcome == "set_aside":
                self._outbox.set_aside(outgoing, reason=error.reason, detail=str(error))
                self.why = f"{outgoing.frames[0].id} is set aside, {error.reason}: {error}"
                return Step.SET_ASIDE
            first = self.failures == 0
            self._failed[error.reason] += 1
            retry_in_s = self._backoff.after_failure()
            again = f"tried again in {retry_in_s:.0f} s" if error.outcome == "retry" else "a person must help"
            self.why = f"the last try failed, {error.reason}: {error} ({again}, {self.failures} in a row)"
            self._note("failing", f"{error.reason} {self.failures}", self.why, event="link_lost" if first else None)
            if error.outcome == "stop":
                raise
            self._not_before_s = self._monotonic() + retry_in_s
            return Step.WAITING
        self._outbox.acknowledge(outgoing, receipts)
        was_failing, self.why = self.failures > 0, ""
        self._backoff.after_success()
        self._note("sending", "", "it is being sent", event="link_back" if was_failing else None)
        return Step.SENT

    def _put_all(self, outgoing: Outgoing) -> list[Receipt]:
        """Frames, then context, then sidecars: a sidecar means that all of its frame is there."""
        keys = keys_of(
            outgoing,
            prefix=self._config.prefix,
            vehicle=self._vehicle,
            same_before=self._outbox.same_before(outgoing),
        )
        receipts = []
        for frame, key in zip(outgoing.frames, keys, strict=True):
            verified = self._put(key.frame, _bytes_of(frame.file, frame.sha256))
            receipts.append(Receipt(key=key.frame, verified=verified))
        names = {item.sha256: name for key in keys for name, item in key.context}
        for item in outgoing.context:
            self._put(names[item.sha256], _bytes_of(item.file, item.sha256))
        for key, data in zip(keys, self._outbox.sidecars(outgoing, vehicle=self._vehicle, keys=keys), strict=True):
            self._put(key.sidecar, data, replace=True)
        return receipts

    def _put(self, key: str, data: bytes, *, replace: bool = False) -> Verified:
        self._busy(REQUESTS * timeout_s(len(data)))
        verified = self._store.put(key, data, replace=replace)
        self._pace.sent(len(data), now_s=self._monotonic())
        return verified

    def _is_metered(self) -> bool:
        at_s, answer = self._metered
        if self._monotonic() - at_s >= METERED_FOR_S:
            answer = is_metered(self._config.metered, self._ask)
            self._metered = (self._monotonic(), answer)
        return answer

    def _closed(self, step: Step, reason: str, why: str) -> Step:
        self.why = why
        self._note("closed", reason, why)
        self._not_before_s = self._monotonic() + CLOSED_S
        return step

    def _note(self, state: str, reason: str, detail: str, *, event: str | None = None) -> None:
        """For `status` and `why`; written where it has changed, since flash wears."""
        if (state, reason) != self._noted:
            link: dict[str, Any] = {"state": state, "detail": detail, "failures": self.failures}
            link["failed"] = dict(sorted(self._failed.items()))
            self._outbox.note_link(link, event=event)
            self._noted = (state, reason)


def _bytes_of(file: Path, digest: str) -> bytes:
    """Raises UploadError where they are not what was stored: nobody is sent something else under their name."""
    try:
        return stored_bytes(file, digest)
    except FrameError as error:
        raise UploadError("set_aside", error.reason, error.detail) from error
