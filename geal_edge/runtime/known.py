"""What is known already: frames that were labelled or uploaded before, as initial centres of a selection (`--known`).

A path is one of six things. A *picks file*: its frames are taken from the pool where they are in it, else read again from
their sources and encoded. A *spool*: its selected frames, whose clusters it holds. A *memory*: its frames, and what it is told
to ignore, which covers but makes no frame known. A *features folder*: all frames in it, grouped anew. A *label export*: the
images that it names (runtime/labelled.py). Anything else is opened as a *source* (a folder of images, say), and all its
frames are encoded.

A frame of the pool is known where its id or its sha256 is that of a known frame; it is then never picked.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geal_edge.config import ClusterConfig
from geal_edge.errors import FrameError, Interrupted, UsageError
from geal_edge.models.bundle import feature_space
from geal_edge.runtime.clusters import Rows
from geal_edge.runtime.encoder import Encoded
from geal_edge.runtime.features import HEAD, Encodes, Features, FrameRecord, record_of
from geal_edge.runtime.frame import Frame, LostFrame, usable
from geal_edge.runtime.kcenter import RawRows
from geal_edge.runtime.labelled import LabelExport, label_export
from geal_edge.runtime.memory import require_space
from geal_edge.runtime.memoryfile import is_memory, read_memory
from geal_edge.runtime.observer import Observer
from geal_edge.runtime.poolframe import PoolFrame, pool_frame
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.spooldb import DATABASE
from geal_edge.runtime.spoolview import open_view


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFrame:
    """One known frame. rows (C, D) in the form that the selection measures; None where it could not be read again."""

    id: str
    digest: str | None
    rows: Rows | RawRows | None = None
    embedding: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPath:
    """What a path held: kind `picks`, `spool`, `memory`, `features`, `labels` or `source`.

    ignored  rows that count as covered and are of no known frame
    """

    path: str
    kind: str
    frames: tuple[KnownFrame, ...]
    ignored: tuple[Rows, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """All that is known; empty where nothing was named."""

    paths: tuple[KnownPath, ...] = ()

    @property
    def frames(self) -> list[KnownFrame]:
        return [frame for path in self.paths for frame in path.frames]

    def rows(self) -> npt.NDArray[Any] | None:
        """(M, D) clusters of all known frames and of what is to be ignored, None where there are none."""
        rows = [frame.rows for frame in self.frames if frame.rows is not None]
        rows += [ignored for path in self.paths for ignored in path.ignored]
        return np.concatenate(rows) if rows else None

    def embeddings(self) -> npt.NDArray[np.float32] | None:
        """(m, D) CLS embeddings of the known frames, None where there are none."""
        found = [frame.embedding for frame in self.frames if frame.embedding is not None]
        return np.stack(found) if found else None

    def open_frames(self, pool: Sequence[PoolFrame]) -> list[int]:
        """Indices of the frames that are not known, and so may be picked."""
        ids = {frame.id for frame in self.frames}
        digests = {frame.digest for frame in self.frames} - {None}
        return [i for i, frame in enumerate(pool) if frame.id not in ids and frame.digest not in digests]


def read_known(
    paths: Sequence[Path],
    *,
    pool: Sequence[PoolFrame],
    encoder: Encodes,
    recipe: ClusterConfig,
    raw: bool,
    embedding: bool,
    watch: Observer,
    stop: Callable[[], bool] = lambda: False,
) -> Known:
    """Read what `--known` names, in the same form as the pool's frames (`raw`, `embedding`).

    Raises FeatureSpaceMismatch where a spool's, memory's or features folder's space is another, UsageError where a path is
    nothing that can be known, SpoolError where a memory cannot be used, Interrupted once `stop()` says so. A frame that
    cannot be read again is said, and not picked.
    """
    reader = _Reader(pool, encoder, recipe, raw, embedding, watch, stop)
    return Known(tuple(reader.read(path) for path in paths))


@dataclass(frozen=True, slots=True)
class _Reader:
    pool: Sequence[PoolFrame]
    encoder: Encodes
    recipe: ClusterConfig
    raw: bool
    embedding: bool
    watch: Observer
    stop: Callable[[], bool]

    def read(self, path: Path) -> KnownPath:
        if (path / DATABASE).is_file():
            kind, frames = "spool", self._of_spool(path)
        elif is_memory(path):
            return self._of_memory(path)
        elif (path / HEAD).is_file():
            kind, frames = "features", self._of_features(path)
        elif (export := label_export(path)) is not None:
            kind, frames = "labels", self._of_labels(path, export)
        elif path.suffix.lower() == ".json" and not path.is_dir():
            kind, frames = "picks", self._of_picks(path)
        else:
            kind, frames = "source", self._of_source(path)
        self.watch.begin(f"known: {path}", None)
        found = []
        for frame in frames:
            found.append(frame)
            self.watch.advance()
            if self.stop():
                raise Interrupted("Stopped before the selection; nothing was written.")
        return KnownPath(path=str(path), kind=kind, frames=tuple(found))

    def _of_spool(self, path: Path) -> Iterator[KnownFrame]:
        self._require_canonical(path, "a spool")
        return known_of_spool(path, feature_space(self.encoder.bundle.manifest, self.recipe))

    def _of_memory(self, path: Path) -> KnownPath:
        self._require_canonical(path, "a memory")
        memory = read_memory(path)
        require_space(path, memory.feature_space, feature_space(self.encoder.bundle.manifest, self.recipe))
        frames = tuple(KnownFrame(id=e.id, digest=e.sha256, rows=e.rows) for e in memory.frames)
        ignored = tuple(entry.rows for entry in memory.entries if entry.kind == "ignore")
        return KnownPath(path=str(path), kind="memory", frames=frames, ignored=ignored)

    def _require_canonical(self, path: Path, what: str) -> None:
        if self.raw or self.embedding:
            needed = "raw clusters, as the Euclidean metric needs" if self.raw else "CLS embeddings, as Core-Set needs"
            raise UsageError(f"{path}: {what} holds no {needed}. Leave it out, or name its sources' images.")

    def _of_labels(self, path: Path, export: LabelExport) -> Iterator[KnownFrame]:
        for name in export.absent:
            self.watch.warn(f"{path}: {name} is labelled, but not here, so it is not known.")
        for item in export.source.frames():
            yield self._encoded(item)

    def _of_features(self, path: Path) -> Iterator[KnownFrame]:
        with Features(path, self.encoder.bundle.manifest, writable=False) as features:
            if self.embedding and not features.has_cls:
                raise UsageError(f"{path}: these features were stored without CLS embeddings, as Core-Set needs.")
            for source in features.sources:
                for record, encoded in features.frames(source):
                    yield self._judged(record, encoded)

    def _of_source(self, path: Path) -> Iterator[KnownFrame]:
        for item in open_source(str(path)).frames():
            yield self._encoded(item)

    def _of_picks(self, path: Path) -> Iterator[KnownFrame]:
        from geal_edge.runtime.selection import read_again, read_selection  # which reads picks files with pool.py

        in_pool = {frame.id: frame for frame in self.pool}
        selection = read_selection(path)
        for source in selection.sources:
            picked = {f.frame_index: f for f in selection.frames if f.source == source.name}
            for frame in picked.values():
                if frame.id in in_pool:
                    yield _known(in_pool[frame.id])
            absent = {index: frame for index, frame in picked.items() if frame.id not in in_pool}
            if not absent:
                continue
            for index, item in read_again(source, absent, stop=self.stop):
                if isinstance(item, str):
                    self.watch.warn(f"{absent[index].id}: known, but not counted as covered: {item}")
                    yield KnownFrame(id=absent[index].id, digest=absent[index].sha256)
                else:
                    yield self._encoded(item)

    def _encoded(self, item: Frame | LostFrame) -> KnownFrame:
        try:
            frame = usable(item)
            encoded = self.encoder(frame.image)
        except FrameError as error:
            self.watch.warn(f"{item.id}: known, but not counted as covered: {error}")
            return KnownFrame(id=item.id, digest=None)
        return self._judged(record_of(frame), encoded)

    def _judged(self, record: FrameRecord, encoded: Encoded) -> KnownFrame:
        try:
            return _known(
                pool_frame(
                    record,
                    encoded,
                    self.recipe,
                    grid=self.encoder.bundle.manifest.grid,
                    raw=self.raw,
                    embedding=self.embedding,
                )
            )
        except FrameError as error:
            self.watch.warn(f"{record.id}: known, but not counted as covered: {error}")
            return KnownFrame(id=record.id, digest=record.digest)


def known_of_spool(path: Path, wanted: str) -> Iterator[KnownFrame]:
    """The selected frames of a spool, with the clusters that it holds. Raises FeatureSpaceMismatch unless they are `wanted`."""
    with open_view(path) as view:
        require_space(path, view.meta["feature_space"], wanted)
        rows = view.clusters()
        for frame in view.selected():
            own = slice(frame.clusters.start, frame.clusters.stop)
            # One that was sent before a new bundle came has no clusters in its feature space.
            yield KnownFrame(
                id=frame.id, digest=frame.sha256, rows=rows[frame.unit][own] if frame.unit in rows else None
            )


def _known(frame: PoolFrame) -> KnownFrame:
    return KnownFrame(id=frame.id, digest=frame.digest, rows=frame.rows, embedding=frame.embedding)
