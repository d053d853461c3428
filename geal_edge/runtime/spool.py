"""The spool: what a vehicle has decided, safe against a power cut at any moment. This file writes; spoolview.py reads.

On disk (mode 0700):

    SPOOL/
      spool.db            SQLite (WAL, synchronous=FULL): the only truth
      frames/00000001.jpg the retained frames, named by their unit's number, which is never used twice; the further frames of a
                          unit are 00000001-1.jpg, 00000001-2.jpg, ..., its context 00000001.c00.jpg, 00000001.c01.jpg, ...
      memory/<space>      what was released and what is known, by feature space (memoryfile.py)
      set-aside/          what `geal-edge repair` could not believe (repair.py)
      lock                held by the one writer while it lives; upload.lock by the one uploader

docs/spool.md has the tables, for somebody who has a broken spool in hand, and says the same as this page.

How a retained unit becomes safe: the bytes of each of its frames go to a temporary name, fsync, rename, fsync of the folder;
then one transaction stores its rows, clusters, levels, the levels that died, the units that these evict, counters, the
source's cursor and the time line. A unit that changes nothing writes nothing: counters, cursor and time line are flushed
together, at most half a minute later (FLUSH_S; sooner where an event waits), or with the next transaction. The cursor only
ever stands behind a whole unit.

Eviction: the row is marked (state `evicted`, its `file` still named: the tombstone) in the transaction of the decision that
caused it; then the file is unlinked; then, with the next transaction, the tombstone is removed (`file` NULL). A unit that is
pinned (pins.py) is marked `pinned` instead, and stays; one that is too old (aging.py) is marked `expired` and its file goes.
Where the disk has no room for a unit (pressure.py), levels are given up in the decision on it, or it is refused and lost.

Sending: units.state `sent` means that the far side has the unit; it counts as released everywhere, and its files go as those
of an evicted unit do. The uploader alone writes it, from a process of its own (outbox.py).

Release: one transaction makes units final, in the selected order. The end of a round releases all that is selected, evicts the
rest and closes the round; then the memory is written with what the round released; then the next round is opened. Whoever
finds no open round does what is left of this; a memory names the last round that it has, and takes none twice.

Recovery, when a writer opens: (1) erasures that were begun (erasure.py) and tombstones are finished; (2) files that bear our
naming and have no retained row, and temporary files of ours, are deleted with an event: their transaction never happened, and a
recorded source will show the frame again; but a file that only a row that is gone can have named (lostcommits.py) stays, and its
number is not used again; (3) other names are foreign: reported, never touched; (4) the ladder is built from rows and deaths. It
is never fed old frames again: what it learned is what the rows say. A recorded source goes on after its cursor. Because every
change of state is committed together with the cursor behind it, the result is that of one uninterrupted run.

Tested by cutting the power at every system call of short drives (tests/powerloss): what was not synced is then there, gone or
torn, SQLite's own files included; and by taking out every sync once, which must be missed.
"""

import json
import math
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import geal_edge
from geal_edge.config import DiskConfig, GateConfig
from geal_edge.errors import (
    DiskFull,
    EngineStopped,
    FeatureSpaceMismatch,
    FrameError,
    Interrupted,
    LimitExceeded,
    SourceClash,
    SpoolLocked,
    SpoolMismatch,
)
from geal_edge.runtime import durable
from geal_edge.runtime.aging import RETENTION, sweep
from geal_edge.runtime.context import TABLE as CONTEXT
from geal_edge.runtime.context import context_files, context_names, forget_context, store_context
from geal_edge.runtime.erasure import finish as finish_erasures
from geal_edge.runtime.gates import HELD_BACK, LookedAt, stored_gates
from geal_edge.runtime.gates import TABLE as GATES
from geal_edge.runtime.identity import Identity, note_identity
from geal_edge.runtime.imagefile import Encoding, stored_form
from geal_edge.runtime.ladder import Decision, Ladder, Release
from geal_edge.runtime.live.ring import Glimpse
from geal_edge.runtime.lostcommits import damaged_log, leftovers, number_after, unit_of
from geal_edge.runtime.memory import MAX_FRAMES, Entry, Memory, remember
from geal_edge.runtime.memoryfile import read_memory, write_memory
from geal_edge.runtime.metadata import TABLE as METADATA
from geal_edge.runtime.metadata import forget_metadata
from geal_edge.runtime.migration import Encode, EncodedAnew, encoded_anew, judged_anew
from geal_edge.runtime.pins import UNPINNED, pinned_units, unpinned_units
from geal_edge.runtime.pressure import (
    DISK_QUOTA,
    INDEX,
    Press,
    PressureCause,
    Shortage,
    free_bytes,
    removable_bytes,
    shortage,
    unsent,
    used_bytes,
)
from geal_edge.runtime.privacy.filter import PrivacyFilter
from geal_edge.runtime.privacy.leaving import forget_outputs
from geal_edge.runtime.privacy.rules import note_rule, read_rules, rule_of
from geal_edge.runtime.privacy.storing import as_stored, glimpses_as_stored
from geal_edge.runtime.refusals import counter_of
from geal_edge.runtime.release import Price, fill_of
from geal_edge.runtime.running import RunningState, SourceState
from geal_edge.runtime.sources import AnySource
from geal_edge.runtime.spooldb import (
    DATABASE,
    FRAMES,
    LOCK,
    MIGRATION,
    OUTPUT_FILE,
    OWN_FILE,
    ROUND_END,
    TABLES,
    connection,
    database_errors,
    is_created,
    memory_path,
    next_unit,
    read_base,
    read_ladder,
    reading,
    require_no_frames,
    require_schema,
    require_spool_or_empty,
    transaction,
)
from geal_edge.runtime.spoolrows import (
    FrameToStore,
    insert_deaths,
    insert_unit,
    mark_released,
    released_entries,
    sent_and_expired,
    store_anew,
    store_judgement,
)
from geal_edge.runtime.spoolsettings import SpoolSettings, require_same, require_same_round
from geal_edge.runtime.timeline import Timeline
from geal_edge.runtime.trips import TABLE as TRIPS
from geal_edge.runtime.trips import begin_trip
from geal_edge.runtime.units import JudgedUnit
from geal_edge.runtime.vehicletime import Moment, age_s, moment
from geal_edge.runtime.verdicts import TABLE as VERDICTS
from geal_edge.runtime.verdicts import ids_gated

FLUSH_S = 30.0
FLUSH_FRAMES = 1000
"""Counters, cursor and time line are stored after so many seconds, or so many frames, without a decision that stores them too. A
power cut takes what was counted since: a recorded source shows those frames again, of a live one they were never seen."""
EVENT_FLUSH_S = 5.0
"""The same where an event waits: a person may ask about it."""
IDLE_FLUSH_S = 60.0
"""While no frame comes: a parked vehicle's flash should not wear."""
SWEEP_S = 3600.0
"""How often it is asked what is too old, and which pins were removed."""
SMALLEST_LOG = 16
"""Pages of SQLite's log, at least, before they go into the database: a small quota must not be filled by the log alone."""


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


class Spool:
    """The one writer of a spool. Use it as a context manager.

    Leaving it flushes, unless an error ended the block: then what was stored last stands, and a recorded source shows the
    frames after it again.

    Raises SpoolLocked, SpoolMismatch, FeatureSpaceMismatch, SpoolDamaged, SpoolError or StorageError when it is opened.
    `flush_s` paces the flushes, and `memory_frames` bounds what is remembered (memory.py).
    `encode` looks at a stored picture with the bundle of the settings: with it a spool of another feature space is taken over
    (migration.py) instead of refused, as on a vehicle that got a new bundle.
    `monotonic` (seconds) paces the flushes; `wall_ns` is recorded and never trusted. `disk` says how full it may be and how old
    its frames (None: nothing is said, as of a spool that is only taken up again), and `now` is the time that they age by.
    `privacy` is what pictures pass, now or before they leave (None: nothing is said).
    """

    def __init__(
        self,
        path: Path,
        settings: SpoolSettings,
        *,
        encoding: Encoding = "jpg",
        encode: Encode | None = None,
        flush_s: float = FLUSH_S,
        memory_frames: int = MAX_FRAMES,
        disk: DiskConfig | None = None,
        privacy: PrivacyFilter | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
        now: Callable[[], Moment] = moment,
    ) -> None:
        self.path = path
        self.settings = settings
        self._encoding = encoding
        self._encode = encode
        self._max_unit_bytes = settings.max_unit_bytes
        self._flush_s = flush_s
        self._memory_frames = memory_frames
        self.round: RoundState
        self._monotonic = monotonic
        self._wall_ns = wall_ns
        self._disk = disk
        self._now = now
        self._privacy = privacy
        self.commits = 0
        """Transactions so far."""
        self._resources = ExitStack()

    # -- opening and closing -------------------------------------------------------------------------------------------

    def __enter__(self) -> "Spool":
        with self._resources:
            require_spool_or_empty(self.path)
            durable.make_folder(self.path, mode=0o700)
            if not (self.path / DATABASE).exists():
                durable.make_private(self.path)  # made by somebody else for us, as open as folders are
            durable.make_folder(self.path / FRAMES, mode=0o700)
            self._resources.enter_context(durable.exclusive_lock(self.path / LOCK, f"{self.path}"))
            damage = damaged_log(self.path / f"{DATABASE}-wal")  # SQLite writes over what it cannot read
            self._db = self._resources.enter_context(connection(self.path / DATABASE))
            with reading(self.path):
                self._create_or_match()
                self._load_running_state()
                if damage is not None:
                    self.event("commits_lost", detail=damage)
                self._recover(log_damaged=damage is not None)
                self._limit()
                self._note_privacy()
                self._sweep()
            self._resources = self._resources.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._resources:
            if isinstance(error, sqlite3.Error):  # of what was read in between
                with database_errors(self.path):
                    raise error
            # Anything else may have come in the middle of an append, with a frame counted whose decision is not stored: an
            # engine stops before anything of its frame is counted, and a limit is heeded between units.
            if error is None or isinstance(error, Interrupted | EngineStopped | LimitExceeded):
                self.flush()

    def _create_or_match(self) -> None:
        wanted = self.settings.meta()
        if not is_created(self._db):
            require_no_frames(self.path)
            with self._transaction():
                for statement in TABLES.split(";")[:-1]:
                    self._db.execute(statement)
                rows = {**wanted, "producer": f"geal-edge {geal_edge.__version__}"}
                self._db.executemany("INSERT INTO meta VALUES (?, ?)", rows.items())
                # The database's name is safe with it: SQLite syncs the folder of a new journal itself.
                self._open_round(1)
        found = dict(self._db.execute("SELECT key, value FROM meta"))
        require_schema(self.path, found.get("schema"))
        require_same(self.path, found, wanted)
        if self._db.execute("SELECT 1 FROM rounds WHERE open").fetchone() is None:
            self._begin_next_round(found["feature_space"])
        budget, release, length_s = self._load_round()
        require_same_round(self.path, self.settings, budget=budget, release=release, length_s=length_s)
        for table in (VERDICTS, METADATA, GATES, TRIPS, CONTEXT):  # a spool of an earlier version has none of them
            self._db.execute(table)
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

    def _limit(self) -> None:
        """Take up the limits of the disk; `status` and `doctor` read there what they are."""
        if self._disk is None:
            return
        limits = json.dumps(asdict(self._disk))
        if self._db.execute("SELECT value FROM meta WHERE key = 'disk'").fetchone() != (limits,):
            with self._transaction():
                self._db.execute(INDEX)
                self._db.execute("INSERT OR REPLACE INTO meta VALUES ('disk', ?)", (limits,))
        if self._disk.max_bytes is not None:
            (page_bytes,) = self._db.execute("PRAGMA page_size").fetchone()
            pages = max(SMALLEST_LOG, min(1000, self._disk.max_bytes // 16 // page_bytes))
            self._db.execute(f"PRAGMA wal_autocheckpoint = {pages}")

    def _note_privacy(self) -> None:
        """What is stored from now on is under this rule, which whoever lets it out must know (privacy/rules.py)."""
        if self._privacy is None:
            return
        was, now = read_rules(dict(self._db.execute("SELECT key, value FROM meta"))), rule_of(self._privacy.config)
        if was.last != now:
            with self._transaction():
                note_rule(self._db, was, now, next_unit(self._db))
                self.event("privacy_changed", was=asdict(was.last), now=asdict(now))
                self._write_running_state()

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
            gone=sent_and_expired(self._db, self.round.number),
            round_number=self.round.number,
            capacity=self.settings.budget,
            fill=fill_of(self.settings.release, self.settings.budget),
            base=read_base(self.path, self.settings.feature_space),
        )
        # What was not retained is gone, so nobody can say how near to it the new clusters are.
        price = None if self.round.price is None else Price(progress=self.round.price.progress)
        self.round = replace(self.round, price=price, certified=False)
        with self._transaction():
            self._store_bundle(wanted)
            store_anew(self._db, units, grid=self.settings.grid)
            store_judgement(self._db, self.round.number, judgement)
            evicted = self._evict(judgement.evicted, by=MIGRATION)
            names = {"from_space": found["feature_space"], "to_space": wanted["feature_space"]}
            self.event("feature_space_changed", **names, encoded=len(units), evicted=[id_ for _, _, id_ in evicted])
            self._write_running_state()
        self._unlink(evicted)

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

    def _load_running_state(self) -> None:
        self._running = RunningState(self._db, monotonic=self._monotonic, wall_ns=self._wall_ns, now=self._now)
        self._flushed_at = self._swept_at = self._monotonic()
        budget = self._db.execute("SELECT value FROM meta WHERE key = 'budget'").fetchone()
        self.budget: dict[str, Any] | None = None if budget is None else json.loads(budget[0])
        self._refusing = False  # the unit before found no room

    def _recover(self, *, log_damaged: bool) -> None:
        try:
            finish_erasures(self._db, self.path)
        except (DiskFull, SpoolLocked) as error:  # of the frames nothing is left; a vehicle must start all the same
            self.event("erasure_unfinished", why=str(error))
        self._running.tombstones = list(
            self._db.execute(
                "SELECT frame, file FROM frames JOIN units USING (unit) "
                "WHERE state IN ('evicted', 'sent', 'expired') AND file IS NOT NULL"
            )
        )
        self._unlink_tombstones()
        folder = self.path / FRAMES
        present = {entry.name for entry in folder.iterdir() if not OUTPUT_FILE.fullmatch(entry.name)}
        # Asked after the folder: beside us an uploader marks what is sent before it removes the file.
        # In one look: between two it may have finished a frame, which would be missing then.
        named = self._db.execute(
            "SELECT file, state FROM frames JOIN units USING (unit) WHERE file IS NOT NULL"
        ).fetchall()
        retained = {file for file, _ in named} | context_files(self._db)
        gone = {file for file, state in named if state in ("evicted", "sent", "expired")}
        unnamed = sorted(present - retained)
        own = [name for name in unnamed if OWN_FILE.fullmatch(name) and (folder / name).is_file()]
        missing = sorted(retained - gone - present)
        left = leftovers(self._db, own, damaged=log_damaged or bool(missing))
        for name in unnamed:
            if name in left:
                durable.remove_file(folder / name)
                self.event("orphan_removed", file=name)
            else:
                self.event("frame_row_missing" if name in own else "foreign_file", file=name)
        for name in missing:
            self.event("frame_file_missing", file=name)
        with self._transaction():
            # A new unit would write over the file of one whose row is gone.
            number_after(self._db, max((unit_of(name) for name in own if name not in left), default=0))
            self._write_running_state()

    # -- what it knows -------------------------------------------------------------------------------------------------

    def ladder(self) -> Ladder:
        """The selector of the open round, exactly as it was after the last decision that is on disk."""
        with reading(self.path):
            return read_ladder(self._db, self.round.number, read_base(self.path, self.settings.feature_space))

    def cursor(self, source: str) -> int:
        """The frame_index of the last frame of a source that was counted, -1 for none."""
        return self._running.sources[source].cursor

    def looked_at(self, source: str) -> dict[str | None, LookedAt]:
        """Camera -> what its gates remember, as it was after the last frame of a source that was counted."""
        return stored_gates(self._db, source)

    def held_back(self) -> set[str]:
        """ids of the newest frames that gates held back."""
        return ids_gated(self._db, HELD_BACK)

    @property
    def counters(self) -> Mapping[str, int]:
        """All that is counted, by name (docs/spool.md), stored or not."""
        return self._running.counters

    def disk(self) -> dict[str, int | None]:
        """How full it is, and may be, in bytes."""
        limits = self._disk or DiskConfig(min_free_bytes=0)
        return {
            "used_bytes": used_bytes(self._db, self.path),
            "max_bytes": limits.max_bytes,
            "free_bytes": free_bytes(self.path),
            "min_free_bytes": limits.min_free_bytes,
        }

    @property
    def timeline(self) -> Timeline:
        """What was seen when, as far as it was counted."""
        return self._running.timeline

    @property
    def seen(self) -> int:
        """Frames counted so far, whatever became of them."""
        return self._running.counters["seen"]

    @property
    def late(self) -> int:
        """Frames of live sources lost so far because nobody could look at them in time."""
        return self._running.late

    @property
    def lost(self) -> int:
        """Frames lost so far, of all sources and reasons."""
        return self._running.lost

    # -- what it is told -----------------------------------------------------------------------------------------------

    def require_own_name(self, source: AnySource, *, others: Sequence[AnySource] = ()) -> None:
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

    def begin_source(self, source: AnySource, *, again: bool = False) -> SourceState:
        """Register a source, or find it again; returns how far it has been counted.

        `again` starts one anew that was read to its end; an unfinished one goes on. Raises SourceClash where another
        source has the name already, or SpoolMismatch where the same one was begun with another --fps.
        """
        self.require_own_name(source)
        name = source.name
        row = self._db.execute("SELECT fps FROM sources WHERE name = ?", (name,)).fetchone()
        if row is not None and row[0] != source.fps and not self._running.sources[name].finished:
            with reading(self.path):
                was = _fps_words(row[0])
            raise SpoolMismatch(
                f"{source.spec}: was begun with {was} and is not finished. Go on with {was}, or use another --spool."
            )
        if row is None or (again and self._running.sources[name].finished):
            cursor = -1 if row is not None else self._cursor_of_lost_row(name)
            with self._transaction():
                self._db.execute(
                    "INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
                    (name, source.spec, source.kind, source.fingerprint(), source.fps, cursor, self.seen),
                )
                self._db.execute("DELETE FROM gates WHERE source = ?", (name,))
                self._write_running_state()
            self._running.sources[name] = SourceState(cursor=cursor, finished=False)
        return self._running.sources[name]

    def _cursor_of_lost_row(self, source: str) -> int:
        """A source that is new has no frames; one that has some lost its row to a damaged database. It goes on behind
        the last that was retained: none of them is stored twice, and what came after it is counted again."""
        last: int | None = self._db.execute(
            "SELECT max(frame_index) FROM frames WHERE source = ?", (source,)
        ).fetchone()[0]
        if last is None:
            return -1
        self.event("source_row_missing", source=source, cursor=last)
        return last

    def append(self, unit: JudgedUnit, decision: Decision, press: Press | None = None) -> Decision:
        """Make a decision durable, with the frames' bytes where it retains them; gives the one that was taken in the end.
        An empty decision writes nothing now. A unit of more bytes than the budget ever allows for is not taken, and its frames
        are lost as `over_budget`: what is retained is released in an order that nothing may leave, so it must never get there.
        One with a picture on which the privacy hook fails is not taken either (`privacy`): it was judged as a whole.

        press  asked where the disk has no room for a unit: the decision then gives levels up as well, or is not taken, and the
               unit's frames are lost. Without it the disk is taken as it is.

        Raises StorageError: then no decision must be learned; the next writer finds all of it done or nothing.
        """
        try:
            stored = self._stored(unit, decision)
        except FrameError as error:
            return self._lose(unit, decision, error)
        size = sum(len(frame.data) for frame in stored)
        if size > self._max_unit_bytes:
            words = f"its unit has {size} bytes, more than the budget's {self._max_unit_bytes:.0f} ever allow."
            return self._lose(unit, decision, FrameError("over_budget", words))
        if press is None or not stored or self.settings.shadow:
            self._append(unit, decision, stored)
            return decision
        own = sum(len(frame.data) + frame.row_bytes for frame in stored)
        short = None if self._disk is None else shortage(self._db, self.path, self._disk, own)
        full: DiskFull | None = None
        if short is None:
            before = self._running.copied()
            try:
                self._append(unit, decision, stored)
            except DiskFull as error:
                self._running = before
                short, full = Shortage(cause="disk_full", needed_bytes=own), error
            else:
                self._refusing = False
                return decision
        sizes = removable_bytes(self._db, self.round.number)
        pressed = press(decision, needed=short.needed_bytes, own=own, sizes=sizes)
        if pressed is None:
            if full is not None:
                raise full
            return self._refuse(unit, decision, short)
        if full is None:
            self._append(unit, pressed, stored if pressed.retain else [], short.cause)
        else:
            self._make_room(unit, stored, pressed)
            self._append(unit, replace(pressed, deaths=(), evicted=()), stored if pressed.retain else [])
        self._refusing = False
        return pressed

    def _stored(self, unit: JudgedUnit, decision: Decision) -> list[FrameToStore]:
        """The frames of a unit that is to be retained, as they go to disk. Raises FrameError `privacy`."""
        stored: list[FrameToStore] = []
        if decision.retain:
            for place, judged in enumerate(unit.frames):
                data, ending = stored_form(judged.frame, self._encoding)
                name = f"{decision.unit:08d}{f'-{place}' if place else ''}.{ending}"
                if not self.settings.shadow:
                    frame, data = as_stored(judged.frame, data, ending, self._privacy)
                    judged = replace(judged, frame=frame)
                stored.append(FrameToStore(judged, None if self.settings.shadow else name, data))
        return stored

    def _refuse(self, unit: JudgedUnit, decision: Decision, short: Shortage) -> Decision:
        """A unit that nothing may give way to: its decision is not taken, and its frames are lost."""
        if not self._refusing:
            self._refusing = True
            waiting = unsent(self._db)
            oldest_ns = waiting.oldest_stored_ns
            self.event(
                "disk_full",
                cause=short.cause,
                needed_bytes=short.needed_bytes,
                used_bytes=used_bytes(self._db, self.path),
                free_bytes=free_bytes(self.path),
                unsent_units=waiting.units,
                unsent_bytes=waiting.bytes,
                oldest_stored_ns=oldest_ns,
                oldest_age_s=age_s(oldest_ns, self._wall_ns()),
            )
        detail = f"no room on the disk ({short.cause}): {short.needed_bytes} bytes too few, and nothing may give way"
        return self._lose(unit, decision, FrameError(DISK_QUOTA, detail))

    def _lose(self, unit: JudgedUnit, decision: Decision, error: FrameError) -> Decision:
        """A decision that is not taken: its frames are lost instead. Gives the one that changes nothing."""
        lost = tuple((judged.frame, error) for judged in unit.frames)
        self.pass_over(replace(unit, frames=(), lost=(*unit.lost, *lost)))
        return replace(decision, levels=(), deaths=(), evicted=())

    def _make_room(self, unit: JudgedUnit, stored: Sequence[FrameToStore], pressed: Decision) -> None:
        """On a disk that is really full what gives way must be gone before anything new is written. Should the power go in
        between, the unit was not counted: a recorded source shows it again, to a ladder that has given way already."""
        for frame in stored:  # those of its files that had room
            if frame.file is not None:
                durable.remove_file(self.path / FRAMES / frame.file)
        with self._transaction():
            evicted = self._give_way(unit, pressed, "disk_full")
            self._write_running_state()
        self._unlink(evicted)

    def _give_way(self, unit: JudgedUnit, decision: Decision, cause: PressureCause | None) -> "list[_Gone]":
        """Store which levels end of a decision, and what that evicts. `cause`: why levels were given up; None: max_retained."""
        insert_deaths(self._db, self.round.number, decision.deaths, before=decision.unit)
        evicted = self._evict(decision.evicted, by=unit.id)
        pressed = [death.level for death in decision.deaths if not death.natural]
        if pressed:
            self.event("radius_raised", cause=cause or "max_retained", levels=pressed, by=unit.id)
        if evicted:
            self.event("units_evicted", units=[id_ for _, _, id_ in evicted], by=unit.id)
        return evicted

    def _append(
        self, unit: JudgedUnit, decision: Decision, stored: Sequence[FrameToStore], cause: PressureCause | None = None
    ) -> None:
        self._running.count_seen(unit)
        self._running.count("not_new", 0 if decision.retain else len(unit.frames))
        for place in range(len(unit.frames)):
            # The report finds a unit on the time line by counting those that were retained: one for all its frames.
            retained = decision.retain and place == 0
            self.timeline.add(novelty=decision.novelty, radius=decision.radius, retained=retained)
        if not decision.retain:
            self._running.count(counter_of(decision.novelty, decision.radius), len(unit.frames))
            for judged in unit.frames:
                self._running.judge(
                    judged.frame,
                    "not_new",
                    novelty=decision.novelty,
                    radius=decision.radius,
                    nearest=None if decision.nearest_base is not None else decision.nearest,
                )
        if decision.empty:
            self._flush_when_due()
            return
        for frame in stored:
            if frame.file is not None:
                durable.write_file(self.path / FRAMES / frame.file, frame.data)
        with self._transaction():
            if decision.retain:
                insert_unit(self._db, self.round.number, decision, stored, wall_ns=self._wall_ns())
            evicted = self._give_way(unit, decision, cause)
            self._write_running_state()
        self._unlink(evicted)

    def add_context(self, unit: int, place: int, glimpses: Sequence[Glimpse]) -> bool:
        """Store pictures beside a frame of a retained unit; False where it gets no more: it is not retained any longer, there is
        no room, for which nothing gives way, or the unit would have more bytes than its budget ever allows.

        Raises StorageError.
        """
        if not context_names(self._db, unit, glimpses):
            return False
        of = "SELECT id, source FROM frames WHERE unit = ? ORDER BY frame LIMIT 1 OFFSET ?"
        id_, source = self._db.execute(of, (unit, place)).fetchone()
        seen = list(glimpses_as_stored(glimpses, id_, source, self._privacy))
        if len(seen) < len(glimpses):
            self.event("context_left_out", unit=unit, cause="privacy", pictures=len(glimpses) - len(seen))
        files = list(zip(context_names(self._db, unit, seen), seen, strict=True))
        own = sum(len(glimpse.data) for _, glimpse in files)
        over = self.sizes([unit])[0] + own - self._max_unit_bytes
        if over > 0:  # it could never be released, nor could what comes after it
            self.event("context_left_out", unit=unit, cause="over_budget", needed_bytes=math.ceil(over))
            return False
        short = None if self._disk is None else shortage(self._db, self.path, self._disk, own)
        if short is None:
            try:
                durable.write_files(self.path / FRAMES, [(name, glimpse.data) for name, glimpse in files])
                with self._transaction():
                    store_context(self._db, unit, place, files)
                return True
            except DiskFull:
                short = Shortage(cause="disk_full", needed_bytes=own)
                for name, _ in files:
                    durable.remove_file(self.path / FRAMES / name)
        self.event("context_left_out", unit=unit, cause=short.cause, needed_bytes=short.needed_bytes)
        return False

    def sweep_when_due(self) -> bool:
        """Hourly, and once the clock can be believed: let expire what is too old, evict what only a removed pin held. Whether the
        ladder must be read anew."""
        is_due = self._monotonic() - self._swept_at >= SWEEP_S or (
            not self._swept_believed and self._now().synchronised
        )
        return is_due and self._sweep()

    def _sweep(self) -> bool:
        self._swept_at, now = self._monotonic(), self._now()
        max_age_days = None if self._disk is None else self._disk.max_age_days
        self._swept_believed = max_age_days is None or now.synchronised
        if max_age_days is None and not unpinned_units(self._db):
            return False
        with self._transaction():
            gone = self._evict(unpinned_units(self._db), by=UNPINNED)
            if gone:
                self.event("units_evicted", units=[id_ for _, _, id_ in gone], by=UNPINNED)
            expired: list[_Gone] = []
            units: tuple[int, ...] = ()
            if max_age_days is not None:
                old = sweep(self._db, max_age_days, now)
                units, size = old.units, sum(self.sizes(old.units))
                for unit in units:
                    expired += self._gone(unit)
                    self._db.execute(
                        "UPDATE units SET state = 'expired', evicted_by = ? WHERE unit = ?", (RETENTION, unit)
                    )
                    self._forget_beside(unit)
                if expired:
                    ids = [id_ for _, _, id_ in expired]
                    self.event("retention_expired", ids=ids, bytes=size, clock=old.clock)
            self._write_running_state()
        self._unlink(gone + expired)
        return bool(units)

    def release(self, release: Release) -> None:
        """Make units final. Raises StorageError: then the release must not be learned."""
        with self._transaction():
            self._release(release)
            self._write_running_state()

    def end_round(self, release: Release, left: Sequence[int]) -> None:
        """Release what is selected, evict what is `left` of the retained units, and open the next round."""
        self.close_round(release, left)
        self._begin_next_round()
        self._load_round()

    def close_round(self, release: Release, left: Sequence[int]) -> None:
        """The same without the next round, which whoever writes next opens."""
        with self._transaction():
            self._release(release)
            evicted = self._evict(left, by=ROUND_END)
            if evicted:
                self.event("units_evicted", units=[id_ for _, _, id_ in evicted], by=ROUND_END)
            self._db.execute("UPDATE rounds SET open = 0 WHERE round = ?", (self.round.number,))
            self._write_running_state()
        self._unlink(evicted)

    def note_round(self, *, elapsed_s: float, price: Price | None) -> None:
        """How far the round is; stored with the next transaction."""
        self.round = replace(self.round, elapsed_s=elapsed_s, price=price)

    def identify(self, identity: Identity) -> None:
        """Who decides from now on (identity.py)."""
        with self._transaction():
            note_identity(self._db, identity, self.settings.bundle)

    def tag(self, tags: Sequence[str]) -> None:
        """What units are called that are retained from now on; stored where it differs from before."""
        stored = self._db.execute("SELECT value FROM meta WHERE key = 'tags'").fetchone()
        since: list[list[Any]] = [] if stored is None else json.loads(stored[0])
        if (since[-1][1] if since else []) != list(tags):
            since.append([next_unit(self._db), list(tags)])
            with self._transaction():
                self._db.execute("INSERT OR REPLACE INTO meta VALUES ('tags', ?)", (json.dumps(since),))

    def use_gates(self, config: GateConfig) -> None:
        """Which frames are held back from now on. They may be others in every run, as they only hold back; an event says so."""
        stored = self._db.execute("SELECT value FROM meta WHERE key = 'gates'").fetchone()
        was, now = asdict(GateConfig()) if stored is None else json.loads(stored[0]), asdict(config)
        if json.dumps(was) != json.dumps(now):
            self.event("gates_changed", was=was, now=now)
            with self._transaction():
                self._db.execute("INSERT OR REPLACE INTO meta VALUES ('gates', ?)", (json.dumps(now),))
                self._write_running_state()

    def note_looked_at(self, source: str, camera: str | None, looked_at: LookedAt) -> None:
        """What the gates remember of a frame; stored with the next transaction, which counts the frame."""
        self._running.note_looked_at(source, camera, looked_at)

    def trip_ended(self, by: str) -> None:
        """What is retained from now on belongs to the next trip. by: as of Rounds.end_trip."""
        self.event("trip_ended", by=by)
        with self._transaction():
            begin_trip(self._db)
            self._write_running_state()

    def note_budget(self, state: dict[str, Any]) -> None:
        """How the caps of a live source stand (budget.py); stored with the next transaction."""
        self.budget = state

    def sizes(self, units: Sequence[int]) -> list[int]:
        """Bytes of each of these units' files, their context included."""
        query = (
            "SELECT (SELECT sum(bytes) FROM frames WHERE unit = ?1) "
            "+ (SELECT coalesce(sum(bytes), 0) FROM context WHERE unit = ?1)"
        )
        return [int(self._db.execute(query, (unit,)).fetchone()[0]) for unit in units]

    def know(self, name: str, digest: str, entries: Sequence[Entry]) -> None:
        """Remember what is known from elsewhere, each such set once: a full memory that took it twice would forget more.

        Raises SpoolMismatch where frames were judged without it: what was not new then must stay covered.
        """
        key = f"known:{digest}"
        if self._db.execute("SELECT 1 FROM meta WHERE key = ?", (key,)).fetchone():
            return
        if self.seen:
            raise SpoolMismatch(
                f"{self.path}: {self.seen} frames were judged without {name}. Name what is known when a spool is "
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
        write_memory(path, remember(replace(memory, max_frames=self._memory_frames), entries))

    def pass_over(self, unit: JudgedUnit) -> None:
        """Count a unit that no decision saw: all its frames are lost or gated, each for its reason."""
        self._running.count_seen(unit)
        self._flush_when_due()

    def idle(self) -> None:
        """Asked when no frame came for a while: what happened is stored soon, the time that passed seldom."""
        if self._running.events or self._running.unstored or self._monotonic() - self._flushed_at >= IDLE_FLUSH_S:
            self._flush_when_due()

    def finish_source(self, name: str) -> None:
        """Note that a recorded source was read to its end."""
        self._running.move(name, SourceState(cursor=self.cursor(name), finished=True))
        self.flush()

    def event(self, name: str, **detail: Any) -> None:
        """Note something that a person may ask about; stored with the next transaction."""
        self._running.event(name, **detail)

    def flush(self) -> None:
        """Store counters, cursors, time line and events now."""
        with self._transaction():
            self._write_running_state()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _evict(self, units: Sequence[int], *, by: str) -> "list[_Gone]":
        """Mark units as evicted, but those that are pinned as such, which stay; gives the frames that go."""
        gone: list[_Gone] = []
        pinned = pinned_units(self._db) & set(units)
        for unit in units:
            self._db.execute(
                "UPDATE units SET state = ?, levels = NULL, evicted_by = ? WHERE unit = ?",
                ("pinned" if unit in pinned else "evicted", by, unit),
            )
            if unit not in pinned:
                gone += self._gone(unit)
                self._db.execute("UPDATE frames SET clusters = NULL, patch_cluster = NULL WHERE unit = ?", (unit,))
                self._forget_beside(unit)
        self._running.count("evicted", len(gone))
        if pinned:
            stays = [id_ for unit in sorted(pinned) for _, _, id_ in self._gone(unit)]
            self.event("pinned_stays", units=stays, by=by)
        return gone

    def _forget_beside(self, unit: int) -> None:
        """What lies beside a unit that goes."""
        forget_metadata(self._db, unit)
        self._running.context_gone += forget_context(self._db, unit) + forget_outputs(self._db, unit)

    def _gone(self, unit: int) -> "list[_Gone]":
        return self._db.execute("SELECT frame, file, id FROM frames WHERE unit = ?", (unit,)).fetchall()

    def _release(self, release: Release) -> None:
        mark_released(self._db, self.round.number, release.picks)
        if release.picks:
            self.event("released", round=self.round.number, units=list(release.units))

    def _begin_next_round(self, space: str | None = None) -> None:
        """Remember what the last round released, and open the next. Found half done, it is done again to the end."""
        (last,) = self._db.execute("SELECT max(round) FROM rounds").fetchone()
        origin = f"{self.path.name}, round {last}"
        self.remember(released_entries(self._db, last, origin=origin), space=space, through_round=last)
        with self._transaction():
            self._open_round(last + 1)

    def _flush_when_due(self) -> None:
        wait_s = min(EVENT_FLUSH_S, self._flush_s) if self._running.events else self._flush_s
        if self._running.unstored >= FLUSH_FRAMES or self._monotonic() - self._flushed_at >= wait_s:
            self.flush()

    def _write_running_state(self) -> None:
        self._db.execute(
            "UPDATE rounds SET elapsed_s = ?, price = ?, certified = ? WHERE round = ?",
            (
                self.round.elapsed_s,
                None if self.round.price is None else json.dumps(self.round.price.as_dict()),
                self.round.certified,
                self.round.number,
            ),
        )
        if self.budget is not None:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('budget', ?)", (json.dumps(self.budget),))
        self._running.write(self._db)
        self._flushed_at = self._monotonic()

    def _unlink(self, evicted: "Sequence[_Gone]") -> None:
        self._running.tombstones = [(number, name) for number, name, _ in evicted if name is not None]
        self._unlink_tombstones()
        for file in self._running.context_gone:
            durable.remove_file(self.path / FRAMES / file)
        self._running.context_gone = []

    def _unlink_tombstones(self) -> None:
        for _, file in self._running.tombstones:
            durable.remove_file(self.path / FRAMES / file)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with transaction(self._db, self.path):
            yield
        self.commits += 1


_Gone: TypeAlias = tuple[int, str | None, str]
"""(frame, file, id) of a frame that leaves the disk."""


def _fps_words(fps: float | None) -> str:
    return "no --fps" if fps is None else f"--fps {fps:g}"
