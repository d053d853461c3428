"""Filling a memory file by hand (`geal-edge memory add` and `merge`): known frames, and regions that are to be ignored.

    paths -> known.py -> entries -> memory.py -> file
    a selected frame -> its clusters in the marked region -> entry

What is ignored is clusters, never a frame: those that made the frame new, or those that lie mostly in a region. So a vehicle's
own bonnet, once marked, is covered in every picture, and what stands beside it is as new as before.
"""

import difflib
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geal_edge.errors import FrameError, SourceError, UsageError
from geal_edge.runtime import durable
from geal_edge.runtime.clusters import Rows
from geal_edge.runtime.features import Encodes, record_of
from geal_edge.runtime.frame import usable
from geal_edge.runtime.known import KnownPath, known_of_spool, read_known
from geal_edge.runtime.memory import Entry, Mark, Memory, Region, merge, remember, require_space
from geal_edge.runtime.memoryfile import is_memory, read_memory, write_memory
from geal_edge.runtime.observer import Observer
from geal_edge.runtime.poolframe import PoolFrame, pool_frame
from geal_edge.runtime.selection import SelectedFrame, Selection, read_again, read_selection
from geal_edge.runtime.spooldb import DATABASE
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.threads import one_blas_thread


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """Clusters of a frame to be ignored, of this feature space."""

    feature_space: str
    entry: Entry


def add_known(
    path: Path,
    paths: Sequence[Path],
    *,
    encoder: Encodes | None,
    watch: Observer,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Memory, Memory]:
    """Remember all frames of `paths` (whatever `select --known` takes) as known, in the memory file `path`, which is made
    where it is absent. Without an encoder they must be spools. Gives the memory before and after.

    A frame that cannot be read any more is said, and not remembered. Raises what `read_known` and `read_memory` raise, and
    UsageError where an encoder is needed, or a memory is among the paths: those are merged.
    """
    for each in paths:
        if is_memory(each):
            raise UsageError(
                f"{each}: is a memory itself. Put them together with `geal-edge memory merge {path} {each}`."
            )
        if encoder is None and not _is_spool(each):
            raise UsageError(f"{each}: is no spool, so its frames must be encoded. Name a bundle with --bundle.")
    with _changing(path), one_blas_thread():
        memory = _memory_at(path, _space_of(paths[0], encoder))
        entries = []
        for found in _known(paths, memory, encoder, watch, stop):
            entries += [
                Entry(
                    id=frame.id,
                    kind="known",
                    rows=frame.rows.astype(np.float16),
                    origin=found.path,
                    sha256=frame.digest,
                )
                for frame in found.frames
                if frame.rows is not None
            ]
        after = remember(memory, entries)
        write_memory(path, after)
    return memory, after


def _known(
    paths: Sequence[Path], memory: Memory, encoder: Encodes | None, watch: Observer, stop: Callable[[], bool]
) -> Sequence[KnownPath]:
    if encoder is None:
        return [
            KnownPath(path=str(path), kind="spool", frames=tuple(known_of_spool(path, memory.feature_space)))
            for path in paths
        ]
    manifest = encoder.bundle.manifest
    require_space(encoder.bundle.path, manifest.feature_space, memory.feature_space)
    recipe = manifest.clusters
    known = read_known(
        paths, pool=[], encoder=encoder, recipe=recipe, raw=False, embedding=False, watch=watch, stop=stop
    )
    return known.paths


def _space_of(path: Path, encoder: Encodes | None) -> str:
    if encoder is not None:
        return encoder.bundle.manifest.feature_space
    with open_view(path) as view:
        return view.meta["feature_space"]


def add_ignored(
    path: Path,
    source: Path,
    id_: str,
    *,
    region: Region | None = None,
    encoder: Encodes | None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Memory, Memory]:
    """Ignore a part of a frame from now on, in the memory file `path`, which is made where it is absent.

    source   a spool (any of its retained frames), or a picks file, whose frame is read and encoded again
    region   the clusters that lie mostly in it are ignored; None: the frame's witness

    Gives the memory before and after. Raises UsageError where there is no such frame, or nothing of it is marked.
    """
    if region is not None:
        _require_region(region)
    marked = _of_spool(source, id_, region) if _is_spool(source) else _of_picks(source, id_, region, encoder, stop)
    with _changing(path), one_blas_thread():
        memory = _memory_at(path, marked.feature_space)
        require_space(source, marked.feature_space, memory.feature_space)
        after = remember(memory, [marked.entry])
        write_memory(path, after)
    return memory, after


def merge_files(out: Path, paths: Sequence[Path]) -> Memory:
    """Write one memory of several files. `out` may be one of them; any other file there is not overwritten."""
    if out.exists() and out.resolve() not in {path.resolve() for path in paths}:
        raise UsageError(f"{out}: is there already, and is none of the memories to be merged. Choose another name.")
    with _changing(out), one_blas_thread():
        merged = merge([read_memory(path) for path in paths])
        write_memory(out, merged)
    return merged


def clusters_within(
    patch_cluster: npt.NDArray[np.int16], marked: Collection[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(clusters, their patches): the clusters of which more than half of the patches are marked, ascending.

    patch_cluster  int16 (P,), -1 = distilled away
    marked         row-major indices of patches

    >>> clusters_within(np.array([0, 0, 0, 1, 1, -1], np.int16), {1, 3, 4, 5})
    ((1,), (3, 4))
    """
    inside = np.isin(np.arange(len(patch_cluster)), list(marked))
    clusters = tuple(
        cluster for cluster in range(int(patch_cluster.max()) + 1) if inside[patch_cluster == cluster].mean() > 0.5
    )
    return clusters, tuple(int(p) for p in np.flatnonzero(np.isin(patch_cluster, clusters)))


def patches_in(region: Region, grid: tuple[int, int]) -> list[int]:
    """Row-major indices of the patches whose middle lies in a region.

    >>> patches_in((0.0, 0.5, 1.0, 0.5), (2, 3))
    [3, 4, 5]
    """
    rows, columns = grid
    x, y, width, height = region
    return [
        row * columns + column
        for row in range(rows)
        for column in range(columns)
        if y <= (row + 0.5) / rows <= y + height and x <= (column + 0.5) / columns <= x + width
    ]


def _of_spool(path: Path, id_: str, region: Region | None) -> Marked:
    with open_view(path) as view:
        frames = {frame.id: frame for frame in view.retained()}
        _require_frame(path, id_, frames)
        frame = frames[id_]
        of_unit = view.clusters()[frame.unit]
        rows = of_unit[frame.clusters.start : frame.clusters.stop]
        patches = _marked_patches(id_, frame.witness_patches, view.grid, region)
        entry = _entry(path, id_, frame.sha256, rows, frame.patch_cluster, patches, view.grid, region)
        return Marked(feature_space=view.meta["feature_space"], entry=entry)


def _of_picks(path: Path, id_: str, region: Region | None, encoder: Encodes | None, stop: Callable[[], bool]) -> Marked:
    selection = read_selection(path)
    frames = {frame.id: frame for frame in selection.frames}
    _require_frame(path, id_, frames)
    if encoder is None:
        raise UsageError(
            f"{path}: a picks file holds no clusters: the frame must be encoded. Name a bundle with --bundle."
        )
    manifest = encoder.bundle.manifest
    require_space(path, selection.feature_space, manifest.feature_space)
    patches = _marked_patches(id_, frames[id_].patches, manifest.grid, region)
    frame = _encoded_again(selection, frames[id_], encoder, stop)
    rows, patch_cluster = frame.clusters.rows, frame.clusters.patch_cluster
    entry = _entry(path, id_, frame.digest, rows, patch_cluster, patches, manifest.grid, region)
    return Marked(feature_space=manifest.feature_space, entry=entry)


def _encoded_again(selection: Selection, frame: SelectedFrame, encoder: Encodes, stop: Callable[[], bool]) -> PoolFrame:
    manifest = encoder.bundle.manifest
    source = next((source for source in selection.sources if source.name == frame.source), None)
    if source is None:
        raise UsageError(
            f"{selection.name}: names no source {frame.source}. Write it again with `geal-edge select -o`."
        )
    for _, item in read_again(source, {frame.frame_index: frame}, stop=stop):
        if not isinstance(item, str):
            try:
                found = usable(item)
                return pool_frame(record_of(found), encoder(found.image), manifest.clusters, grid=manifest.grid)
            except FrameError as error:
                raise SourceError(f"{frame.id}: cannot be judged again: {error}") from error
        raise SourceError(f"{frame.id}: {item}")
    raise SourceError(f"{frame.id}: {selection.name} names a frame that is not there any more.")


def _require_frame(path: Path, id_: str, frames: Collection[str]) -> None:
    if id_ not in frames:
        close = difflib.get_close_matches(id_, frames, 1)
        hint = f"Did you mean {close[0]}?" if close else f"`geal-edge inspect {path}` shows what is."
        raise UsageError(f"{path}: no frame {id_} is in it. {hint}")


def _require_region(region: Region) -> None:
    x, y, width, height = region
    inside = min(x, y) >= 0.0 and width > 0.0 and height > 0.0 and max(x + width, y + height) <= 1.0 + 1e-9
    if not (all(map(math.isfinite, region)) and inside):
        raise UsageError(
            f"--region {','.join(f'{n:g}' for n in region)}: must be X,Y,W,H inside the picture, as shares of it from its upper "
            "left corner: 0,0.8,1,0.2 is its lowest fifth."
        )


def _marked_patches(
    id_: str, witness: Collection[int], grid: tuple[int, int], region: Region | None
) -> Collection[int]:
    if region is not None:
        return patches_in(region, grid)
    if not witness:
        raise UsageError(
            f"{id_}: has no witness, since there was nothing to be new against. Say what to ignore with --region X,Y,W,H."
        )
    return witness


def _entry(
    path: Path,
    id_: str,
    digest: str | None,
    rows: Rows,
    patch_cluster: npt.NDArray[np.int16],
    marked: Collection[int],
    grid: tuple[int, int],
    region: Region | None,
) -> Entry:
    clusters, patches = clusters_within(patch_cluster, marked)
    if not clusters:
        raise UsageError(
            f"{id_}: no knowledge cluster lies mostly in what was marked: the model does not look there, or what it sees reaches "
            "far beyond. Nothing was changed; mark more, or leave it: what is not looked at makes no frame new."
        )
    mark = Mark(patches=patches, grid=grid, region=region)
    return Entry(id=id_, kind="ignore", rows=rows[list(clusters)], origin=str(path), sha256=digest, mark=mark)


def _is_spool(path: Path) -> bool:
    return (path / DATABASE).is_file()


def _memory_at(path: Path, feature_space: str) -> Memory:
    """The memory in a file, or an empty one where there is none."""
    return read_memory(path) if path.exists() else Memory(feature_space=feature_space)


@contextmanager
def _changing(path: Path) -> Iterator[None]:
    """One writer at a time: what another one adds between reading and writing would be lost."""
    with durable.exclusive_lock(path.with_name(path.name + ".lock"), f"{path}: the memory"):
        yield
