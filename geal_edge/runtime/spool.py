"""The spool: what a vehicle has decided, safe against a power cut at any moment. This file writes; spoolview.py reads.

On disk (mode 0700):

    SPOOL/
      spool.db            SQLite (WAL, synchronous=FULL): the only truth
      frames/00000001.jpg the retained frames, named by their unit's number, which is never used twice; the further frames of a
                          unit are 00000001-1.jpg, 00000001-2.jpg, ...
      memory/<space>      what was released and what is known, by feature space (memoryfile.py)
      lock                held by the one writer while it lives

spool.db, schema 2:

    meta      key -> value: schema, producer, bundle digest, feature space, preset, grid, untrained; group_s and guard where
              given
    rounds    round, open, budget, max_retained, release rule, length_s, elapsed_s, price (of `immediate`)
    units     unit (the number), round, state, levels, squared_novelty, radius, witness, nearest, evicted_by; once released:
              its place in the order of its round, and the distance and witness by which it came there
    frames    frame, unit, id, source, frame_index, capture_time_ns, stored_ns, file, bytes, sha256, clusters, patch map
    deaths    round, level, natural, unit (the first unit not in it): levels that ended; the ladder starts without them
    counters  name -> n: seen, not_new, evicted, lost:<reason>, gated:<reason>
    sources   name, kind, fingerprint, fps, cursor (last frame_index counted), finished, first_seen
    timeline  bucket -> frames, retained, lost, novelty, radius;   events: name, wall time, version, detail (newest 10,000)

How a retained unit becomes safe: the bytes of each of its frames go to a temporary name, fsync, rename, fsync of the folder;
then one transaction stores its rows, clusters, levels, the levels that died, the units that these evict, counters, the
source's cursor and the time line. A unit that changes nothing writes nothing: counters, cursor and time line are flushed
together, every few seconds and with the next transaction. The cursor only ever stands behind a whole unit.

Eviction: the row is marked (state `evicted`, its `file` still named: the tombstone) in the transaction of the decision that
caused it; then the file is unlinked; then, with the next transaction, the tombstone is removed (`file` NULL).

Release: one transaction makes units final, in the selected order. The end of a round releases all that is selected, evicts the
rest and closes the round; then the memory is written with what the round released; then the next round is opened. Whoever
finds no open round does what is left of this; a memory names the last round that it has, and takes none twice.

Recovery, when a writer opens: (1) tombstones are finished; (2) files that bear our naming and have no retained row, and
temporary files of ours, are deleted with an event: their transaction never happened, and a recorded source will show the
frame again; (3) other names are foreign: reported, never touched; (4) the ladder is built from rows and deaths. It is never
fed old frames again: what it learned is what the rows say. A recorded source goes on after its cursor. Because every change
of state is committed together with the cursor behind it, the result is that of one uninterrupted run.

Tested by cutting the power at every system call of short drives (tests/powerloss): what was not synced is then there, gone or
torn, SQLite's own files included; and by taking out every sync once, which must be missed.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

import geal_edge
from geal_edge.config import GuardKind
from geal_edge.errors import (
    EngineStopped,
    FeatureSpaceMismatch,
    Interrupted,
    SourceClash,
    SpoolDamaged,
    SpoolMismatch,
)
from geal_edge.runtime import durable
from geal_edge.runtime.clusters import KnowledgeClusters
from geal_edge.runtime.imagefile import Encoding, stored_form
from geal_edge.runtime.ladder import Death, Decision, Ladder, Release
from geal_edge.runtime.memory import Entry, Memory, remember
from geal_edge.runtime.memoryfile import read_memory, write_memory
from geal_edge.runtime.migration import Encode, EncodedAnew, Judgement, encoded_anew, judged_anew
from geal_edge.runtime.release import Price, ReleaseRule
from geal_edge.runtime.sources import Source
from geal_edge.runtime.spooldb import (
    DATABASE,
    FRAMES,
    LOCK,
    MIGRATION,
    OWN_FILE,
    ROUND_END,
    SCHEMA,
    TABLES,
    connection,
    database_errors,
    is_created,
    memory_path,
    next_unit,
    read_base,
    read_ladder,
    read_timeline,
    require_schema,
    require_spool_or_empty,
    write_timeline,
)
from geal_edge.runtime.units import JudgedFrame, JudgedUnit

FLUSH_S = 5.0
MAX_EVENTS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolSettings:
    """What a spool is filled with; all of it must be the same whenever it is opened for writing again.

    bundle         digest of the bundle
    feature_space  the id under which its clusters may be compared
    preset         its name
    grid           (rows, columns) of patches
    budget         selected units at most, per round; in all for a spool of recorded sources
    release        when selected units become final (release.py); recorded sources: at the end of their one round
    length_s       how long a round lasts, in seconds of the clock that rounds run on; None: until it is ended
    group_s        the tolerance that forms units, in seconds (units.py); None: every frame is a unit
    guard          which frames are gated (guard.py); None: none
    """

    bundle: str
    feature_space: str
    preset: str
    grid: tuple[int, int]
    untrained: bool
    budget: int
    release: ReleaseRule = "round_end"
    length_s: float | None = None
    group_s: float | None = None
    guard: GuardKind | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundState:
    """The open round, beside its units.

    elapsed_s  of its length
    price      of the release rule `immediate`, else None
    certified  False once its units were taken over from another feature space: what was not retained was never seen in this one
    """

    number: int
    elapsed_s: float
    price: Price | None
    certified: bool


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
    `encode` looks at a stored picture with the bundle of the settings: with it a spool of another feature space is taken over
    (migration.py) instead of refused, as on a vehicle that got a new bundle.
    `monotonic` (seconds) paces the flushes; `wall_ns` is recorded and never trusted.
    """

    def __init__(
        self,
        path: Path,
        settings: SpoolSettings,
        *,
        encoding: Encoding = "jpg",
        encode: Encode | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.path = path
        self.settings = settings
        self._encoding = encoding
        self._encode = encode
        self.round: RoundState
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
            # Anything else may have come in the middle of an append, with a frame counted whose decision is not stored: an
            # engine stops before anything of its frame is counted.
            if error is None or isinstance(error, Interrupted | EngineStopped):
                self.flush()

    def _create_or_match(self) -> None:
        wanted = {
            "schema": SCHEMA,
            "bundle": self.settings.bundle,
            "feature_space": self.settings.feature_space,
            "preset": self.settings.preset,
            "grid": json.dumps(self.settings.grid),
            "untrained": json.dumps(self.settings.untrained),
        }
        if self.settings.group_s is not None:
            wanted["group_s"] = json.dumps(float(self.settings.group_s))
        if self.settings.guard is not None:
            wanted["guard"] = self.settings.guard
        if not is_created(self._db):
            self._require_no_frames()
            with self._transaction():
                for statement in TABLES.split(";")[:-1]:
                    self._db.execute(statement)
                rows = {**wanted, "producer": f"geal-edge {geal_edge.__version__}"}
                self._db.executemany("INSERT INTO meta VALUES (?, ?)", rows.items())
                self._open_round(
                    1
                )  # the database's name is safe with it: SQLite syncs the folder of a new journal itself
        found = dict(self._db.execute("SELECT key, value FROM meta"))
        require_schema(self.path, found.get("schema"))
        self._require_same_settings(found, wanted)
        if found["feature_space"] != wanted["feature_space"]:
            if self._encode is None:
                raise FeatureSpaceMismatch(
                    f"{self.path}: holds clusters of feature space {found['feature_space']}, the bundle makes "
                    f"{wanted['feature_space']}. They cannot be compared: use the old bundle, or another --spool."
                )
            self._migrate(found, wanted, self._encode)
        elif found["bundle"] != wanted["bundle"]:
            if self._encode is None:
                raise SpoolMismatch(
                    f"{self.path}: was filled with bundle {found['bundle'][:19]}, this one is {wanted['bundle'][:19]}. "
                    "Use the same bundle, or another --spool."
                )
            self._load_running_state()
            self.event("bundle_changed", was=found["bundle"], now=wanted["bundle"])
            with self._transaction():
                self._store_bundle(wanted)
                self._write_running_state()

    def _require_same_settings(self, found: dict[str, str], wanted: dict[str, str]) -> None:
        """Raise SpoolMismatch for settings that a spool keeps for ever, and those of its open round; finds that round."""
        if found.get("group_s") != wanted.get("group_s"):
            was, now = (_group_words(meta.get("group_s")) for meta in (found, wanted))
            raise SpoolMismatch(
                f"{self.path}: its units were formed with {was}, now it is {now}. Its budget counts such units: "
                f"go on with {was}, or use another --spool."
            )
        if found.get("guard") != wanted.get("guard"):
            was, now = (_guard_words(meta.get("guard")) for meta in (found, wanted))
            raise SpoolMismatch(
                f"{self.path}: its frames were judged with {was}, now it is {now}. Go on with {was}, or use another --spool."
            )
        if self._db.execute("SELECT 1 FROM rounds WHERE open").fetchone() is None:
            self._begin_next_round(found["feature_space"])
        budget, release, length_s = self._load_round()
        if budget != self.settings.budget:
            raise SpoolMismatch(
                f"{self.path}: its budget is {budget}, not {self.settings.budget}. "
                f"Its round is open: go on with --budget {budget}, or use another --spool."
            )
        if (release, length_s) != (self.settings.release, self.settings.length_s):
            raise SpoolMismatch(
                f"{self.path}: its round is open and releases by {_rule_words(release, length_s)}, not by "
                f"{_rule_words(self.settings.release, self.settings.length_s)}. Go on as it was, or use another --spool."
            )

    def _store_bundle(self, wanted: dict[str, str]) -> None:
        keys = ("bundle", "feature_space", "preset", "grid", "untrained")
        self._db.executemany("UPDATE meta SET value = ? WHERE key = ?", [(wanted[key], key) for key in keys])

    def _migrate(self, found: dict[str, str], wanted: dict[str, str], encode: Encode) -> None:
        """Take the spool over into the feature space of the settings (migration.py)."""
        self._load_running_state()
        anew = list(encoded_anew(self._db, self.path, encode))
        units = [unit for unit in anew if isinstance(unit, EncodedAnew)]
        earlier = [unit for unit in units if unit.state == "released" and unit.round != self.round.number]
        # Before the transaction: should it never come, what was remembered is true all the same.
        self.remember([entry for unit in earlier for entry in unit.entries(f"{self.path.name}, round {unit.round}")])
        judgement = judged_anew(
            units,
            unreadable=[unit for unit in anew if isinstance(unit, int)],
            round_number=self.round.number,
            capacity=self.settings.budget,
            base=read_base(self.path, self.settings.feature_space),
        )
        # What was not retained is gone, so nobody can say how near to it the new clusters are.
        price = None if self.round.price is None else Price(progress=self.round.price.progress)
        self.round = replace(self.round, price=price, certified=False)
        with self._transaction():
            self._store_bundle(wanted)
            self._store_anew(units)
            self._store_judgement(judgement)
            evicted = self._evict(judgement.evicted, by=MIGRATION)
            names = {"from_space": found["feature_space"], "to_space": wanted["feature_space"]}
            self.event("feature_space_changed", **names, encoded=len(units), evicted=[id_ for _, _, id_ in evicted])
            self._write_running_state()
        self._unlink(evicted)

    def _store_anew(self, units: Sequence[EncodedAnew]) -> None:
        self._db.executemany(
            "UPDATE frames SET clusters = ?, cluster_count = ?, patch_cluster = ? WHERE frame = ?",
            [
                (*_cluster_columns(clusters), number)
                for unit in units
                for (number, _, _), clusters in zip(unit.frames, unit.clusters, strict=True)
            ],
        )
        # The distances and witnesses by which units were released belong to the old space.
        self._db.execute("UPDATE units SET released_squared = NULL, released_witness = NULL WHERE state = 'released'")

    def _store_judgement(self, judgement: Judgement) -> None:
        self._db.execute("DELETE FROM deaths WHERE round = ?", (self.round.number,))
        self._insert_deaths(judgement.deaths, before=next_unit(self._db))
        self._db.execute("UPDATE units SET levels = x'' WHERE state = 'released' AND round = ?", (self.round.number,))
        self._db.executemany(
            "UPDATE units SET levels = ?, squared_novelty = ?, radius = ?, witness = ?, nearest = ? WHERE unit = ?",
            [
                (np.array(judgement.levels[unit], "<u2").tobytes(), *_reasons(decision), unit)
                for unit, decision in judgement.decisions.items()
            ],
        )

    def _load_round(self) -> tuple[int, str, float | None]:
        number, budget, release, length_s, elapsed_s, price, certified = self._db.execute(
            "SELECT round, budget, release, length_s, elapsed_s, price, certified FROM rounds WHERE open"
        ).fetchone()
        self.round = RoundState(
            number=number,
            elapsed_s=elapsed_s,
            price=None if price is None else Price(**json.loads(price)),
            certified=bool(certified),
        )
        return budget, release, length_s

    def _open_round(self, number: int) -> None:
        budget, release = self.settings.budget, self.settings.release
        price = json.dumps(Price().as_dict()) if release == "immediate" else None
        self._db.execute(
            "INSERT INTO rounds VALUES (?, 1, ?, ?, ?, ?, 0.0, ?, 1)",
            (number, budget, Ladder(capacity=budget).max_retained, release, self.settings.length_s, price),
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
        self._gated: dict[tuple[str, str | None], str] = {}  # (source, topic) -> why its last frame was held back

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
        return read_ladder(self._db, self.round.number, read_base(self.path, self.settings.feature_space))

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

    def append(self, unit: JudgedUnit, decision: Decision) -> None:
        """Make a decision durable, with the frames' bytes where it retains them. An empty decision writes nothing now.

        Raises StorageError: then the decision must not be learned; the next writer finds all of it done or nothing.
        """
        stored: list[_Stored] = []
        if decision.retain:
            for place, judged in enumerate(unit.frames):
                data, ending = stored_form(judged.frame, self._encoding)
                stored.append(_Stored(judged, f"{decision.unit:08d}{f'-{place}' if place else ''}.{ending}", data))
        self._count_seen(unit)
        self._count("not_new", 0 if decision.retain else len(unit.frames))
        for place in range(len(unit.frames)):
            # The report finds a unit on the time line by counting those that were retained: one for all its frames.
            retained = decision.retain and place == 0
            self.timeline.add(novelty=decision.novelty, radius=decision.radius, retained=retained)
        if decision.empty:
            self._flush_when_due()
            return
        for frame in stored:
            durable.write_file(self.path / FRAMES / frame.file, frame.data)
        with self._transaction():
            if decision.retain:
                self._insert_unit(decision, stored)
            self._insert_deaths(decision.deaths, before=decision.unit)
            evicted = self._evict(decision.evicted, by=unit.id)
            pressed = [death.level for death in decision.deaths if not death.natural]
            if pressed:
                self.event("radius_raised", cause="max_retained", levels=pressed, by=unit.id)
            if evicted:
                self.event("units_evicted", units=[id_ for _, _, id_ in evicted], by=unit.id)
            self._write_running_state()
        self._unlink(evicted)

    def release(self, release: Release) -> None:
        """Make units final. Raises StorageError: then the release must not be learned."""
        with self._transaction():
            self._release(release)
            self._write_running_state()

    def end_round(self, release: Release, left: Sequence[int]) -> None:
        """Release what is selected, evict what is `left` of the retained units, and open the next round."""
        with self._transaction():
            self._release(release)
            evicted = self._evict(left, by=ROUND_END)
            if evicted:
                self.event("units_evicted", units=[id_ for _, _, id_ in evicted], by=ROUND_END)
            self._db.execute("UPDATE rounds SET open = 0 WHERE round = ?", (self.round.number,))
            self._write_running_state()
        self._unlink(evicted)
        self._begin_next_round()
        self._load_round()

    def note_round(self, *, elapsed_s: float, price: Price | None) -> None:
        """How far the round is; stored with the next transaction."""
        self.round = replace(self.round, elapsed_s=elapsed_s, price=price)

    def know(self, name: str, digest: str, entries: Sequence[Entry]) -> None:
        """Remember what is known from elsewhere, each such set once: a full memory that took it twice would forget more.

        Raises SpoolMismatch where frames were judged without it: what was not new then must stay covered.
        """
        key = f"known:{digest}"
        if self._db.execute("SELECT 1 FROM meta WHERE key = ?", (key,)).fetchone():
            return
        if self._counters["seen"]:
            raise SpoolMismatch(
                f"{self.path}: {self._counters['seen']} frames were judged without {name}. Name what is known when a spool is "
                "begun: use another --spool, or leave it out."
            )
        self.remember(entries)
        with self._transaction():
            self._db.execute("INSERT INTO meta VALUES (?, ?)", (key, name))

    def remember(self, entries: Sequence[Entry], *, space: str | None = None, through_round: int | None = None) -> None:
        """Add frames to the memory. They count as covered for every ladder that is read from now on.

        through_round  the round that released them: a memory that has it already stays as it is
        """
        space = space or self.settings.feature_space
        path = memory_path(self.path, space)
        memory = read_memory(path) if path.exists() else Memory(feature_space=space)
        if through_round is not None:
            if memory.through_round >= through_round:
                return
            memory = replace(memory, through_round=through_round)
        durable.make_folder(path.parent, mode=0o700)
        write_memory(path, remember(memory, entries))

    def pass_over(self, unit: JudgedUnit) -> None:
        """Count a unit that no decision saw: all its frames are lost or gated, each for its reason."""
        self._count_seen(unit)
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

    def _count_seen(self, unit: JudgedUnit) -> None:
        """Count all frames of a unit as seen, and the lost and gated ones as such. Nothing may flush before the rest is
        counted. A stretch of frames of one camera that are gated for one reason is one event: a night must not push all
        other events out."""
        source, cursor = unit.cursor
        self._count("seen", len(unit.frames) + len(unit.lost) + len(unit.gated))
        self._sources[source] = SourceState(cursor=cursor, finished=False)
        self._dirty_sources.add(source)
        for item, error in unit.lost:
            self._count(f"lost:{error.reason}")
            self.timeline.add(lost=True)
            self.event("frame_lost", id=item.id, reason=error.reason, detail=error.detail)
            self._gated.pop((item.source, item.topic), None)
        for item, gate in unit.gated:
            self._count(f"gated:{gate.reason}")
            self.timeline.add(lost=True)
            if self._gated.get((item.source, item.topic)) != gate.reason:
                self.event("frames_gated", id=item.id, reason=gate.reason)
            self._gated[item.source, item.topic] = gate.reason
        for judged in unit.frames:
            self._gated.pop((judged.frame.source, judged.frame.topic), None)

    def _insert_unit(self, decision: Decision, stored: Sequence["_Stored"]) -> None:
        self._db.execute(
            "INSERT INTO units VALUES (?, ?, 'retained', ?, ?, ?, ?, ?, NULL, NULL, NULL, NULL)",
            (
                decision.unit,
                self.round.number,
                np.array(decision.levels, "<u2").tobytes(),
                *_reasons(decision),
            ),
        )
        self._db.executemany(
            "INSERT INTO frames VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
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
                    *_cluster_columns(clusters),
                )
                for frame, clusters, file, data in ((s.judged.frame, s.judged.clusters, s.file, s.data) for s in stored)
            ],
        )

    def _insert_deaths(self, deaths: Sequence[Death], *, before: int) -> None:
        self._db.executemany(
            "INSERT INTO deaths VALUES (NULL, ?, ?, ?, ?)",
            [(self.round.number, death.level, death.natural, before) for death in deaths],
        )

    def _evict(self, units: Sequence[int], *, by: str) -> list[tuple[int, str, str]]:
        """Mark units as evicted; gives (frame, file, id) of their frames."""
        gone: list[tuple[int, str, str]] = []
        for unit in units:
            self._db.execute(
                "UPDATE units SET state = 'evicted', levels = NULL, evicted_by = ? WHERE unit = ?", (by, unit)
            )
            gone += self._db.execute("SELECT frame, file, id FROM frames WHERE unit = ?", (unit,)).fetchall()
            self._db.execute("UPDATE frames SET clusters = NULL, patch_cluster = NULL WHERE unit = ?", (unit,))
        self._count("evicted", len(gone))
        return gone

    def _release(self, release: Release) -> None:
        (before,) = self._db.execute(
            "SELECT count(*) FROM units WHERE state = 'released' AND round = ?", (self.round.number,)
        ).fetchone()
        for place, pick in enumerate(release.picks, start=before + 1):
            self._db.execute(
                "UPDATE units SET state = 'released', release_order = ?, released_squared = ?, released_witness = ? "
                "WHERE unit = ?",
                (place, pick.squared_distance, pick.witness, pick.unit),
            )
        if release.picks:
            self.event("released", round=self.round.number, units=list(release.units))

    def _begin_next_round(self, space: str | None = None) -> None:
        """Remember what the last round released, and open the next. Found half done, it is done again to the end."""
        (last,) = self._db.execute("SELECT max(round) FROM rounds").fetchone()
        self.remember(self._released_entries(last), space=space, through_round=last)
        with self._transaction():
            self._open_round(last + 1)

    def _released_entries(self, round_number: int) -> list[Entry]:
        rows = self._db.execute(
            "SELECT id, sha256, clusters, cluster_count FROM units JOIN frames USING (unit) "
            "WHERE state = 'released' AND round = ? ORDER BY release_order, frame",
            (round_number,),
        )
        return [
            Entry(
                id=id_,
                kind="released",
                rows=np.frombuffer(clusters, "<f2").reshape(count, -1).astype(np.float16),
                origin=f"{self.path.name}, round {round_number}",
                sha256=digest,
            )
            for id_, digest, clusters, count in rows
        ]

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
        self._db.execute(
            "UPDATE rounds SET elapsed_s = ?, price = ?, certified = ? WHERE round = ?",
            (
                self.round.elapsed_s,
                None if self.round.price is None else json.dumps(self.round.price.as_dict()),
                self.round.certified,
                self.round.number,
            ),
        )
        write_timeline(self._db, self.timeline)
        if self._tombstones:
            self._db.executemany("UPDATE frames SET file = NULL WHERE frame = ?", [(f,) for f, _ in self._tombstones])
            self._tombstones = []
        if self._new_events:
            self._db.executemany("INSERT INTO events VALUES (NULL, ?, ?, ?, ?)", self._new_events)
            self._db.execute("DELETE FROM events WHERE event <= (SELECT max(event) FROM events) - ?", (MAX_EVENTS,))
            self._new_events = []
        self._flushed_at = self._monotonic()

    def _unlink(self, evicted: Sequence[tuple[int, str, str]]) -> None:
        self._tombstones = [(number, name) for number, name, _ in evicted]
        self._unlink_tombstones()

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


@dataclass(frozen=True, slots=True)
class _Stored:
    """A frame of a retained unit as it goes to disk."""

    judged: JudgedFrame
    file: str
    data: bytes


def _cluster_columns(clusters: KnowledgeClusters) -> tuple[bytes, int, bytes]:
    """clusters, cluster_count and patch_cluster of a row of `frames`."""
    return clusters.rows.astype("<f2").tobytes(), len(clusters.rows), clusters.patch_cluster.astype("<i2").tobytes()


def _reasons(decision: Decision) -> tuple[float | None, float | None, int | None, int | None]:
    """squared_novelty, radius, witness and nearest of a row of `units`."""
    return decision.squared_novelty, decision.radius, decision.witness, decision.nearest


def _rule_words(release: str, length_s: float | None) -> str:
    return release if length_s is None else f"{release} over {length_s:g} s"


def _group_words(group_s: str | None) -> str:
    return "no --group" if group_s is None else f"--group {float(group_s):g}"


def _guard_words(guard: str | None) -> str:
    return "no --guard" if guard is None else f"--guard {guard}"


def _fps_words(fps: float | None) -> str:
    return "no --fps" if fps is None else f"--fps {fps:g}"
