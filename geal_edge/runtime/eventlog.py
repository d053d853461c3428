"""What happened, for whoever asks: the events of a spool by their numbers, as lines of JSON and in words; `geal-edge events`.

An event's number is never given twice in a spool, and numbers grow in the order in which events are stored. So whoever has the
number of the last one misses none and gets none again, over restarts of the run and of its own. The newest 10,000 are there.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeAlias

from geal_edge.errors import SpoolDamaged, SpoolError, UsageError
from geal_edge.runtime.budget import megabytes
from geal_edge.runtime.pressure import PRESSURES
from geal_edge.runtime.spooldb import DATABASE
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.vehicletime import EARLIEST_NS, Moment

SCHEMA = "geal-edge/event/1"
SWITCHED_ON = "switched on "
SETTLED_NS = 1_000_000_000
"""A file's time is as coarse as the kernel's clock: what changes within a second of it may have the same."""

Event: TypeAlias = dict[str, Any]

SENTENCES = {
    "bundle_changed": "another bundle: {was:.19} became {now:.19}",
    "camera_back": "camera {camera} is back",
    "camera_frozen": "camera {camera} shows the same picture over and over",
    "camera_lost": "camera {camera} is lost ({reason}); tried again in {retry_in_s:g} s",
    "camera_silent": "camera {camera}: no picture for {silent_s:g} s",
    "camera_started": "camera {camera} has begun",
    "commits_lost": "the database's log was damaged: {detail}",
    "config_refused": "the configuration was refused, and the one before stays: {reason}",
    "config_reloaded": "another configuration is in force; changed: {changed_names}",
    "context_full": "camera {camera}: less context is held than was asked for",
    "context_given_up": "context is given up, for memory",
    "context_left_out": "context of unit {unit} is left out ({cause})",
    "disk_full": "no room for new frames ({cause}); {unsent_units} units wait to be sent",
    "engine_changed": "engine {was} failed, {now} goes on ({reason})",
    "engine_stopped": "engine {was} failed, and none goes on ({reason})",
    "erased": "{frames} frames were erased by the rule: {rule}",
    "erasure_unfinished": "an erasure could not be finished: {why}",
    "feature_space_changed": "another feature space: {encoded} units were looked at anew",
    "folder_overflow": "camera {camera}: {detail}",
    "foreign_file": "{file} is in the spool and not ours",
    "format_changed": "camera {camera}: the picture's size changed from {was} to {now}",
    "frame_file_missing": "the file {file} is gone from the spool",
    "frame_lost": "{id} is lost ({reason})",
    "frame_row_missing": "the file {file} has no row any more; it stays",
    "frames_gated": "{id} and what follows is gated ({reason})",
    "gates_changed": "the gates were set otherwise",
    "link_back": "the link is back",
    "link_lost": "the link is lost: {detail}",
    "metadata_unreadable": "camera {camera}: metadata cannot be read ({detail})",
    "metrics_back": "[metrics] {key} = {value}: shown again",
    "metrics_unavailable": "[metrics] {key} = {value}: {reason}; tried again",
    "orphan_removed": "{file} was removed: its decision was never stored",
    "pinned_stays": "{units_count} would have been evicted, and stay for their pins",
    "privacy_changed": "what pictures pass from now on: hook {now[hook]}, when {now[when]}, position {now[position]}",
    "radius_raised": "the radius rose: {cause_words} was reached",
    "rate_lowered": "rate lowered from {was_hz:.3g} to {rate_hz:.3g} Hz ({cause})",
    "rate_raised": "rate raised from {was_hz:.3g} to {rate_hz:.3g} Hz",
    "released": "{units_count} released in round {round}",
    "repaired": "the spool was repaired: {mended_names}",
    "retention_expired": "too old before they were sent, and gone: {ids_names} ({bytes_words})",
    "sent": "{id} is sent, number {place} of the order",
    "run_ended": "the run has ended ({by})",
    "run_started": "the run has begun: {cameras_count}",
    "set_aside": "{id} is set aside ({reason}): {detail}",
    "source_row_missing": "source {source} had no row any more: it goes on behind frame {cursor}",
    "time_jumped": "camera {camera}: its clock jumped by {by_s:g} s",
    "time_repeated": "camera {camera} gave one time twice",
    "trip_ended": "the trip is over ({by})",
    "uploader_ended": "the uploader has ended (code {code})",
    "uploader_started": "the uploader has begun (process {pid})",
    "units_evicted": "{units_count} evicted, for {by}",
}
"""All events that there are, in words; docs/formats.md has their fields."""


def words(event: Event) -> str:
    """What happened as a sentence; of an event that another version wrote its name and fields. Always printable.

    >>> words({"name": "sent", "id": "live#front@5", "place": 3})
    'live#front@5 is sent, number 3 of the order'
    """
    told = {**event}
    for name, value in event.items():
        if isinstance(value, list | dict):
            one = name.removesuffix("s")
            told |= {f"{name}_count": f"1 {one}" if len(value) == 1 else f"{len(value)} {one}s"}
            told |= {f"{name}_names": ", ".join(map(str, value))}
        elif name.endswith("bytes") and isinstance(value, int):
            told[f"{name}_words"] = megabytes(value)
    told["cause_words"] = PRESSURES.get(str(event.get("cause")), str(event.get("cause")))
    try:
        said = SENTENCES[event["name"]].format_map(told)
    except (LookupError, ValueError, TypeError, AttributeError):
        detail = (f"{name}={value}" for name, value in event.items() if name not in COMMON)
        said = " ".join([str(event["name"]), *detail])
    return printable(said)


COMMON = ("event", "name", "wall_ns", "powered_s", "version", "vehicle", "trip", "boot_id", "bundle", "config")
"""What each event has beside its own fields."""


def printable(text: object) -> str:
    """On one line, and without what a terminal would obey: names come from files and cameras.

    >>> printable("a\\x1b[2Jb")
    'a?[2Jb'
    >>> printable("2 problems\\n  one\\n  another")
    '2 problems; one; another'
    """
    line = "; ".join(part.strip() for part in str(text).split("\n"))
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def utc(wall_ns: int) -> str:
    """
    >>> utc(1_700_000_000_250_000_000)
    '2023-11-14T22:13:20.250Z'
    """
    try:
        at = datetime.fromtimestamp(wall_ns // 10**9, timezone.utc)
    except (ValueError, OverflowError, OSError):  # of a row that a disk has changed
        return f"{wall_ns} ns"
    return f"{at:%Y-%m-%dT%H:%M:%S}.{wall_ns // 10**6 % 1000:03d}Z"


def when(event: Event) -> str:
    """For people: UTC, with a question mark where nobody has set the clock; where it cannot be right at all, the time since the
    vehicle was switched on.

    >>> when({"wall_ns": 1_700_000_000_250_000_000}), when({"wall_ns": 1_700_000_000_250_000_000, "powered_s": 60.0})
    ('2023-11-14 22:13:20Z', '2023-11-14 22:13:20?')
    >>> when({"wall_ns": 5, "powered_s": 3725.5})
    'switched on +1:02:05'
    """
    unset = "powered_s" in event
    if unset and event["wall_ns"] < EARLIEST_NS:
        minutes, seconds = divmod(int(event["powered_s"]), 60)
        return f"{SWITCHED_ON}+{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
    return utc(event["wall_ns"]).replace("T", " ").partition(".")[0] + ("?" if unset else "Z")


def machine_line(event: Event) -> Event:
    """The machine form (docs/formats.md): `time` is null where the clock was not set, and `powered_s` tells it."""
    known = "powered_s" not in event
    return {"schema": SCHEMA, "event": event["event"], "time": utc(event["wall_ns"]) if known else None, **event}


def require_names(patterns: Sequence[str]) -> None:
    """Raise UsageError for a name, or glob of names, that no event has."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in SENTENCES):
            raise UsageError(f"--name {pattern}: no event has such a name. There are: {', '.join(sorted(SENTENCES))}.")


def has_name(event: Event, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(event["name"], pattern) for pattern in patterns)


def is_since(event: Event, seconds: float, now: Moment) -> bool:
    """Whether it happened within so many seconds before now; where the clock was not set, only of this boot is that known."""
    if "powered_s" in event:
        return event.get("boot_id") == now.boot_id and now.powered_s - float(event["powered_s"]) <= seconds
    return now.wall_ns - int(event["wall_ns"]) <= seconds * 1e9


class EventReader:
    """Reads a spool's events from a number on, each once; nothing is open in between.

    spool  may not be there yet
    after  number of the last event that is known; moved on with what is taken
    """

    def __init__(self, spool: Path, after: int = 0, *, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self.spool = spool
        self.after = after
        self.notes: list[str] = []
        """What the reader of the events should know beside them, as sentences; whoever tells them empties it."""
        self._changes = Changes(spool, wall_ns)
        self._waiting = ""

    def take(self) -> list[Event]:
        """All events behind `after`, oldest first; nothing where the files have not changed since the last time.

        Raises SpoolError where there is no spool (any more), SpoolDamaged where it cannot be read.
        """
        if not self._changes.new():
            return []
        try:
            with open_view(self.spool) as view:
                if view.last_event < self.after:
                    self.notes.append(
                        f"{self.spool}: is another spool than before, so its events are told from the first"
                    )
                    self.after = 0
                found = view.events(after=self.after)
        except SpoolError:
            self._changes.forget()
            raise
        if self.after and found and found[0]["event"] > self.after + 1:
            gone = found[0]["event"] - self.after - 1
            self.notes.append(f"{self.spool}: {gone} events behind number {self.after} are no longer there")
        if found:
            self.after = found[-1]["event"]
        return found

    def follow(self, wait: Callable[[], bool]) -> Iterator[list[Event]]:
        """What is new, again and again, until `wait` (called in between) says that it is enough. A spool that is not there
        yet, or was taken away, is waited for. Raises SpoolDamaged."""
        while True:
            try:
                yield self.take()
            except SpoolDamaged:
                raise
            except SpoolError as error:
                if self._waiting != str(error):
                    self._waiting = str(error)
                    self.notes.append(f"waiting: {error}")
                yield []
            if not wait():
                return


class Changes:
    """Whether a spool's database has changed since somebody looked: by its files' times, which costs it nothing.

    stored_ns  when it was changed last, by the wall clock; 0: it is not there
    """

    def __init__(self, spool: Path, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self.stored_ns = 0
        self._files = [spool / (DATABASE + suffix) for suffix in ("", "-wal")]
        self._wall_ns = wall_ns
        self._seen: list[tuple[int, int, int]] = []

    def new(self) -> bool:
        """Whether it may have changed since this was asked before. Asked before it is read, nothing is missed."""
        found = []
        for file in self._files:
            with suppress(OSError):  # it is not there, or not any more
                stat = file.stat()
                found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
        self.stored_ns = max((at for *_, at in found), default=0)
        if found and found == self._seen:
            return False
        # What was changed just now may change again without a trace in the files' times.
        self._seen = found if self._wall_ns() - self.stored_ns > SETTLED_NS else []
        return True

    def forget(self) -> None:
        """It could not be read: the next time will do."""
        self._seen = []


def as_line(event: Event, *, as_json: bool) -> str:
    return json.dumps(machine_line(event), ensure_ascii=False) if as_json else f"{when(event)}  {words(event)}"
