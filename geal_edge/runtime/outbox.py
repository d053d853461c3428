"""The uploader's side of a spool: what is released and not yet sent, in the order that was frozen at release.

A second process beside `run`, with a lock of its own. It writes acknowledgements and, of a spool of recorded sources whose one
round nobody is filling any more, the release at its end; each in a transaction of its own, synced before it returns. Tables that
the uploader makes in spool.db:

    acknowledged  frame, key, verified (`checksum` or `size`), bytes, wall_ns: the far side has this frame and what goes with it
    set_aside     unit, reason, detail, wall_ns: released units that are not tried any more, until a person says so
    link          what the uploader did last, as JSON: what `status` and `why` say of it
    guarded       what a privacy hook made of a unit's pictures (privacy/leaving.py)

A unit becomes `sent` in the transaction that stores its acknowledgements, with its files still named: the tombstone. Then they
are unlinked, then the names are taken away. Whoever opens the spool next, `run` or the uploader, finishes that. Its context
goes as that of an evicted unit does (context.py). Its clusters stay: the ladder of the open round counts it, and the memory takes
it at the round's end.
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import geal_edge
from geal_edge.errors import FrameError, SpoolError, SpoolLocked, UploadError
from geal_edge.runtime import durable
from geal_edge.runtime.context import context_files, forget_context
from geal_edge.runtime.lostcommits import require_whole_log, unit_of
from geal_edge.runtime.outgoing import Outgoing, ended_round, read_queue, read_released
from geal_edge.runtime.privacy.filter import About, PrivacyFilter
from geal_edge.runtime.privacy.leaving import TABLE as GUARDED
from geal_edge.runtime.privacy.leaving import Door, forget_outputs, knows_what_passed, store_outputs, stored_outputs
from geal_edge.runtime.privacy.rules import read_rules
from geal_edge.runtime.sidecar import Keys, sidecars
from geal_edge.runtime.spool import Spool
from geal_edge.runtime.spooldb import (
    BESIDE_FILE,
    DATABASE,
    FRAMES,
    OUTPUT_FILE,
    UPLOAD_LOCK,
    connection,
    has_table,
    is_created,
    reading,
    require_schema,
    require_spool_or_empty,
    transaction,
)
from geal_edge.runtime.spoolsettings import SpoolSettings
from geal_edge.runtime.trips import TABLE as TRIPS
from geal_edge.runtime.trips import trip_of
from geal_edge.runtime.vehicletime import moment

TABLES = """
CREATE TABLE IF NOT EXISTS acknowledged (
  frame INTEGER PRIMARY KEY, key TEXT NOT NULL, verified TEXT NOT NULL, bytes INTEGER NOT NULL, wall_ns INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS set_aside (
  unit INTEGER PRIMARY KEY, reason TEXT NOT NULL, detail TEXT NOT NULL, wall_ns INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS link (one INTEGER PRIMARY KEY CHECK (one = 1), state TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """That the far side has a frame. verified: `checksum` or `size`, by which of the two it was checked there."""

    key: str
    verified: str


class Outbox:
    """The one uploader of a spool. Use it as a context manager.

    Raises SpoolError where there is no spool, SpoolLocked where another uploader has it, SpoolDamaged where commits are lost,
    StorageError where the disk refuses.
    `privacy` is what pictures pass before they leave, None where nobody says; `wall_ns` is recorded and never trusted.
    """

    def __init__(
        self, path: Path, *, privacy: PrivacyFilter | None = None, wall_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self.path = path
        self._privacy = privacy
        self._again: set[int] = set()
        self._wall_ns = wall_ns
        self._resources = ExitStack()

    def __enter__(self) -> "Outbox":
        with self._resources:
            require_spool_or_empty(self.path)
            if not (self.path / DATABASE).is_file():
                raise SpoolError(f"{self.path}: no spool here (no {DATABASE}). `geal-edge run` fills one.")
            self._resources.enter_context(durable.exclusive_lock(self.path / UPLOAD_LOCK, f"the outbox of {self.path}"))
            require_whole_log(self.path)
            self._db = self._resources.enter_context(connection(self.path / DATABASE))
            if not is_created(self._db):
                raise SpoolError(f"{self.path}: this spool was never filled. Start `geal-edge run` on it.")
            meta = self.meta()
            require_schema(self.path, meta.get("schema"))
            if "shadow" in meta:
                raise SpoolError(f"{self.path}: was filled with --shadow, so it has no frames to send.")
            with self._transaction():
                if not knows_what_passed(self._db):
                    self._db.execute("DROP TABLE IF EXISTS guarded")
                for statement in (*TABLES.split(";")[:-1], GUARDED, TRIPS):
                    self._db.execute(statement)
            self._finish_tombstones()
            self._remove_unnamed()
            self._resources = self._resources.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    # -- what is there -------------------------------------------------------------------------------------------------

    def meta(self) -> dict[str, str]:
        """What the spool is filled with, as it stands now."""
        return dict(self._db.execute("SELECT key, value FROM meta"))

    def next(self, *, at_most_bytes: int | None = None) -> Outgoing | None:
        """The first released unit of the order that is neither sent nor set aside, nor larger than `at_most_bytes`; None: all
        there is to send is sent."""
        with reading(self.path):
            queue = read_queue(self._db, self.path, again=self._again)
            return next((unit for unit in queue if at_most_bytes is None or unit.bytes <= at_most_bytes), None)

    def forced(self, id_: str) -> Outgoing | None:
        """The released unit of a frame, also where it is set aside; None where there is none that is not sent."""
        with reading(self.path):
            return next(read_queue(self._db, self.path, forced=id_), None)

    def sidecars(self, outgoing: Outgoing, *, vehicle: str, keys: Sequence[Keys]) -> list[bytes]:
        """What is sent last (sidecar.py), for each frame of a unit."""
        with reading(self.path):
            rules = read_rules(self.meta(), None if self._privacy is None else self._privacy.config)
            return sidecars(self._db, self.meta(), outgoing, vehicle=vehicle, keys=keys, rules=rules)

    def same_before(self, outgoing: Outgoing) -> dict[int, int]:
        """frame -> how many frames before it in the order of sending have the same bytes and belong to the same trip: the far
        side must not take the one for the other. What expired counts: it may have been sent in part. 0 for almost all."""
        found: dict[int, int] = {}
        for place, frame in enumerate(outgoing.frames):
            if frame.earlier is not None:  # counted when the output was stored: its digest stands in no row of a frame
                found[frame.frame] = frame.earlier
                continue
            earlier = self._db.execute(
                "SELECT unit, source FROM units JOIN frames USING (unit) WHERE sha256 = ? AND release_order > 0 "
                "AND unit != ? AND (round, release_order) < (SELECT round, release_order FROM units WHERE unit = ?)",
                (frame.sha256, outgoing.unit, outgoing.unit),
            ).fetchall()
            same = sum(trip_of(self._db, unit, source) == outgoing.trip for unit, source in earlier)
            found[frame.frame] = same + sum(other.sha256 == frame.sha256 for other in outgoing.frames[:place])
        return found

    def failed(self) -> dict[str, int]:
        """Tries that failed so far, by reason."""
        with reading(self.path):
            row = self._db.execute("SELECT state FROM link").fetchone()
            return {} if row is None else dict(json.loads(row[0]).get("failed", {}))

    # -- what it is told -----------------------------------------------------------------------------------------------

    def hook_s(self, outgoing: Outgoing) -> float:
        """Seconds that the privacy hook may take for all pictures of a unit."""
        if self._privacy is None or not self._privacy.has_hook:
            return 0.0
        return self._privacy.config.timeout_s * (len(outgoing.frames) + len(outgoing.context))

    def guarded(self, outgoing: Outgoing) -> Outgoing:
        """A unit as it may be sent: where its pictures must pass a hook or lose their position, what came of that is stored, once
        and before the first byte leaves. Until it is sent every try finds the same bytes, unless the rules changed meanwhile and
        ask for more: then all of it is made anew.

        Raises UploadError that sets the unit aside, `privacy` where a picture did not come through; PrivacyError where nobody has
        said how the hook is run; StorageError.
        """
        with reading(self.path):
            door = Door(self._db, self.path, privacy=self._privacy)
            want = door.want(outgoing.unit)
            if want.done:
                return outgoing
            outputs = stored_outputs(self._db, outgoing.unit)
        if not all(output.suffices(want) for output in outputs.values()):
            with self._transaction():
                stale = forget_outputs(self._db, outgoing.unit)
            for name in stale:
                durable.remove_file(self.path / FRAMES / name)
            outputs = {}
        with reading(self.path):
            left = [each for each in self._pictures(outgoing.unit) if each[1] not in outputs]
        made: list[tuple[str, str, bytes]] = []
        for name, original, digest, about in left:
            try:
                data = door.made(self.path / FRAMES / original, digest, about)
            except FrameError as error:
                reason = error.reason if error.reason in ("unreadable", "altered") else "privacy"
                raise UploadError("set_aside", reason, f"{original}: {error.detail}") from error
            made.append((original, name, data))
        if made:
            durable.write_files(self.path / FRAMES, [(name, data) for _, name, data in made])
            with self._transaction():
                wanted = store_outputs(self._db, outgoing.unit, made, want)
            if not wanted:
                for _, name, _ in made:
                    durable.remove_file(self.path / FRAMES / name)
        sent = read_released(self._db, self.path, outgoing.unit)
        if sent is None:
            raise UploadError("set_aside", "expired", "it was too old meanwhile")  # nothing is set aside of it
        return sent

    def try_again(self, reason: str) -> None:
        """What is set aside for this reason is tried once more, in its place of the order."""
        rows = self._db.execute("SELECT unit FROM set_aside WHERE reason = ?", (reason,))
        self._again = {unit for (unit,) in rows}

    def acknowledge(self, outgoing: Outgoing, receipts: Sequence[Receipt]) -> None:
        """The far side has all of a unit, for good: one receipt for each of its frames. Its files are removed.

        Of a unit that was too old meanwhile (aging.py) nothing is stored: it counts as evicted, and the far side has it all
        the same. Raises StorageError; whoever opens the spool next finds all of it done, or the unit still to be sent.
        """
        with self._transaction():
            now = self._wall_ns()
            if not self._db.execute(
                "UPDATE units SET state = 'sent' WHERE unit = ? AND state = 'released'", (outgoing.unit,)
            ).rowcount:
                return
            self._db.executemany(
                "INSERT OR REPLACE INTO acknowledged VALUES (?, ?, ?, ?, ?)",
                [
                    (frame.frame, receipt.key, receipt.verified, frame.bytes, now)
                    for frame, receipt in zip(outgoing.frames, receipts, strict=True)
                ],
            )
            self._db.execute("DELETE FROM set_aside WHERE unit = ?", (outgoing.unit,))
            context = forget_context(self._db, outgoing.unit) if has_table(self._db, "context") else []
            outputs = forget_outputs(self._db, outgoing.unit)
            self._event("sent", id=outgoing.frames[0].id, place=outgoing.place)
        for file in (*context, *outputs):
            durable.remove_file(self.path / FRAMES / file)
        self._finish_tombstones()

    def set_aside(self, outgoing: Outgoing, *, reason: str, detail: str) -> None:
        """A unit that this far side will not take: the next ones go on without it. Nothing for one that was too old meanwhile."""
        self._again.discard(outgoing.unit)
        with self._transaction():
            known = "SELECT 1 FROM set_aside WHERE unit = ? AND reason = ? AND detail = ?"
            if self._db.execute(known, (outgoing.unit, reason, detail)).fetchone() is not None:
                return  # as before: no news
            stored = self._db.execute(
                "INSERT OR REPLACE INTO set_aside SELECT unit, ?, ?, ? FROM units WHERE unit = ? AND state = 'released'",
                (reason, detail, self._wall_ns(), outgoing.unit),
            )
            if stored.rowcount:
                self._event("set_aside", id=outgoing.frames[0].id, reason=reason, detail=detail)

    def note_link(self, state: dict[str, Any], *, event: str | None = None) -> None:
        """What the uploader does now, for `status` and `why`; with `event` that is an event of this name too."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO link VALUES (1, ?)", (json.dumps(state, ensure_ascii=False),))
            if event is not None:
                self._event(event, **state)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _finish_tombstones(self) -> None:
        tombstones = self._db.execute(
            "SELECT frame, file FROM units JOIN frames USING (unit) WHERE state = 'sent' AND file IS NOT NULL"
        ).fetchall()
        if not tombstones:
            return
        for _, file in tombstones:
            durable.remove_file(self.path / FRAMES / file)
        with self._transaction():
            self._db.executemany("UPDATE frames SET file = NULL WHERE frame = ?", [(frame,) for frame, _ in tombstones])

    def _pictures(self, unit: int) -> list[tuple[str, str, str, About]]:
        """(name of its output, file, sha256, what its hook is told) of a unit's frames, and then of its context."""
        rows = self._db.execute(
            "SELECT file, sha256, id, source, capture_time_ns FROM frames WHERE unit = ? AND file IS NOT NULL ORDER BY frame",
            (unit,),
        ).fetchall()
        if has_table(self._db, "context"):
            firsts = [(id_, source) for _, _, id_, source, _ in rows]
            beside = "SELECT file, sha256, place, capture_time_ns FROM context WHERE unit = ? ORDER BY number"
            found = self._db.execute(beside, (unit,)).fetchall()
            rows += [(file, digest, *firsts[place], time_ns) for file, digest, place, time_ns in found]
        return [
            (
                f"{unit:08d}.p{number:02d}{Path(file).suffix}",
                file,
                digest,
                About(id=id_, source=source, capture_time_ns=time_ns),
            )
            for number, (file, digest, id_, source, time_ns) in enumerate(rows)
        ]

    def _remove_unnamed(self) -> None:
        """What a kill left between an output and its row, or between an acknowledgement and the removal of what lay beside the
        frames: `run`, which would find the context too, may not come again. Of units that are not sent it may be in flight."""
        named = context_files(self._db) | {output.file for output in stored_outputs(self._db).values()}
        for name in [entry.name for entry in (self.path / FRAMES).iterdir() if BESIDE_FILE.fullmatch(entry.name)]:
            state = self._db.execute("SELECT state FROM units WHERE unit = ?", (unit_of(name),)).fetchone()
            if name not in named and (OUTPUT_FILE.fullmatch(name) or state == ("sent",)):
                durable.remove_file(self.path / FRAMES / name)

    def _event(self, name: str, **detail: Any) -> None:
        now = moment()
        who = {"boot_id": now.boot_id}  # `run` notes it where it starts, which may be later
        self._db.execute(
            "INSERT INTO events VALUES (NULL, ?, ?, ?, ?)",
            (
                name,
                self._wall_ns(),
                geal_edge.__version__,
                json.dumps({**detail, **who, **now.doubt()}, ensure_ascii=False),
            ),
        )

    def _transaction(self) -> AbstractContextManager[None]:
        return transaction(self._db, self.path)  # waits for one of `run`


def release_recorded(path: Path) -> int:
    """Release what is selected of a spool of recorded sources that were read to their end, and end its round; returns how many
    units that were. 0 where `run` releases by itself (live sources), is at work, or has more to read; or where nothing is left.

    Raises what opening a spool raises.
    """
    with connection(path / DATABASE) as db:
        if not is_created(db):
            return 0
        meta = dict(db.execute("SELECT key, value FROM meta"))
        require_schema(path, meta.get("schema"))
        ended = ended_round(db)
    if ended is None:
        return 0
    budget, release, length_s = ended
    rows, columns = json.loads(meta["grid"])
    settings = SpoolSettings(
        bundle=meta["bundle"],
        feature_space=meta["feature_space"],
        preset=meta["preset"],
        grid=(rows, columns),
        untrained=json.loads(meta["untrained"]),
        budget=budget,
        release=release,
        length_s=length_s,
        group_s=json.loads(meta["group_s"]) if "group_s" in meta else None,
        guard=meta.get("guard"),
    )
    try:
        with Spool(path, settings) as spool:
            ladder = spool.ladder()
            release_ = ladder.release(ladder.room)
            spool.close_round(release_, [unit for unit in ladder.retained if unit not in release_.units])
            return len(release_.picks)
    except SpoolLocked:
        return 0
