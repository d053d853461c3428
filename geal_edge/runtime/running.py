"""What changes with every frame that a spool counts, and is stored together: counters, cursors, time line, events, verdicts, what
gates remember, and which files may be unlinked.

It is stored with the transaction of a decision, or by itself at most half a minute later (FLUSH_S in spool.py). A decision that
found no room on the disk is taken back with the state from before it (`copied`).
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import geal_edge
from geal_edge.runtime.frame import LATE, TOO_LATE, Frame, LostFrame
from geal_edge.runtime.gates import HELD_BACK, LookedAt, store_gates
from geal_edge.runtime.pressure import DISK_QUOTA
from geal_edge.runtime.spooldb import read_timeline, write_timeline
from geal_edge.runtime.units import JudgedUnit
from geal_edge.runtime.vehicletime import Moment
from geal_edge.runtime.verdicts import Verdict, write_verdicts

MAX_EVENTS = 10_000
LATE_EVENT_S = 60.0
"""A camera whose frames come too fast is one event in so many seconds; each frame is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceState:
    """How far a source has been counted. cursor = last frame_index counted, -1 for none."""

    cursor: int
    finished: bool


class RunningState:
    """Begins with what a spool has stored; `write` stores it.

    monotonic  seconds, by which events of one kind are kept apart
    wall_ns    when an event was, as recorded
    now        whether that clock was set
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        *,
        monotonic: Callable[[], float],
        wall_ns: Callable[[], int],
        now: Callable[[], Moment],
    ) -> None:
        self.counters: Counter[str] = Counter(dict(db.execute("SELECT name, n FROM counters")))
        self.sources = {
            name: SourceState(cursor=cursor, finished=bool(finished))
            for name, cursor, finished in db.execute("SELECT name, cursor, finished FROM sources")
        }
        self.timeline = read_timeline(db)
        self.events: list[tuple[str, int, str, str]] = []
        self.tombstones: list[tuple[int, str]] = []
        """(frame, file) of frames whose row is marked; the next transaction takes the mark away."""
        self.context_gone: list[str] = []
        self.unstored = 0
        """Frames counted since the last transaction."""
        self._monotonic = monotonic
        self._wall_ns = wall_ns
        self._now = now
        self._dirty_counters: set[str] = set()
        self._dirty_sources: set[str] = set()
        self._verdicts: list[Verdict] = []
        self._looked_at: dict[tuple[str, str | None], LookedAt] = {}
        self._late: dict[tuple[str, str | None, str], float] = {}
        self._gated: dict[tuple[str, str | None], str] = {}
        """(source, topic) -> why its last frame was held back."""

    def copied(self) -> "RunningState":
        """The same, for itself."""
        other = copy(self)
        other.timeline = self.timeline.copied()
        for name, value in vars(self).items():
            if isinstance(value, dict | set | list):
                setattr(other, name, copy(value))
        return other

    @property
    def lost(self) -> int:
        """Frames lost so far, of all sources and reasons."""
        return sum(n for name, n in self.counters.items() if name.startswith("lost:"))

    @property
    def late(self) -> int:
        """Those of live sources that nobody could look at in time."""
        return sum(self.counters[f"lost:{reason}"] for reason in TOO_LATE)

    def count(self, name: str, n: int = 1) -> None:
        if n:
            self.counters[name] += n
            self._dirty_counters.add(name)

    def count_seen(self, unit: JudgedUnit) -> None:
        """Count all frames of a unit as seen, and the lost and gated ones as such. Nothing may flush before the rest is
        counted. A stretch of frames of one camera that are gated for one reason is one event: a night must not push all
        other events out."""
        source, cursor = unit.cursor
        count = len(unit.frames) + len(unit.lost) + len(unit.gated)
        self.count("seen", count)
        self.unstored += count
        self.move(source, SourceState(cursor=cursor, finished=False))
        for item, error in unit.lost:
            self.count(f"lost:{error.reason}")
            self.judge(item, "lost", reason=error.reason, detail=error.detail)
            self.timeline.add(lost=True)
            # That there is no room is one event, `disk_full`.
            is_news = error.reason not in LATE or self._is_news(item, error.reason)
            if is_news and error.reason != DISK_QUOTA:
                self.event("frame_lost", id=item.id, reason=error.reason, detail=error.detail)
            self._gated.pop((item.source, item.topic), None)
        for item, gate in unit.gated:
            self.count(f"gated:{gate.reason}")
            self.judge(item, "gated", reason=gate.reason, detail=gate.detail)
            self.timeline.add(lost=True)
            if self._gated.get((item.source, item.topic)) != gate.reason and self._is_worth_an_event(item, gate.reason):
                self.event("frames_gated", id=item.id, reason=gate.reason)
            self._gated[item.source, item.topic] = gate.reason
        for judged in unit.frames:
            self._gated.pop((judged.frame.source, judged.frame.topic), None)

    def move(self, source: str, state: SourceState) -> None:
        """A recorded source was counted so far."""
        self.sources[source] = state
        self._dirty_sources.add(source)

    def judge(self, item: Frame | LostFrame, state: str, **why: Any) -> None:
        """What became of a frame that is not retained."""
        self._verdicts.append(Verdict(id=item.id, state=state, capture_time_ns=item.capture_time_ns, **why))

    def note_looked_at(self, source: str, camera: str | None, looked_at: LookedAt) -> None:
        """What the gates remember of a frame."""
        self._looked_at[source, camera] = looked_at

    def event(self, name: str, **detail: Any) -> None:
        """Something that a person may ask about."""
        detailed = json.dumps({**detail, **self._now().doubt()}, ensure_ascii=False)
        self.events.append((name, self._wall_ns(), geal_edge.__version__, detailed))

    def write(self, db: sqlite3.Connection) -> None:
        """Within a transaction of the spool."""
        db.executemany(
            "INSERT OR REPLACE INTO counters VALUES (?, ?)",
            [(name, self.counters[name]) for name in sorted(self._dirty_counters)],
        )
        self._dirty_counters.clear()
        for name in sorted(self._dirty_sources):
            state = self.sources[name]
            db.execute(
                "UPDATE sources SET cursor = ?, finished = ? WHERE name = ?", (state.cursor, state.finished, name)
            )
        self._dirty_sources.clear()
        write_timeline(db, self.timeline)
        write_verdicts(db, self._verdicts)
        self._verdicts = []
        store_gates(db, self._looked_at)
        self._looked_at = {}
        if self.tombstones:
            db.executemany("UPDATE frames SET file = NULL WHERE frame = ?", [(frame,) for frame, _ in self.tombstones])
            self.tombstones = []
        if self.events:
            db.executemany("INSERT INTO events VALUES (NULL, ?, ?, ?, ?)", self.events)
            db.execute("DELETE FROM events WHERE event <= (SELECT max(event) FROM events) - ?", (MAX_EVENTS,))
            self.events = []
        self.unstored = 0

    def _is_worth_an_event(self, item: Frame | LostFrame, reason: str) -> bool:
        """What gates hold back may come and go with every other frame, and `too_soon` always does: a rate, and no event."""
        return reason != "too_soon" and (reason not in HELD_BACK or self._is_news(item, reason))

    def _is_news(self, item: Frame | LostFrame, reason: str) -> bool:
        """Whether it is some time since a camera lost frames for this reason: a slow day must not push all other events out."""
        key, now = (item.source, item.topic, reason), self._monotonic()
        is_news = now - self._late.get(key, -LATE_EVENT_S) >= LATE_EVENT_S
        if is_news:
            self._late[key] = now
        return is_news
