"""Reading a spool: what `status`, `list`, `report` and `check` are made of. Never writes, and works beside a running writer."""

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.errors import SpoolDamaged, SpoolError
from geal_edge.runtime import durable
from geal_edge.runtime.aging import RETENTION
from geal_edge.runtime.budget import budget_lines
from geal_edge.runtime.clusters import Rows
from geal_edge.runtime.context import ContextFrame, stored_context
from geal_edge.runtime.distance import chord
from geal_edge.runtime.erasure import erasure_of
from geal_edge.runtime.identity import identities_of_events, identity_now
from geal_edge.runtime.ladder import Certificate, Ladder, SelectedUnit
from geal_edge.runtime.lostcommits import damaged_log
from geal_edge.runtime.metadata import Metadata, stored_metadata
from geal_edge.runtime.observer import Observer, Silent
from geal_edge.runtime.outgoing import Outgoing, ended_round, read_queue, upload_facts, upload_state
from geal_edge.runtime.pins import UNPINNED, pinned_units
from geal_edge.runtime.pressure import disk_state
from geal_edge.runtime.privacy.filter import About, PrivacyFilter
from geal_edge.runtime.privacy.leaving import Door, Leaving
from geal_edge.runtime.privacy.rules import Rules, read_rules
from geal_edge.runtime.refusals import read_refusals
from geal_edge.runtime.release import Price
from geal_edge.runtime.soundness import (
    count_faults,
    database_faults,
    file_faults,
    level_faults,
    memory_faults,
    row_faults,
)
from geal_edge.runtime.spooldb import (
    DATABASE,
    FRAMES,
    LOCK,
    MIGRATION,
    REPAIR,
    ROUND_END,
    UPLOAD_LOCK,
    first_place,
    has_table,
    is_created,
    read_base,
    read_ladder,
    read_timeline,
    reading,
    require_no_frames,
    require_schema,
    tables_with,
    tags_of,
)
from geal_edge.runtime.timeline import Timeline
from geal_edge.runtime.verdicts import Verdict, read_verdict, read_verdicts

STATUS_SCHEMA = "geal-edge/status/1"
LIST_SCHEMA = "geal-edge/list/1"
CHECK_SCHEMA = "geal-edge/check/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFrame:
    """One retained or released frame as it stands in the spool. Frames of one unit share all but what is named in the frame.

    state          "retained"; "released": final, and its place in the order with it; "sent": that, and the far side has it; or
                   "pinned": only a pin holds it
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
    context        pictures before and after it, in order of capture time; files beside `file`
    metadata       what the vehicle said of it; empty where it said nothing
    has_file       whether it is in the spool: not in a shadow, and not once it was sent
    pinned         whether a person wants it to stay, whatever is decided
    file           where there is none of this name, `bytes` and `sha256` are those that it had, or would have
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
    metadata: Metadata
    has_file: bool
    context: tuple[ContextFrame, ...]
    pinned: bool
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

    def leaving(self, door: Door) -> Leaving | None:
        """Its picture, for whoever gives it away; None where it is not in the spool."""
        about = About(id=self.id, source=self.source, capture_time_ns=self.capture_time_ns)
        return Leaving(file=self.file, sha256=self.sha256, about=about, door=door) if self.has_file else None


Cause: TypeAlias = Literal[
    "one_too_many",
    "max_retained",
    "quota",
    "free_space",
    "disk_full",
    "round_end",
    "feature_space_changed",
    "unpinned",
    "repair",
    "retention",
]
"""Why a frame was evicted: its last level ended of one frame too many, or was given up for the limit on retained frames, the
quota, free space or a full disk; its round ended without it, a new bundle saw nothing new in it, only a pin had held it, it
was damaged, or it was too old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictedFrame:
    """One frame that was retained for a while. Its file is gone, and so are its clusters, but of an expired one.

    state            `evicted` or `expired`
    novelty, radius  as of a StoredFrame: what it was retained for
    evicted_by       id of the frame whose decision evicted it
    cause            None where the spool no longer knows: its event is older than those it keeps
    bytes            size of the file that was removed
    """

    state: str
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
    def rules(self) -> Rules:
        """What pictures and positions are to pass before they leave."""
        return read_rules(self.meta)

    def door(self, privacy: PrivacyFilter | None = None) -> Door:
        """What the pictures leave through, with what whoever asks does to them."""
        return Door(self._db, self.path, privacy=privacy)

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

    def events(self, *, after: int = 0) -> list[dict[str, Any]]:
        """Events behind the one of that number, oldest first: event (its number), name, wall_ns, version, whose it is
        (identity.py), and the fields of its detail."""
        rows = self._db.execute(
            "SELECT event, name, wall_ns, version, detail FROM events WHERE event > ? ORDER BY event", (after,)
        )
        whose = identities_of_events(self._db)
        return [
            {"event": event, "name": name, "wall_ns": wall_ns, "version": version, **whose(event), **json.loads(detail)}
            for event, name, wall_ns, version, detail in rows
        ]

    @property
    def last_event(self) -> int:
        """Number of the newest event that there ever was; 0: none yet."""
        (last,) = self._db.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'").fetchone()
        return int(last)

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
        """unit -> rows, of all retained, released, sent and pinned units that still have them."""
        frames = self._db.execute(
            "SELECT unit, clusters, cluster_count FROM units JOIN frames USING (unit) "
            "WHERE state IN ('retained', 'released', 'sent', 'pinned') AND clusters IS NOT NULL ORDER BY unit, frame"
        )
        return {
            unit: np.concatenate([np.frombuffer(rows, "<f2").reshape(count, -1) for _, rows, count in of_unit])
            for unit, of_unit in groupby(frames, key=itemgetter(0))
        }

    def retained(
        self,
        *,
        cluster_distances: bool = False,
        pinned: bool = False,
        rules: Rules | None = None,
        watch: Observer | None = None,
    ) -> list[StoredFrame]:
        """All frames that were sent, are to be or may be: those that are final and then the selected ones, in their order, then
        the rest by unit; with `pinned` also those that only a pin holds. Their metadata tell the position as `rules` have it: the
        door's, of whoever gives them away; None: the spool's.

        The order is worked out now: of thousands of frames that takes a while, which `watch` can follow, and twice as
        long with the `cluster_distances` of a heat map.
        """
        ladder = self.ladder()
        watch = watch or Silent()
        watch.begin("ordering the selected frames", min(len(ladder.retained), ladder.room))
        certified = ladder.radius if self._certified else None
        picks = ladder.selected(row_distances=cluster_distances, on_pick=lambda _: watch.advance())
        firsts = {round_: first_place(self._db, round_) for (round_,) in self._db.execute("SELECT round FROM rounds")}
        places = {unit: firsts[round_] + order - 1 for unit, round_, order in self._db.execute(_RELEASED_UNITS)}
        places |= {pick.unit: place for place, pick in enumerate(picks, start=first_place(self._db, self.round + 1))}
        selected = {pick.unit: pick for pick in picks}
        metadata, context = stored_metadata(self._db, rules or self.rules), stored_context(self._db)
        pins = pinned_units(self._db)
        frames: list[StoredFrame] = []
        for row in self._db.execute(
            "SELECT state, round, unit, id, source, frame_index, capture_time_ns, squared_novelty, radius, witness, file, bytes, "
            "sha256, patch_cluster, cluster_count, released_squared, released_witness FROM units JOIN frames USING (unit) "
            "WHERE state IN ('retained', 'released', 'sent', ?) ORDER BY unit, frame",
            ("pinned" if pinned else "retained",),
        ):
            state, round_, unit, id_, source, index, time_ns, novelty, radius, witness, *rest = row
            file, size, digest, patches, count, squared, decisive = rest
            pick = selected.get(unit)
            if pick is not None:
                squared, decisive = pick.squared_distance, pick.witness
            elif state not in ("released", "sent"):
                decisive = witness
            before = frames[-1] if frames and frames[-1].unit == unit else None
            begin = before.clusters.stop if before else 0
            clusters = range(begin, begin + count)
            place = before.place + 1 if before else 0
            frames.append(
                StoredFrame(
                    state=state,
                    round=round_,
                    unit=unit,
                    place=place,
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
                    metadata=metadata.get((unit, place), {}),
                    has_file=file is not None and state != "sent",
                    context=context.get((unit, place), ()),
                    pinned=unit in pins,
                    file=self.path / FRAMES / (file or f"{unit:08d}"),
                    bytes=size,
                    sha256=digest,
                    patch_cluster=np.frombuffer(patches or b"", "<i2").astype(np.int16),
                    cluster_distances=tuple(chord(d) for d in pick.cluster_squared[begin : clusters.stop])
                    if pick
                    else (),
                    cover_radius=_cover_radius(pick, certified, whole=pick is picks[-1]) if pick else None,
                )
            )
        return sorted(frames, key=lambda f: (f.order is None, f.order or 0, f.unit))

    def selected(self, *, rules: Rules | None = None) -> list[StoredFrame]:
        """The released frames, then the selected ones of the open round, in the order of sending."""
        return [frame for frame in self.retained(rules=rules) if frame.order is not None]

    def evicted(self, *, at_most: int | None = None, expired: bool = False) -> list[EvictedFrame]:
        """Evicted frames, with `expired` also those that were too old; those that were retained last first; at most so many."""
        causes = self._causes()
        # Without a death by pressure there is only the other cause, however old the event.
        (pressed,) = self._db.execute("SELECT count(*) FROM deaths WHERE NOT natural").fetchone()
        default: Cause | None = None if pressed else "one_too_many"
        return [
            EvictedFrame(
                state=state,
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
            for state, unit, id_, source, index, time_ns, novelty, radius, by, size in self._db.execute(
                "SELECT state, unit, id, source, frame_index, capture_time_ns, squared_novelty, radius, evicted_by, bytes "
                "FROM units JOIN frames USING (unit) WHERE state IN ('evicted', ?) ORDER BY unit DESC, frame LIMIT ?",
                ("expired" if expired else "evicted", -1 if at_most is None else at_most),
            )
        ]

    def erased(self, id_: str) -> tuple[int, str] | None:
        """(when by the wall clock, by which rule) a frame was erased; None where none of this id was."""
        return erasure_of(self._db, id_)

    def verdict(self, id_: str) -> Verdict | None:
        """What became of a frame that was seen and not retained; None where that is not known, or no longer."""
        return read_verdict(self._db, id_)

    def verdicts(self, state: str, *, at_most: int) -> Iterator[Verdict]:
        """The newest frames that were seen and not retained, newest first. state: `not_new`, `lost` or `gated`."""
        return read_verdicts(self._db, state, at_most)

    def nearest(self, id_: str, unit: int | None = None) -> str | None:
        """id of the frame, or of the first of the unit, that held the cluster nearest to a frame's witness when it was seen;
        None where that was a remembered or known one. `unit` where the frame has no row of its own."""
        row = self._db.execute("SELECT nearest FROM units JOIN frames USING (unit) WHERE id = ?", (id_,)).fetchone()
        return self.first_of(unit if row is None else row[0])

    def first_of(self, unit: int | None) -> str | None:
        """id of a unit's first frame; None where it is gone."""
        found = self._db.execute("SELECT id FROM frames WHERE unit = ? ORDER BY frame", (unit,)).fetchone()
        return None if found is None else str(found[0])

    def _causes(self) -> dict[tuple[str, str], Cause]:
        """(id of the frame that came, id of the evicted one) -> cause. A decision's `radius_raised` stands before its
        `units_evicted`."""
        causes: dict[tuple[str, str], Cause] = {}
        raised_by = None
        pressure: Cause = "max_retained"
        for event in self.events():
            if event["name"] == "radius_raised":
                raised_by, pressure = event["by"], event["cause"]
            elif event["name"] == "units_evicted":
                cause: Cause = pressure if event["by"] == raised_by else "one_too_many"
                causes.update(((event["by"], unit), cause) for unit in event["units"])
                raised_by = None
        return causes

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """(frames by state, lost by reason). Each frame once: seen is the sum of all but `selected`, which are retained ones."""
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
            "sent": self._frames_in("sent"),
            "evicted": counters.get("evicted", 0),
            "pinned": self._frames_in("pinned"),
            "expired": self._frames_in("expired"),
            "erased": counters.get("erased", 0),
        }
        return frames, lost

    def units(self) -> dict[str, int]:
        """Units that are retained and selected: as many as frames, but where units are formed of several."""
        (retained,) = self._db.execute("SELECT count(*) FROM units WHERE state = 'retained'").fetchone()
        return {"retained": retained, "selected": min(retained, self.budget - self.spent)}

    @property
    def spent(self) -> int:
        """Units that the open round has released, sent or not: so much of its budget is gone."""
        (spent,) = self._db.execute(
            "SELECT count(*) FROM units WHERE state IN ('released', 'sent', 'expired') AND release_order > 0 AND round = ?",
            (self.round,),
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

    def refusals(self) -> tuple[int, ...]:
        """How new the frames were that were not new (refusals.py)."""
        return read_refusals(self._db)

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
            **identity_now(self._db),
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
            "upload": upload_state(self._db),
            "disk": self.disk(),
        }

    def beat(self) -> dict[str, Any]:
        """What a vehicle says of itself to the far side (upload/heartbeat.py): counts, cheap to ask for."""
        frames, lost = self.counts()
        who = identity_now(self._db)
        return {
            "trip": who["trip"],
            "config": who["config"],
            "bundle": self.meta["bundle"],
            "untrained": self.untrained,
            "frames": frames,
            "lost": lost,
            "gated": self.gated(),
            "budget": self.budgets("frames" if self.group_s is None else "units"),
            "round": self.round,
            "radius": self.timeline.buckets[-1].radius if self.timeline.buckets else None,
            "upload": upload_state(self._db),
        }

    def tally(self) -> dict[str, Any]:
        """What metrics tell of it, and no more (metrics.py): sums that a few queries give, however long it has been filled."""
        known = has_table(self._db, "link")
        return {
            "counters": dict(self._db.execute("SELECT name, n FROM counters")),
            "frames": {
                state: self._frames_in(state) for state in ("retained", "released", "sent", "pinned", "expired")
            },
            "upload": upload_state(self._db),
            "uploaded_bytes": self._db.execute("SELECT coalesce(sum(bytes), 0) FROM acknowledged").fetchone()[0]
            if known
            else 0,
            "set_aside": dict(
                self._db.execute(
                    "SELECT reason, count(*) FROM set_aside JOIN units USING (unit) WHERE state = 'released' GROUP BY reason"
                )
            )
            if known
            else {},
            "uploader": durable.is_locked(self.path / UPLOAD_LOCK),
            "vehicle": identity_now(self._db)["vehicle"],
        }

    def disk(self) -> dict[str, Any]:
        """How full it is, may be, and what waits in it (docs/formats.md)."""
        return disk_state(self._db, self.path, json.loads(self.meta.get("disk", "{}")))

    def budgets(self, counted: str) -> list[dict[str, Any]]:
        """The round's budget, and of a live source the caps beside it: limit, spent, seconds until it starts anew."""
        return budget_lines(
            self._budget,
            counted=counted,
            limit=self.budget,
            spent=self.spent,
            length_s=self.length_s,
            elapsed_s=self.elapsed_s,
        )

    def time_rule(self) -> dict[str, str]:
        """`synchronised`: time off counts; `powered`: it does not, since no clock can be believed (vehicletime.py)."""
        if self._budget is None:
            return {}
        return {"time_rule": "synchronised" if self._budget["moment"]["synchronised"] else "powered"}

    @property
    def vehicle(self) -> str | None:
        """Whose it is, as the last run said; None where none did."""
        vehicle: str | None = identity_now(self._db)["vehicle"]
        return vehicle

    def outgoing(self) -> Iterator[Outgoing]:
        """Released units that wait to be sent, in their order."""
        return read_queue(self._db, self.path)

    def released_by_upload(self) -> bool:
        """Whether an upload would release what is selected, since its recorded sources were read to their end."""
        return ended_round(self._db) is not None

    def upload_facts(self, unit: int) -> dict[str, Any]:
        """Why a released unit has not been sent, or how it was (outgoing.py)."""
        return upload_facts(self._db, unit)

    def list_lines(self, *, retained: bool = False) -> Iterator[dict[str, Any]]:
        """One object per selected frame in order (with `retained`: then all the others too)."""
        id_of_unit = ""
        for frame in self.retained(pinned=True) if retained else self.selected():
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
                "file": str(frame.file.relative_to(self.path)) if frame.has_file else None,
                "bytes": frame.bytes,
                **({"pinned": True} if frame.pinned else {}),
                **({"metadata": frame.metadata} if frame.metadata else {}),
                **({"context": [self._context_line(each) for each in frame.context]} if frame.context else {}),
                **({"tags": tags_of(self.meta, frame.unit)} if "tags" in self.meta else {}),
            }

    def _context_line(self, context: ContextFrame) -> dict[str, Any]:
        return {**asdict(context), "file": f"{FRAMES}/{context.file}"}

    def check(self) -> list[Problem]:
        """Everything on disk that contradicts something else; an empty list is a sound spool. Changes nothing."""
        log_damage = damaged_log(self.path / f"{DATABASE}-wal")
        problems = [Problem(kind="database", detail=f"{DATABASE}: {line}") for line in database_faults(self._db)]
        problems += [Problem(kind="database", detail=log_damage)] if log_damage else []
        problems += [Problem(kind="counts", detail=detail) for detail in count_faults(self._db)]
        rows = [Problem(kind="rows", detail=f"unit {each.unit}: {each.detail}") for each in row_faults(self._db)]
        problems += rows or self._check_levels()
        problems += [Problem(kind="memory", detail=detail) for _, detail in memory_faults(self._db, self.path)]
        damaged = log_damage is not None
        for fault in file_faults(self._db, self.path, damaged=damaged, look_anew=self._look_anew):
            # A running writer may have evicted it since: what counts is what its row says now.
            if self._state_now(fault.file) == fault.state:
                harmless = fault.kind in ("tombstone", "orphan", "foreign")
                problems.append(Problem(kind=fault.kind, detail=fault.detail, harmless=harmless))
        return problems

    def _check_levels(self) -> list[Problem]:
        homeless, overfull = level_faults(self._db)
        return [
            *(
                Problem(kind="levels", detail=f"unit {unit} is retained, but no alive level holds it")
                for unit in homeless
            ),
            *(Problem(kind="levels", detail=f"level {level} holds more units than the budget") for level in overfull),
        ]

    def _state_now(self, file: str) -> str | None:
        """The state of the unit that owns a file, as committed now and not when this view was opened; None: no unit does."""
        self._look_anew()
        for table in ("frames", *tables_with(self._db, "unit", "file")):
            query = f"SELECT state FROM {table} JOIN units USING (unit) WHERE file = ?"  # noqa: S608 - our table
            row = self._db.execute(query, (file,)).fetchone()
            if row is not None:
                return str(row[0])
        return None

    def _look_anew(self) -> None:
        self._db.execute("COMMIT")
        self._db.execute("BEGIN")


COPIES = 5
"""A database is copied so often at most until nobody has written meanwhile."""
_OWN_CAUSES: dict[str, Cause] = {
    ROUND_END: "round_end",
    MIGRATION: "feature_space_changed",
    UNPINNED: "unpinned",
    REPAIR: "repair",
    RETENTION: "retention",
}
_RELEASED_UNITS = "SELECT unit, round, release_order FROM units WHERE state IN ('released', 'sent')"


def _cover_radius(pick: SelectedUnit, certified: float | None, *, whole: bool) -> float | None:
    if certified is None or whole:
        return certified
    return min(2.0, chord(pick.cover_squared) + certified)


@contextmanager
def open_view(path: Path, *, untouched: bool = False) -> Iterator[SpoolView]:
    """Open a spool for reading. Raises SpoolError where there is none, SpoolDamaged where it cannot be read.

    Beside a writer SQLite shares its files. Where the folder cannot be written (a card mounted read-only), the database is
    read from a private copy, because SQLite's WAL needs to create a file beside it; so it is where nothing at all may change
    (`untouched`) and no writer has made that file already.
    """
    database = path / DATABASE
    if not database.is_file():
        require_no_frames(path)
        something_else = path.is_file() or (path.is_dir() and any(path.iterdir()))
        raise SpoolError(
            f"{path}: no spool here (no {DATABASE}). "
            + (
                f"`geal-edge inspect {path}` says what it is."
                if something_else
                else f"`geal-edge run SOURCE --bundle B --spool {path}` makes one."
            )
        )
    with ExitStack() as scratch, reading(path):
        if untouched and not durable.is_locked(path / LOCK):
            db = private_copy(path, Path(scratch.enter_context(tempfile.TemporaryDirectory())))
        else:
            try:
                db = _read_only(database)
            except sqlite3.OperationalError:
                db = private_copy(path, Path(scratch.enter_context(tempfile.TemporaryDirectory())))
        try:
            db.execute("BEGIN")  # one snapshot for all that is asked, whatever a running writer commits meanwhile
            if not is_created(db):
                require_no_frames(path)
                raise SpoolError(f"{path}: this spool was never filled. Start `geal-edge run` on it.")
            yield SpoolView(path, db)
        finally:
            db.close()


def is_sound(path: Path) -> bool:
    """Whether `check` finds nothing but what does no harm; a spool that was never filled is."""
    if not (path / DATABASE).exists():
        return True
    with open_view(path, untouched=True) as view:
        return all(problem.harmless for problem in view.check())


def private_copy(spool: Path, scratch: Path) -> sqlite3.Connection:
    """The database as its files are now, read from copies in `scratch`. They are taken again where somebody has written
    meanwhile, as `geal-edge pin` may: half of the one and half of the other would look like damage."""
    originals = [spool / (DATABASE + suffix) for suffix in ("", "-wal")]
    for _ in range(COPIES):
        before = _stamps(originals)
        for original in originals:
            (scratch / original.name).unlink(missing_ok=True)
            try:
                shutil.copyfile(original, scratch / original.name)
            except FileNotFoundError:
                pass  # there is no log, or there is none any more
            except OSError as error:
                raise SpoolDamaged(f"{original}: cannot be read ({error.strerror}). Nothing was changed.") from error
        if _stamps(originals) == before:
            break
    return sqlite3.connect(scratch / DATABASE, isolation_level=None)


def _stamps(files: Sequence[Path]) -> list[tuple[int, int] | None]:
    """(bytes, when it was changed) of each file; None where it is not there."""
    return [(file.stat().st_size, file.stat().st_mtime_ns) if file.exists() else None for file in files]


def _read_only(database: Path) -> sqlite3.Connection:
    db = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=30.0)
    try:
        db.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.Error:
        db.close()
        raise
    return db
