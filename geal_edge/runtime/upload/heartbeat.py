"""Heartbeats: at most 4 KiB of JSON on the far side that say how a vehicle stands, also where it selected nothing.

At the uploader's start, every hour in which the link is there, and when a round has ended; schema geal-edge/heartbeat/1, under
`<prefix>/<vehicle>/status/<UTC time of the vehicle's own clock>.json`.
"""

import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import geal_edge
from geal_edge.errors import UploadError
from geal_edge.runtime.identity import FACTS
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.trips import STATUS
from geal_edge.runtime.upload.store import without_secrets
from geal_edge.runtime.vehicletime import Moment

SCHEMA = "geal-edge/heartbeat/1"
MAX_BYTES = 4096
EVERY_S = 3600.0
ROUNDS_S = 60.0
"""So often it is looked whether a round has ended."""
ERRORS = (
    "link_lost",
    "set_aside",
    "uploader_ended",
    "camera_lost",
    "engine_stopped",
    "engine_changed",
    "frame_file_missing",
    "frame_row_missing",
    "commits_lost",
    "repaired",
    "disk_full",
    "retention_expired",
    "radius_raised",
)
"""Events that a fleet's owner should see; the newest that fit."""


class Heartbeat:
    """When one is due, and what it says. `put` sends it; `now` is the vehicle's own time."""

    def __init__(self, spool: Path, folder: str, put: Callable[[str, bytes], None], now: Callable[[], Moment]) -> None:
        self._spool = spool
        self._folder = folder
        self._put = put
        self._now = now
        self._last: tuple[int, float] | None = None
        """The round, and powered seconds, of the last one."""
        self._looked_s = float("-inf")

    def step(self) -> bool:
        """Send one if it is due; whether one was sent. A link that is not there is no failure: the next time will do."""
        return self._step(self._now(), last=False)

    def last(self) -> bool:
        """Send one whether it is due or not: nothing follows, and the one before it told of a queue that is sent by now."""
        return self._step(self._now(), last=True)

    def _step(self, now: Moment, *, last: bool) -> bool:
        if now.powered_s - self._looked_s < ROUNDS_S and not last:
            return False
        self._looked_s = now.powered_s
        with open_view(self._spool) as view:
            before = None if last else self._last
            if before is not None and view.round == before[0] and now.powered_s - before[1] < EVERY_S:
                return False
            data = heartbeat(view.beat(), view.events(), vehicle=self._folder.rpartition("/")[2], now=now)
            round_ = view.round
        at = datetime.fromtimestamp(now.wall_ns // 10**9, timezone.utc)
        try:
            self._put(f"{self._folder}/{STATUS}/{at:%Y%m%dT%H%M%SZ}.json", data)
        except UploadError as error:
            if error.outcome == "stop":
                raise
            return False
        self._last = (round_, now.powered_s)
        return True


def heartbeat(state: dict[str, Any], events: list[dict[str, Any]], *, vehicle: str, now: Moment) -> bytes:
    """At most MAX_BYTES of JSON: the state, and as many of the newest errors as fit. state: SpoolView.beat."""
    errors = [
        without_secrets(json.dumps({name: value for name, value in event.items() if name not in FACTS}))[:300]
        for event in events
        if event["name"] in ERRORS
    ]
    who = {
        "schema": SCHEMA,
        "version": geal_edge.__version__,
        "vehicle": vehicle,
        "wall_ns": now.wall_ns,
        "synchronised": now.synchronised,
        "boot_id": now.boot_id,
    }
    for count in range(min(10, len(errors)), -1, -1):
        data = json.dumps({**who, **state, "errors": errors[len(errors) - count :]}).encode()
        if len(data) <= MAX_BYTES:
            return data
    return json.dumps(who).encode()
