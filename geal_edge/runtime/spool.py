"""The spool: what a vehicle has decided, safe against a power cut at any moment. This file writes; spoolview.py reads.

On disk (mode 0700):

    SPOOL/
      spool.db            SQLite (WAL, synchronous=FULL): the only truth
      frames/00000001.jpg the retained frames, named by their unit's number, which is never used twice
      lock                held by the one writer while it lives

spool.db, schema 1:

    meta      key -> value: schema, producer, bundle digest, feature space, preset, grid, untrained, guard (where it is on)
    rounds    round, open, budget, max_retained, release
    units     unit (the number), round, state, levels, squared_novelty, radius, witness, nearest, evicted_by
    frames    frame, unit, id, source, frame_index, capture_time_ns, stored_ns, file, bytes, sha256, clusters, patch map
    deaths    round, level, natural, unit (the first unit not in it): levels that ended; the ladder starts without them
    counters  name -> n: seen, not_new, evicted, lost:<reason>, gated:<reason>
    sources   name, kind, fingerprint, fps, cursor (last frame_index counted), finished, first_seen
    timeline  bucket -> frames, retained, lost, novelty, radius;   events: name, wall time, version, detail (newest 10,000)

How a retained frame becomes safe: its bytes go to a temporary name, fsync, rename, fsync of the folder; then one transaction
stores its row, clusters, levels, the levels that died, the units that these evict, counters, the source's cursor and the
time line. A frame that changes nothing writes nothing: counters, cursor and time line are flushed together, every few seconds
and with the next transaction.

Eviction: the row is marked (state `evicted`, its `file` still named: the tombstone) in the transaction of the decision that
caused it; then the file is unlinked; then, with the next transaction, the tombstone is removed (`file` NULL).

Recovery, when a writer opens: (1) tombstones are finished; (2) files that bear our naming and have no retained row, and
temporary files of ours, are deleted with an event: their transaction never happened, and a recorded source will show the
frame again; (3) other names are foreign: reported, never touched; (4) the ladder is built from rows and deaths. It is never
fed old frames again: what it learned is what the rows say. A recorded source goes on after its cursor. Because every change
of state is committed together with the cursor behind it, the result is that of one uninterrupted run.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

import geal_edge
from geal_edge.errors import (
    FeatureSpaceMismatch,
    FrameError,
    FrameGated,
    Interrupted,
    SourceClash,
    SpoolDamaged,
    SpoolMismatch,
)
from geal_edge.runtime import durable
from geal_edge.runtime.frame import Frame, LostFrame
from geal_edge.runtime.imagefile import Encoding, stored_form
from geal_edge.runtime.ladder import Decision, Ladder
from geal_edge.runtime.sources import Source
from geal_edge.runtime.spooldb import (
    DATABASE,
    FRAMES,
    LOCK,
    OWN_FILE,
    SCHEMA,
    TABLES,
    connection,
    database_errors,
    is_created,
    read_ladder,
    read_timeline,
    require_schema,
    require_spool_or_empty,
    write_timeline,
)

FLUSH_S = 5.0
MAX_EVENTS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolSettings:
    """What a spool is filled with; all of it must be the same whenever it is opened for writing again.

    bundle         digest of the bundle
    feature_space  the id under which its clusters may be compared
    preset         its name
    grid           (rows, columns) of patches
    budget         selected units at most, in all for a spool of recorded sources
    guard          whether broken and fleeting frames are gated
    """

    bundle: str
    feature_space: str
    preset: str
    grid: tuple[int, int]
    untrained: bool
    budget: int
    guard: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceState:
    """How far a source has been counted. cursor = last frame_index counted, -1 for none."""

    cursor: int
    finished: bool


class Spool:
    """The one writer of a spool. Use it as a context manager.

    Leaving it flushes, unless an error ended the block: then what was stored last stands, and a recorded source shows the
    frames after it again.

    Raises SpoolLocked, SpoolMismatch, FeatureSpaceMismatch, SpoolDamaged, SpoolError or StorageError when it is opened.
    `monotonic` (seconds) paces the flushes; `wall_ns` is recorded and never trusted.
    """

    def __init__(
        self,
        path: Path,
        settings: SpoolSettings,
        *,
        encoding: Encoding = "jpg",
        monotonic: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.path = path
        self.settings = settings
        self._encoding = encoding
        self._monotonic = monotonic
        self._wall_ns = wall_ns
        self._resources = ExitStack()

    # -- opening and closing -------------------------------------------------------------------------------------------

    def __enter__(self) -> "Spool":
        with self._resources:
            require_spool_or_empty(self.path)
            durable.make_folder(self.path, mode=0o700)
            durable.make_folder(self.path / FRAMES, mode=0o700)
            self._resources.enter_context(durable.exclusive_lock(self.path / LOCK, f"{self.path}"))
            self._db = self._resources.enter_context(connection(self.path / DATABASE))
            self._create_or_match()
            self._load_running_state()
            self._recover()
            self._resources = self._resources.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._resources:
            # Anything else may have come in the middle of an append, with a frame counted whose decision is not stored.
            if error is None or isinstance(error, Interrupted):
                self.flush()

    def _create_or_match(self) -> None:
        wanted = {
            "schema": SCHEMA,
            "bundle": self.settings.bundle,
            "feature_space": self.settings.feature_space,
            "preset": self.settings.preset,
            "grid": json.dumps(self.settings.grid),
            "untrained": json.dumps(self.settings.untrained),
            **({"guard": "true"} if self.settings.guard else {}),
        }
        if not is_created(self._db):
            self._require_no_frames()
            with self._transaction():
                for statement in TABLES.split(";")[:-1]:
                    self._db.execute(statement)
                rows = {**wanted, "producer": f"geal-edge {geal_edge.__version__}"}
                self._db.executemany("INSERT INTO meta VALUES (?, ?)", rows.items())
                self._db.execute(
                    "INSERT INTO rounds VALUES (1, 1, ?, ?, 'round_end')",
                    (self.settings.budget, Ladder(capacity=self.settings.budget).max_retained),
                )
            durable.sync_folder(self.path)
        found = dict(self._db.execute("SELECT key, value FROM meta"))
        require_schema(self.path, found.get("schema"))
        if found["feature_space"] != wanted["feature_space"]:
            raise FeatureSpaceMismatch(
                f"{self.path}: holds clusters of feature space {found['feature_space']}, the bundle makes "
                f"{wanted['feature_space']}. They cannot be compared: use the old bundle, or another --spool."
            )
        if found["bundle"] != wanted["bundle"]:
            raise SpoolMismatch(
                f"{self.path}: was filled with bundle {found['bundle'][:19]}, this one is {wanted['bundle'][:19]}. "
                "Use the same bundle, or another --spool."
            )
        if ("guard" in found) != self.settings.guard:
            raise SpoolMismatch(
                f"{self.path}: was begun {'with' if 'guard' in found else 'without'} --guard. "
                "Go on in the same way, or use another --spool."
            )
        self.round, budget = self._db.execute(
            "SELECT round, budget FROM rounds WHERE open ORDER BY round DESC LIMIT 1"
        ).fetchone()
        if budget != self.settings.budget:
            raise SpoolMismatch(
                f"{self.path}: its budget is {budget}, not {self.settings.budget}. "
                f"Its round is open: go on with --budget {budget}, or use another --spool."
            )

    def _require_no_frames(self) -> None:
        """No frame is ever written before the tables stand: frames without them are a spool that lost its database."""
        frames = [entry.name for entry in (self.path / FRAMES).iterdir() if OWN_FILE.fullmatch(entry.name)]
        if frames:
            raise SpoolDamaged(
                f"{self.path}: has {len(frames)} stored frames (such as {sorted(frames)[0]}), but its {DATABASE} is lost. "
                "Nothing was touched: save the frames, then choose another --spool."
            )

    def _load_running_state(self) -> None:
        self._counters: Counter[str] = Counter(dict(self._db.execute("SELECT name, n FROM counters")))
        self._dirty_counters: set[str] = set()
        self._sources = {
            name: SourceState(cursor=cursor, finished=bool(finished))
            for name, cursor, finished in self._db.execute("SELECT name, cursor, finished FROM sources")
        }
        self._dirty_sources: set[str] = set()
        self.timeline = read_timeline(self._db)
        self._new_events: list[tuple[str, int, str, str]] = []
        self._tombstones: list[tuple[int, str]] = []
        self._flushed_at = self._monotonic()
        self._gated_last: tuple[str, int, str] | None = None  # source, frames seen then, reason

    def _recover(self) -> None:
        self._tombstones = list(
            self._db.execute(
                "SELECT frame, file FROM frames JOIN units USING (unit) WHERE state = 'evicted' AND file IS NOT NULL"
            )
        )
        self._unlink_tombstones()
        retained = {file for (file,) in self._db.execute("SELECT file FROM frames WHERE file IS NOT NULL")}
        evicted = {file for _, file in self._tombstones}
        folder = self.path / FRAMES
        present = {entry.name for entry in folder.iterdir()}
        for name in sorted(present - retained):
            if OWN_FILE.fullmatch(name) and (folder / name).is_file():
                durable.remove_file(folder / name)
                self.event("orphan_removed", file=name)
            else:
                self.event("foreign_file", file=name)
        for name in sorted(retained - evicted - present):
            self.event("frame_file_missing", file=name)
        self.flush()

    # -- what it knows -------------------------------------------------------------------------------------------------

    def ladder(self) -> Ladder:
        """The selector of the open round, exactly as it was after the last decision that is on disk."""
        return read_ladder(self._db, self.round)

    @property
    def lost(self) -> int:
        """Frames lost so far, of all sources and reasons."""
        return sum(n for name, n in self._counters.items() if name.startswith("lost:"))

    # -- what it is told -----------------------------------------------------------------------------------------------

    def require_own_name(self, source: Source, *, others: Sequence[Source] = ()) -> None:
        """Raise SourceClash where another source, in this spool or among `others`, has the name already."""
        identity = (source.kind, source.fingerprint())
        row = self._db.execute("SELECT kind, fingerprint, spec FROM sources WHERE name = ?", (source.name,)).fetchone()
        rivals = [
            (other.kind, other.fingerprint(), other.spec)
            for other in others
            if other is not source and other.name == source.name
        ]
        for kind, fingerprint, spec in [row] * (row is not None) + rivals:
            if (kind, fingerprint) != identity:
                raise SourceClash(
                    f"{source.spec}: another source is named {source.name!r} ({spec}), or this one's content has changed "
                    "since it was first read. Give this one a name of its own with --name."
                )

    def begin_source(self, source: Source, *, again: bool = False) -> SourceState:
        """Register a source, or find it again; returns how far it has been counted.

        `again` starts one anew that was read to its end; an unfinished one goes on. Raises SourceClash where another
        source has the name already, or SpoolMismatch where the same one was begun with another --fps.
        """
        self.require_own_name(source)
        name = source.name
        row = self._db.execute("SELECT fps FROM sources WHERE name = ?", (name,)).fetchone()
        if row is not None and row[0] != source.fps and not self._sources[name].finished:
            raise SpoolMismatch(
                f"{source.spec}: was begun with {_fps_words(row[0])} and is not finished. "
                f"Go on with {_fps_words(row[0])}, or use another --spool."
            )
        if row is None or (again and self._sources[name].finished):
            with self._transaction():
                self._db.execute(
                    "INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?, ?, -1, 0, ?)",
                    (name, source.spec, source.kind, source.fingerprint(), source.fps, self._counters["seen"]),
                )
            self._sources[name] = SourceState(cursor=-1, finished=False)
        return self._sources[name]

    def append(self, frame: Frame, decision: Decision) -> None:
        """Make a decision durable, with the frame's bytes where it retains them. An empty decision writes nothing now.

        Raises StorageError: then the decision must not be learned; the next writer finds all of it done or nothing.
        """
        data, ending = stored_form(frame, self._encoding) if decision.retain else (b"", "")
        self._count_seen(frame.source, frame.frame_index)
        self._count("not_new", 0 if decision.retain else 1)
        self._count("evicted", len(decision.evicted))
        self.timeline.add(novelty=decision.novelty, radius=decision.radius, retained=decision.retain)
        if decision.empty:
            self._flush_when_due()
            return
        file = f"{decision.unit:08d}.{ending}"
        if decision.retain:
            durable.write_file(self.path / FRAMES / file, data)
        evicted: list[tuple[int, str]] = []
        evicted_ids: list[str] = []
        with self._transaction():
            if decision.retain:
                self._insert_unit(frame, decision, file, data)
            self._db.executemany(
                "INSERT INTO deaths VALUES (NULL, ?, ?, ?, ?)",
                [(self.round, death.level, death.natural, decision.unit) for death in decision.deaths],
            )
            for unit in decision.evicted:
                self._db.execute(
                    "UPDATE units SET state = 'evicted', levels = NULL, evicted_by = ? WHERE unit = ?", (frame.id, unit)
                )
                for number, name, id_ in self._db.execute("SELECT frame, file, id FROM frames WHERE unit = ?", (unit,)):
                    evicted.append((number, name))
                    evicted_ids.append(id_)
                self._db.execute("UPDATE frames SET clusters = NULL, patch_cluster = NULL WHERE unit = ?", (unit,))
            self._note_consequences(frame, decision, evicted_ids)
            self._write_running_state()
        self._tombstones = evicted
        self._unlink_tombstones()

    def lose(self, frame: Frame | LostFrame, error: FrameError) -> None:
        """Count a frame that no decision saw, with its reason."""
        self._count_seen(frame.source, frame.frame_index)
        self._count(f"lost:{error.reason}")
        self.timeline.add(lost=True)
        self.event("frame_lost", id=frame.id, reason=error.reason, detail=error.detail)
        self._flush_when_due()

    def gate(self, frame: Frame | LostFrame, gate: FrameGated) -> None:
        """Count a frame that a gate held back, with its reason. A stretch of them is one event: a night must not push all
        other events out."""
        if (frame.source, self._counters["seen"], gate.reason) != self._gated_last:
            self.event("frames_gated", id=frame.id, reason=gate.reason)
        self._count_seen(frame.source, frame.frame_index)
        self._count(f"gated:{gate.reason}")
        self._gated_last = (frame.source, self._counters["seen"], gate.reason)
        self.timeline.add(lost=True)
        self._flush_when_due()

    def finish_source(self, name: str) -> None:
        """Note that a recorded source was read to its end."""
        self._sources[name] = SourceState(cursor=self._sources[name].cursor, finished=True)
        self._dirty_sources.add(name)
        self.flush()

    def event(self, name: str, **detail: Any) -> None:
        """Note something that a person may ask about; stored with the next transaction."""
        detailed = json.dumps(detail, ensure_ascii=False)
        self._new_events.append((name, self._wall_ns(), geal_edge.__version__, detailed))

    def flush(self) -> None:
        """Store counters, cursors, time line and events now."""
        with self._transaction():
            self._write_running_state()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _count(self, name: str, n: int = 1) -> None:
        if n:
            self._counters[name] += n
            self._dirty_counters.add(name)

    def _count_seen(self, source: str, frame_index: int) -> None:
        self._count("seen")
        self._sources[source] = SourceState(cursor=frame_index, finished=False)
        self._dirty_sources.add(source)

    def _insert_unit(self, frame: Frame, decision: Decision, file: str, data: bytes) -> None:
        self._db.execute(
            "INSERT INTO units VALUES (?, ?, 'retained', ?, ?, ?, ?, ?, NULL)",
            (
                decision.unit,
                self.round,
                np.array(decision.levels, "<u2").tobytes(),
                decision.squared_novelty,
                decision.radius,
                decision.witness,
                decision.nearest,
            ),
        )
        rows = decision.clusters.rows
        self._db.execute(
            "INSERT INTO frames VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                decision.unit,
                frame.id,
                frame.source,
                frame.frame_index,
                frame.capture_time_ns,
                self._wall_ns(),
                file,
                len(data),
                sha256(data).hexdigest(),
                rows.astype("<f2").tobytes(),
                len(rows),
                decision.clusters.patch_cluster.astype("<i2").tobytes(),
            ),
        )

    def _note_consequences(self, frame: Frame, decision: Decision, evicted: list[str]) -> None:
        """Deleting unsent data, and giving up a radius under pressure, are decisions: each is an event."""
        pressed = [death.level for death in decision.deaths if not death.natural]
        if pressed:
            self.event("radius_raised", cause="max_retained", levels=pressed, by=frame.id)
        if evicted:
            self.event("units_evicted", units=evicted, by=frame.id)

    def _flush_when_due(self) -> None:
        if self._monotonic() - self._flushed_at >= FLUSH_S:
            self.flush()

    def _write_running_state(self) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO counters VALUES (?, ?)",
            [(name, self._counters[name]) for name in sorted(self._dirty_counters)],
        )
        self._dirty_counters.clear()
        for name in sorted(self._dirty_sources):
            state = self._sources[name]
            self._db.execute(
                "UPDATE sources SET cursor = ?, finished = ? WHERE name = ?", (state.cursor, state.finished, name)
            )
        self._dirty_sources.clear()
        write_timeline(self._db, self.timeline)
        if self._tombstones:
            self._db.executemany("UPDATE frames SET file = NULL WHERE frame = ?", [(f,) for f, _ in self._tombstones])
            self._tombstones = []
        if self._new_events:
            self._db.executemany("INSERT INTO events VALUES (NULL, ?, ?, ?, ?)", self._new_events)
            self._db.execute("DELETE FROM events WHERE event <= (SELECT max(event) FROM events) - ?", (MAX_EVENTS,))
            self._new_events = []
        self._flushed_at = self._monotonic()

    def _unlink_tombstones(self) -> None:
        for _, file in self._tombstones:
            durable.remove_file(self.path / FRAMES / file)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; what the disk or SQLite refuses becomes one of our errors."""
        with database_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def _fps_words(fps: float | None) -> str:
    return "no --fps" if fps is None else f"--fps {fps:g}"
