"""Reading a spool: what `status`, `list`, `report` and `check` are made of. Never writes, and works beside a running writer."""

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.errors import SpoolDamaged, SpoolError
from geal_edge.runtime.budget import parse_cap
from geal_edge.runtime.clusters import Rows
from geal_edge.runtime.distance import chord
from geal_edge.runtime.ladder import Certificate, Ladder, SelectedUnit
from geal_edge.runtime.observer import Observer, Silent
from geal_edge.runtime.release import Price
from geal_edge.runtime.spooldb import (
    DATABASE,
    FRAMES,
    MIGRATION,
    OWN_FILE,
    ROUND_END,
    database_errors,
    is_created,
    read_base,
    read_ladder,
    read_timeline,
    require_schema,
)
from geal_edge.runtime.timeline import Timeline
from geal_edge.runtime.verdicts import Verdict, read_verdict

STATUS_SCHEMA = "geal-edge/status/1"
LIST_SCHEMA = "geal-edge/list/1"
CHECK_SCHEMA = "geal-edge/check/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFrame:
    """One retained or released frame as it stands in the spool. Frames of one unit share all but what is named in the frame.

    state          "retained", or "released": final, and its place in the order with it
    round          the round that retained it
    place          in its unit, from 0
    clusters       places of its clusters among those of its unit
    order          place of its unit in the order of sending from 1: the released units, then the selected ones of the open round;
                   None = retained, but not selected for now
    distance       chord from its witness to the frames before it in that order; 0.0 for the first; None if not selected
    witness        the cluster that decides the distance (or, if not selected, that decided the novelty), counted in this
                   frame; None for the first, and where it is in another frame of the unit
    novelty        chord to everything its level held when it was seen; None for the first frame of a round
    radius         radius in force then; None once only the top level was alive
    patch_cluster  int16 (P,): cluster of each patch in row-major order, -1 = distilled away
    cluster_distances  chord of each of its clusters to the frames before it in the order; empty unless asked for, and for the
                   first, for released frames and for those that are not selected
    file           in a shadow there is none of this name; `bytes` and `sha256` are those that it would have
    cover_radius   every cluster seen is within this chord of the frames up to this one in the order: for the whole order
                   the certified radius, for a shorter prefix what it leaves uncovered of the retained frames plus the
                   certified radius, at most 2; None where no radius is certified, for released frames and for those that are
                   not selected
    """

    state: str
    round: int
    unit: int
    place: int
    clusters: range
    order: int | None
    distance: float | None
    witness: int | None
    id: str
    source: str
    frame_index: int
    capture_time_ns: int | None
    novelty: float | None
    radius: float | None
    file: Path
    bytes: int
    sha256: str
    patch_cluster: npt.NDArray[np.int16]
    cluster_distances: tuple[float, ...]
    cover_radius: float | None

    @property
    def witness_patches(self) -> list[int]:
        """Row-major indices of the patches that made this frame new; empty for the first frame, and where another frame of
        its unit has them."""
        return [] if self.witness is None else [int(p) for p in np.flatnonzero(self.patch_cluster == self.witness)]


Cause: TypeAlias = Literal["one_too_many", "max_retained", "round_end", "feature_space_changed"]
"""Why a frame was evicted: its last level ended of one frame too many, the limit on retained frames was reached, its round ended
without it, or a new bundle saw nothing new in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictedFrame:
    """One frame that was retained for a while. Its file is gone, and so are its clusters.

    novelty, radius  as of a StoredFrame: what it was retained for
    evicted_by       id of the frame whose decision evicted it
    cause            None where the spool no longer knows: its event is older than those it keeps
    bytes            size of the file that was removed
    """

    unit: int
    id: str
    source: str
    frame_index: int
    capture_time_ns: int | None
    novelty: float | None
    radius: float | None
    evicted_by: str
    cause: Cause | None
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One finding of `check`: a stable kind, and a sentence. `harmless` ones do not make a spool unsound."""

    kind: str
    detail: str
    harmless: bool = False


class SpoolView:
    """A spool as it is now. Get one with `open_view`."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self.path = path
        self._db = db
        self.meta: dict[str, str] = dict(db.execute("SELECT key, value FROM meta"))
        require_schema(path, self.meta.get("schema"))
        self.round, open_, self.budget, self.release, self.length_s, self.elapsed_s, price, certified = db.execute(
            "SELECT round, open, budget, release, length_s, elapsed_s, price, certified FROM rounds "
            "ORDER BY round DESC LIMIT 1"
        ).fetchone()
        self._certified = bool(certified)
        self._ladder: Ladder | None = None
        self.open = bool(open_)
        self._budget = json.loads(self.meta["budget"]) if "budget" in self.meta else None
        self._price = None if price is None else Price(**json.loads(price))

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        rows, columns = json.loads(self.meta["grid"])
        return rows, columns

    @property
    def untrained(self) -> bool:
        return bool(json.loads(self.meta["untrained"]))

    @property
    def shadow(self) -> bool:
        """Whether it decides and counts, and has no frames."""
        return "shadow" in self.meta

    @property
    def group_s(self) -> float | None:
        """The tolerance that formed its units, in seconds; None: every frame is a unit."""
        return float(json.loads(self.meta["group_s"])) if "group_s" in self.meta else None

    @property
    def timeline(self) -> Timeline:
        return read_timeline(self._db)

    def sources(self) -> list[dict[str, Any]]:
        """Sources in the order in which they were begun: name, spec, kind, fps, cursor, finished, first_seen."""
        rows = self._db.execute(
            "SELECT name, spec, kind, fps, cursor, finished, first_seen FROM sources ORDER BY first_seen, rowid"
        )
        names = [column[0] for column in rows.description]
        return [{**dict(zip(names, row, strict=True)), "finished": bool(row[5])} for row in rows]

    def events(self) -> list[dict[str, Any]]:
        """Events, oldest first: name, wall_ns, version, bundle, and the fields of its detail."""
        rows = self._db.execute("SELECT name, wall_ns, version, detail FROM events ORDER BY event")
        bundle = self.meta["bundle"]
        return [
            {"name": name, "wall_ns": wall_ns, "version": version, "bundle": bundle, **json.loads(detail)}
            for name, wall_ns, version, detail in rows
        ]

    def ladder(self) -> Ladder:
        """The selector, restored for asking only; once, since a full memory and all retained rows are read for it."""
        if self._ladder is None:
            self._ladder = read_ladder(self._db, self.round, read_base(self.path, self.meta["feature_space"]))
        return self._ladder

    def certificate(self) -> Certificate:
        """Of all that the open round has seen."""
        found = self._price.certificate() if self._price else self.ladder().certificate()
        return found if self._certified else replace(found, radius=None)

    def clusters(self) -> dict[int, Rows]:
        """unit -> rows, of all retained and released units that still have them."""
        frames = self._db.execute(
            "SELECT unit, clusters, cluster_count FROM units JOIN frames USING (unit) "
            "WHERE state IN ('retained', 'released') AND clusters IS NOT NULL ORDER BY unit, frame"
        )
        return {
            unit: np.concatenate([np.frombuffer(rows, "<f2").reshape(count, -1) for _, rows, count in of_unit])
            for unit, of_unit in groupby(frames, key=itemgetter(0))
        }

    def retained(self, *, cluster_distances: bool = False, watch: Observer | None = None) -> list[StoredFrame]:
        """All frames that are here to be sent or may be: the released ones and then the selected ones, in their order, then the
        rest by unit.

        The order is worked out now: of thousands of frames that takes a while, which `watch` can follow, and twice as
        long with the `cluster_distances` of a heat map.
        """
        ladder = self.ladder()
        watch = watch or Silent()
        watch.begin("ordering the selected frames", min(len(ladder.retained), ladder.room))
        certified = ladder.radius if self._certified else None
        picks = ladder.selected(row_distances=cluster_distances, on_pick=lambda _: watch.advance())
        final = [unit for (unit,) in self._db.execute(_RELEASED_UNITS)]
        places = {unit: place for place, unit in enumerate(final + [pick.unit for pick in picks], start=1)}
        selected = {pick.unit: pick for pick in picks}
        frames: list[StoredFrame] = []
        for row in self._db.execute(
            "SELECT state, round, unit, id, source, frame_index, capture_time_ns, squared_novelty, radius, witness, file, bytes, "
            "sha256, patch_cluster, cluster_count, released_squared, released_witness FROM units JOIN frames USING (unit) "
            "WHERE state IN ('retained', 'released') ORDER BY unit, frame"
        ):
            state, round_, unit, id_, source, index, time_ns, novelty, radius, witness, *rest = row
            file, size, digest, patches, count, squared, decisive = rest
            pick = selected.get(unit)
            if pick is not None:
                squared, decisive = pick.squared_distance, pick.witness
            elif state == "retained":
                decisive = witness
            before = frames[-1] if frames and frames[-1].unit == unit else None
            begin = before.clusters.stop if before else 0
            clusters = range(begin, begin + count)
            frames.append(
                StoredFrame(
                    state=state,
                    round=round_,
                    unit=unit,
                    place=before.place + 1 if before else 0,
                    clusters=clusters,
                    order=places.get(unit),
                    distance=None if squared is None else chord(squared),
                    witness=decisive - begin if decisive is not None and decisive in clusters else None,
                    id=id_,
                    source=source,
                    frame_index=index,
                    capture_time_ns=time_ns,
                    novelty=None if novelty is None else chord(novelty),
                    radius=radius,
                    file=self.path / FRAMES / (file or f"{unit:08d}"),
                    bytes=size,
                    sha256=digest,
                    patch_cluster=np.frombuffer(patches, "<i2").astype(np.int16),
                    cluster_distances=tuple(chord(d) for d in pick.cluster_squared[begin : clusters.stop])
                    if pick
                    else (),
                    cover_radius=_cover_radius(pick, certified, whole=pick is picks[-1]) if pick else None,
                )
            )
        return sorted(frames, key=lambda f: (f.order is None, f.order or 0, f.unit))

    def selected(self) -> list[StoredFrame]:
        """The released frames, then the selected ones of the open round, in the order of sending."""
        return [frame for frame in self.retained() if frame.order is not None]

    def evicted(self, *, at_most: int | None = None) -> list[EvictedFrame]:
        """Evicted frames, those that were retained last first; at most so many."""
        causes = self._causes()
        # Without a death by pressure there is only the other cause, however old the event.
        (pressed,) = self._db.execute("SELECT count(*) FROM deaths WHERE NOT natural").fetchone()
        default: Cause | None = None if pressed else "one_too_many"
        return [
            EvictedFrame(
                unit=unit,
                id=id_,
                source=source,
                frame_index=index,
                capture_time_ns=time_ns,
                novelty=None if novelty is None else chord(novelty),
                radius=radius,
                evicted_by=by,
                cause=_OWN_CAUSES.get(by) or causes.get((by, id_), default),
                bytes=size,
            )
            for unit, id_, source, index, time_ns, novelty, radius, by, size in self._db.execute(
                "SELECT unit, id, source, frame_index, capture_time_ns, squared_novelty, radius, evicted_by, bytes "
                "FROM units JOIN frames USING (unit) WHERE state = 'evicted' ORDER BY unit DESC, frame LIMIT ?",
                (-1 if at_most is None else at_most,),
            )
        ]

    def verdict(self, id_: str) -> Verdict | None:
        """What became of a frame that was seen and not retained; None where that is not known, or no longer."""
        return read_verdict(self._db, id_)

    def nearest(self, id_: str, unit: int | None = None) -> str | None:
        """id of the frame, or of the first of the unit, that held the cluster nearest to a frame's witness when it was seen;
        None where that was a remembered or known one. `unit` where the frame has no row of its own."""
        row = self._db.execute("SELECT nearest FROM units JOIN frames USING (unit) WHERE id = ?", (id_,)).fetchone()
        found = self._db.execute(
            "SELECT id FROM frames WHERE unit = ? ORDER BY frame", (unit if row is None else row[0],)
        ).fetchone()
        return None if found is None else str(found[0])

    def _causes(self) -> dict[tuple[str, str], Cause]:
        """(id of the frame that came, id of the evicted one) -> cause. A decision's `radius_raised` stands before its
        `units_evicted`."""
        causes: dict[tuple[str, str], Cause] = {}
        raised_by = None
        for event in self.events():
            if event["name"] == "radius_raised":
                raised_by = event["by"]
            elif event["name"] == "units_evicted":
                cause: Cause = "max_retained" if event["by"] == raised_by else "one_too_many"
                causes.update(((event["by"], unit), cause) for unit in event["units"])
                raised_by = None
        return causes

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """(frames by state, lost by reason). Each frame once: seen = lost + gated + not_new + retained + released + evicted."""
        counters = dict(self._db.execute("SELECT name, n FROM counters"))
        lost = {name.removeprefix("lost:"): n for name, n in counters.items() if name.startswith("lost:")}
        retained = self._frames_in("retained")
        frames = {
            "seen": counters.get("seen", 0),
            "not_new": counters.get("not_new", 0),
            "gated": sum(self.gated().values()),
            "lost": sum(lost.values()),
            "retained": retained,
            "selected": self._selected_frames(retained),
            "released": self._frames_in("released"),
            "sent": 0,
            "evicted": counters.get("evicted", 0),
        }
        return frames, lost

    def units(self) -> dict[str, int]:
        """Units that are retained and selected: as many as frames, but where units are formed of several."""
        (retained,) = self._db.execute("SELECT count(*) FROM units WHERE state = 'retained'").fetchone()
        return {"retained": retained, "selected": min(retained, self.budget - self.spent)}

    @property
    def spent(self) -> int:
        """Units that the open round has released: so much of its budget is gone."""
        (spent,) = self._db.execute(
            "SELECT count(*) FROM units WHERE state = 'released' AND round = ?", (self.round,)
        ).fetchone()
        return int(spent)

    def _frames_in(self, state: str) -> int:
        (n,) = self._db.execute(
            "SELECT count(*) FROM units JOIN frames USING (unit) WHERE state = ?", (state,)
        ).fetchone()
        return int(n)

    def _selected_frames(self, retained: int) -> int:
        """How many of the retained frames belong to selected units."""
        units = self.units()
        if units["retained"] == units["selected"]:
            return retained
        if units["retained"] == retained:
            return units["selected"]
        of_unit = dict(self._db.execute("SELECT unit, count(*) FROM frames GROUP BY unit"))
        if len(sizes := {of_unit[unit] for unit in self.ladder().retained}) == 1:
            return units["selected"] * int(sizes.pop())  # whichever they are: the order takes a while to work out
        return sum(of_unit[pick.unit] for pick in self.ladder().selected(row_distances=False))

    def gated(self) -> dict[str, int]:
        """Frames that a gate held back, by reason."""
        rows = self._db.execute("SELECT substr(name, 7), n FROM counters WHERE name LIKE 'gated:%' ORDER BY name")
        return dict(rows.fetchall())

    def status(self) -> dict[str, Any]:
        """The machine form of `status --json` (docs/formats.md)."""
        frames, lost = self.counts()
        certificate = self.certificate()
        counted = "frames" if self.group_s is None else "units"
        return {
            "schema": STATUS_SCHEMA,
            "producer": self.meta["producer"],
            "bundle": self.meta["bundle"],
            "feature_space": self.meta["feature_space"],
            "preset": self.meta["preset"],
            "untrained": self.untrained,
            "frames": frames,
            **({} if self.group_s is None else {"units": self.units(), "group_s": self.group_s}),
            "lost": lost,
            "gated": self.gated(),
            "budget": self.budgets(counted),
            **self.time_rule(),
            **({"shadow": True} if self.shadow else {}),
            "rounds": [
                {
                    "round": self.round,
                    "open": self.open,
                    "release": self.release,
                    "length_s": self.length_s,
                    "elapsed_s": self.elapsed_s,
                    "radius": certificate.radius,
                    "certificate": {"radius": certificate.radius, "lower_bound": certificate.lower_bound},
                }
            ],
            "sources": self.sources(),
        }

    def budgets(self, counted: str) -> list[dict[str, Any]]:
        """The round's budget, and of a live source the caps beside it: limit, spent, seconds until it starts anew."""
        state = self._budget
        refills_in_s = None if self.length_s is None else max(0.0, self.length_s - self.elapsed_s)
        lines = [
            {
                "unit": counted,
                "period": state and state["period"],
                "limit": self.budget,
                "spent": self.spent,
                "refills_in_s": refills_in_s,
            }
        ]
        for window in state["windows"] if state else ():
            cap = parse_cap(window["cap"])
            left_s = None if cap.length_s is None else max(0.0, cap.length_s - window["elapsed_s"])
            lines.append(
                {
                    "unit": "bytes" if cap.counts == "bytes" else counted,
                    "period": cap.period,
                    "limit": cap.limit,
                    "spent": window["spent"],
                    "refills_in_s": refills_in_s if state and cap.period == state["period"] else left_s,
                }
            )
        return lines

    def time_rule(self) -> dict[str, str]:
        """`synchronised`: time off counts; `powered`: it does not, since no clock can be believed (vehicletime.py)."""
        if self._budget is None:
            return {}
        return {"time_rule": "synchronised" if self._budget["moment"]["synchronised"] else "powered"}

    def tags_of(self, unit: int) -> list[str]:
        """Those of the run that retained it."""
        since: list[tuple[int, list[str]]] = json.loads(self.meta.get("tags", "[]"))
        return next((tags for first, tags in reversed(since) if first <= unit), [])

    def list_lines(self, *, retained: bool = False) -> Iterator[dict[str, Any]]:
        """One object per selected frame in order (with `retained`: then all the others too)."""
        id_of_unit = ""
        for frame in self.retained() if retained else self.selected():
            if frame.place == 0:
                id_of_unit = frame.id
            yield {
                "schema": LIST_SCHEMA,
                "untrained": self.untrained,
                "state": "selected" if frame.state == "retained" and frame.order is not None else frame.state,
                "round": frame.round,
                "order": frame.order,
                "unit": id_of_unit,
                "id": frame.id,
                "sha256": frame.sha256,
                "source": frame.source,
                "frame_index": frame.frame_index,
                "capture_time_ns": frame.capture_time_ns,
                "distance": frame.distance,
                "cover_radius": frame.cover_radius,
                "witness": {"patches": frame.witness_patches, "grid": list(self.grid)},
                "novelty": frame.novelty,
                "radius": frame.radius,
                "file": None if self.shadow else str(frame.file.relative_to(self.path)),
                "bytes": frame.bytes,
                **({"tags": self.tags_of(frame.unit)} if "tags" in self.meta else {}),
            }

    def check(self) -> list[Problem]:
        """Everything on disk that contradicts something else; an empty list is a sound spool. Changes nothing."""
        problems = [
            Problem(kind="database", detail=f"{DATABASE}: {line}")
            for (line,) in self._db.execute("PRAGMA integrity_check")
            if line != "ok"
        ]
        problems += self._check_counts()
        problems += self._check_levels()
        problems += self._check_files()
        return problems

    def _check_counts(self) -> Iterator[Problem]:
        counts, _ = self.counts()
        total = sum(counts[state] for state in ("lost", "gated", "not_new", "retained", "released", "evicted"))
        if counts["seen"] != total:
            yield Problem(
                kind="counts",
                detail=f"{counts['seen']} frames seen, but {total} lost, gated, not new, retained, released or evicted",
            )
        evicted = self._frames_in("evicted")
        if evicted != counts["evicted"]:
            yield Problem(
                kind="counts", detail=f"{counts['evicted']} evictions counted, {evicted} frames are marked evicted"
            )

    def _check_files(self) -> Iterator[Problem]:
        rows = self._db.execute(
            "SELECT state, file, bytes, sha256, id FROM frames JOIN units USING (unit) WHERE file IS NOT NULL"
        ).fetchall()
        for state, file, size, digest, id_ in rows:
            problem = self._check_file(state, file, size, digest, id_)
            # A running writer may have evicted it since: what counts is what its row says now.
            if problem is not None and self._state_now(file) == state:
                yield problem
        folder, named = self.path / FRAMES, {row[1] for row in rows}
        for name in sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else ():
            if name not in named and self._state_now(name) is None:
                own = OWN_FILE.fullmatch(name) is not None
                what = "no row names it (the next run removes it)" if own else "not ours, never touched"
                yield Problem(kind="orphan" if own else "foreign", detail=f"{name}: {what}", harmless=True)

    def _check_file(self, state: str, file: str, size: int, digest: str, id_: str) -> Problem | None:
        path = self.path / FRAMES / file
        if state == "evicted":
            unfinished = f"{file}: evicted, removal not finished (the next run does)"
            return Problem(kind="tombstone", detail=unfinished, harmless=True) if path.exists() else None
        try:
            data = path.read_bytes()
        except OSError as error:
            return Problem(kind="missing", detail=f"{file}: the retained frame {id_} cannot be read ({error.strerror})")
        if len(data) != size or sha256(data).hexdigest() != digest:
            return Problem(kind="altered", detail=f"{file}: the bytes are not those that were stored for {id_}")
        return None

    def _state_now(self, file: str) -> str | None:
        """The state of the unit that owns a file, as committed now and not when this view was opened; None: no unit does."""
        self._db.execute("COMMIT")
        self._db.execute("BEGIN")
        row = self._db.execute("SELECT state FROM frames JOIN units USING (unit) WHERE file = ?", (file,)).fetchone()
        return None if row is None else str(row[0])

    def _check_levels(self) -> Iterator[Problem]:
        ladder = self.ladder()
        for unit in ladder.snapshot():
            if not unit.levels:
                yield Problem(kind="levels", detail=f"unit {unit.unit} is retained, but no alive level holds it")
        held: dict[int, int] = {}
        for unit in ladder.snapshot():
            for level in unit.levels:
                held[level] = held.get(level, 0) + 1
        for level, count in sorted(held.items()):
            if count > self.budget:
                yield Problem(
                    kind="levels", detail=f"level {level} holds {count} units, more than the budget of {self.budget}"
                )


_OWN_CAUSES: dict[str, Cause] = {ROUND_END: "round_end", MIGRATION: "feature_space_changed"}
_RELEASED_UNITS = "SELECT unit FROM units WHERE state = 'released' ORDER BY round, release_order"


def _cover_radius(pick: SelectedUnit, certified: float | None, *, whole: bool) -> float | None:
    if certified is None or whole:
        return certified
    return min(2.0, chord(pick.cover_squared) + certified)


@contextmanager
def open_view(path: Path) -> Iterator[SpoolView]:
    """Open a spool for reading. Raises SpoolError where there is none, SpoolDamaged where it cannot be read.

    Beside a writer SQLite shares its files. Where the folder cannot be written (a card mounted read-only), the database is
    read from a private copy, because SQLite's WAL needs to create a file beside it.
    """
    database = path / DATABASE
    if not database.is_file():
        something_else = path.is_file() or (path.is_dir() and any(path.iterdir()))
        raise SpoolError(
            f"{path}: no spool here (no {DATABASE}). "
            + (
                f"`geal-edge inspect {path}` says what it is."
                if something_else
                else f"`geal-edge run SOURCE --bundle B --spool {path}` makes one."
            )
        )
    with tempfile.TemporaryDirectory() as scratch, database_errors(path):
        try:
            db = _read_only(database)
        except sqlite3.OperationalError:
            for suffix in ("", "-wal"):
                if (original := path / (DATABASE + suffix)).exists():
                    shutil.copyfile(original, Path(scratch) / original.name)
            db = sqlite3.connect(Path(scratch) / DATABASE, isolation_level=None)
        try:
            db.execute("BEGIN")  # one snapshot for all that is asked, whatever a running writer commits meanwhile
            if not is_created(db):
                raise SpoolError(f"{path}: this spool was never filled. Start `geal-edge run` on it.")
            try:
                yield SpoolView(path, db)
            except (ValueError, IndexError, TypeError, KeyError) as error:  # rows that no version of ours has written
                raise SpoolDamaged(
                    f"{database}: holds rows that cannot be read ({error!r}). Nothing was changed; keep a copy of the folder."
                ) from error
        finally:
            db.close()


def _read_only(database: Path) -> sqlite3.Connection:
    db = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=30.0)
    try:
        db.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.Error:
        db.close()
        raise
    return db
