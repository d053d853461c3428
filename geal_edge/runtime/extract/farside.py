"""What vehicles have sent, for a labelling tool: import files that point at objects where they lie, or a folder with pictures.

In place nothing but sidecars is read: they have the pictures' sizes, which the tools must be told. Vehicles come in turn, each in
its order of sending: so any first n of the frames take the best of each.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote, urlsplit

from geal_edge.errors import Interrupted, SourceError, UploadError, UsageError
from geal_edge.runtime.extract import (
    FORMATS,
    MESSAGES,
    ExtractSummary,
    FormatName,
    LeftOut,
    Picture,
    appearing,
    images,
    require_free,
    require_pillow,
    size_upright,
    write_pictures,
)
from geal_edge.runtime.extract.extraction import ExtractedFrame, Extraction
from geal_edge.runtime.farside.frames import FarFrame
from geal_edge.runtime.farside.reading import at_once, in_turn
from geal_edge.runtime.observer import Observer
from geal_edge.runtime.selection import SelectedFrame, Selection
from geal_edge.runtime.sources.images import ENDINGS
from geal_edge.runtime.upload.store import Contents

IN_PLACE: tuple[FormatName, ...] = ("images", "coco", "cvat", "label-studio")
"""Formats of tools that can be told where a picture lies."""
NO_SIZE = (
    "Its sidecar does not say how large the picture is (an older version wrote it, or it is no JPEG or PNG). "
    "Take it along with --download."
)


def extract_far_side(
    chosen: Sequence[FarFrame],
    store: Contents,
    to: Path,
    *,
    url: str,
    format_name: FormatName,
    download: bool,
    watch: Observer,
    stop: Callable[[], bool] = lambda: False,
) -> ExtractSummary:
    """Write frames to the folder `to`, complete or not at all; `bytes` of the summary are those that were downloaded.

    url  the far side that `store` is, for the addresses of the objects

    Raises UsageError where `to` is taken, or the format cannot point at objects there; SourceError where no frame could be had,
    StorageError where `to` cannot be written, UploadError where the far side does not answer, MissingDependency without Pillow
    (for a download), Interrupted once `stop()` says so.
    """
    to = Path(os.path.abspath(to))
    require_free(to, Path(url))
    if format_name == MESSAGES:
        raise UsageError(f"--format {MESSAGES}: copies messages from recordings, and vehicles send frames.")
    if not download:
        _require_in_place(format_name, url)
    if not chosen:
        raise UsageError(f"{url}: no such frame has arrived, so there is nothing to extract.")
    frames = in_turn(chosen)
    selection = _selection(url, frames)
    form = FORMATS[format_name]
    with appearing(to) as folder:
        if download:
            require_pillow()
            (folder / form.IMAGES).mkdir()
            watch.begin("downloading", len(frames))
            pictures = _downloaded(store, frames, selection.frames, stop)
            written, left_out, size = write_pictures(selection, folder / form.IMAGES, pictures, watch)
        else:
            written, left_out, size = *_in_place(frames, selection.frames, url, format_name), 0
            for each in left_out:
                watch.warn(f"{each.id}: left out. {each.why}")
        if not written:
            raise SourceError(f"{url}: none of {len(frames)} frames could be had. {left_out[0].why}")
        extraction = Extraction(name=to.name, selection=selection, frames=tuple(written))
        images.write_frames(folder, extraction, form.IMAGES if download else "")
        form.write(folder, extraction)
    return ExtractSummary(frames=len(written), bytes=size, left_out=tuple(left_out), untrained=selection.untrained)


def place_of(url: str, key: str) -> tuple[str, str]:
    """(name of an object in its bucket, server or folder; its address as tools want it). One in a folder has a path from the
    folder beside it.

    >>> place_of("s3://bucket/eu", "car-1/t/a b.jpg")
    ('eu/car-1/t/a b.jpg', 's3://bucket/eu/car-1/t/a b.jpg')
    >>> place_of("https://far.example/in/", "car-1/t/a b.jpg")
    ('car-1/t/a b.jpg', 'https://far.example/in/car-1/t/a%20b.jpg')
    >>> place_of("/media/fleet", "car-1/t/a.jpg")
    ('car-1/t/a.jpg', 'fleet/car-1/t/a.jpg')
    """
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        return key, f"{url.rstrip('/')}/{quote(key)}"
    if "://" not in url or parts.scheme == "file":
        folder = Path(parts.path if parts.scheme == "file" else url).resolve()
        return key, f"{folder.name}/{key}"
    name = f"{parts.path.strip('/')}/{key}".lstrip("/")
    return name, f"{parts.scheme}://{parts.netloc}/{name}"


def _require_in_place(format_name: FormatName, url: str) -> None:
    if format_name not in IN_PLACE:
        raise UsageError(
            f"--format {format_name}: its readers want the pictures beside it. Add --download; without it there are "
            f"{', '.join(IN_PLACE)}."
        )
    if format_name == "cvat" and url.startswith(("http://", "https://")):
        raise UsageError("--format cvat: CVAT reads from buckets and shares, not from a web server. Add --download.")


def _selection(url: str, frames: Sequence[FarFrame]) -> Selection:
    """`name` and what made the frames: where that differs all are named, and untrained is what one of them is."""

    def all_of(values: Iterable[str]) -> str:
        return ", ".join(sorted(set(values)))

    return Selection(
        name=url,
        producer=all_of(frame.producer for frame in frames),
        bundle=all_of(frame.bundle for frame in frames),
        feature_space=all_of(frame.feature_space for frame in frames),
        preset=all_of(frame.preset for frame in frames),
        untrained=any(frame.untrained for frame in frames),
        sources=(),
        frames=tuple(_selected(frame, number) for number, frame in enumerate(frames, start=1)),
    )


def _selected(frame: FarFrame, number: int) -> SelectedFrame:
    return SelectedFrame(
        number=number,
        order=frame.order,
        place=frame.place,
        id=frame.id,
        source=frame.source,
        frame_index=frame.frame_index,
        capture_time_ns=frame.capture_time_ns,
        distance=frame.distance or 0.0,
        novelty=frame.novelty,
        patches=frame.patches,
        grid=frame.grid,
        file=None,
        sha256=frame.sha256,
        metadata=frame.metadata,
        sent={"vehicle": frame.vehicle, "trip": frame.trip, "key": frame.key, "tags": list(frame.tags)},
        made_by={
            "producer": frame.producer,
            "bundle": frame.bundle,
            "feature_space": frame.feature_space,
            "preset": frame.preset,
            "untrained": frame.untrained,
        },
    )


def _in_place(
    frames: Sequence[FarFrame], selected: Sequence[SelectedFrame], url: str, format_name: FormatName
) -> tuple[list[ExtractedFrame], list[LeftOut]]:
    written, left_out = [], []
    for far, frame in zip(frames, selected, strict=True):
        if far.size is None and format_name != "images":
            left_out.append(LeftOut(id=frame.id, why=NO_SIZE))
            continue
        name, address = place_of(url, far.key)
        width, height = far.size or (0, 0)
        written.append(
            ExtractedFrame(frame=frame, file=name, width=width, height=height, sha256=far.sha256, address=address)
        )
    return written, left_out


def _downloaded(
    store: Contents, frames: Sequence[FarFrame], selected: Sequence[SelectedFrame], stop: Callable[[], bool]
) -> Iterator[tuple[SelectedFrame, Picture | str]]:
    """Each frame with its picture or the sentence that says why there is none."""
    for frame, picture in zip(selected, at_once(partial(_picture, store), frames), strict=True):
        if stop():
            raise Interrupted("Stopped; nothing was written.")
        yield frame, picture


def _picture(store: Contents, frame: FarFrame) -> Picture | str:
    try:
        data = store.get(frame.key, at_most=frame.bytes)
    except UploadError as error:
        if error.reason not in ("absent", "too_large"):
            raise
        return f"{error}."
    if sha256(data).hexdigest() != frame.sha256:
        return f"The bytes of {frame.key} are not those that its sidecar tells of."
    size = size_upright(data)
    ending = Path(frame.key).suffix.lower()
    if size is None or ending not in ENDINGS:
        return f"{frame.key} is not an image."
    return Picture(data, ending.removeprefix("."), *size)
