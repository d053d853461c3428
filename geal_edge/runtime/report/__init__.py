"""One self-contained page that answers, for every selected frame: why this one? (`geal-edge report`)

    spool or picks file -> data.py Report -> page.py, part by part -> one HTML file
                           pictures.py, one frame at a time  ^   ^ chart.py

Written front to back: what is held at any time is the report's facts and one picture (of a picks file: its thumbnails).
The same spool gives the same page, byte for byte: nothing of today's date or this machine is in it.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from geal_edge.errors import StorageError, UsageError
from geal_edge.runtime.durable import TEMPORARY_SUFFIX
from geal_edge.runtime.observer import Observer, Silent
from geal_edge.runtime.privacy.filter import PrivacyFilter
from geal_edge.runtime.report import page
from geal_edge.runtime.report.data import ShownFrame, read_picks_report, read_spool_report
from geal_edge.runtime.report.pictures import (
    SMALL_WIDTH,
    WIDTH,
    Missing,
    Picture,
    Pictures,
    pictures_again,
    require_pillow,
    spool_pictures,
)
from geal_edge.runtime.report.refused import refused
from geal_edge.runtime.selection import nothing_there


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSummary:
    """frames: cards on the page; bytes: its size; missing_images: cards that say why they have no picture."""

    frames: int
    bytes: int
    missing_images: int


def write_report(
    source: Path, out: Path, *, privacy: PrivacyFilter | None = None, watch: Observer | None = None
) -> ReportSummary:
    """Write the page of a spool folder or a picks file to `out`, complete or not at all.

    privacy  what pictures of a spool pass where it asks for it

    A frame whose picture is gone gets a card that says so. Raises UsageError or SpoolError where `source` is neither,
    MissingDependency without Pillow, PrivacyError where pictures must pass a hook that `privacy` has not, StorageError where
    `out` cannot be written.
    """
    require_a_file(out)
    if out.exists() and source.exists() and out.samefile(source):
        raise UsageError(f"{out}: the report would overwrite what it is made from. Choose another -o.")
    require_pillow()
    watch = watch or Silent()
    if source.is_dir():
        report = read_spool_report(source, privacy=privacy, watch=watch)
        pictures, small = spool_pictures(WIDTH), spool_pictures(SMALL_WIDTH)
    elif source.exists():
        report = read_picks_report(source)
        pictures = small = pictures_again(report.selected, report.sources, WIDTH, watch)
    else:
        raise nothing_there(source)
    missing: list[Missing] = []
    watch.begin("writing the page", len(report.selected) + len(report.others))
    with replacing(out) as file:
        before, after = page.around(f"{page.headline(report)}: {report.name}")
        file.write(before)
        file.write(page.top(report))
        file.writelines(page.frames(report, _with_pictures(report.selected, pictures, missing, watch)))
        file.write(page.over_time(report))
        file.write(refused(report.refused))
        file.write(page.sources(report))
        file.write(page.lost(report))
        file.writelines(page.others(report, _with_pictures(report.others, small, missing, watch)))
        file.write(page.evicted(report))
        file.write(page.end(report.producer))
        file.write(after)
    return ReportSummary(frames=len(report.selected), bytes=out.stat().st_size, missing_images=len(missing))


def _with_pictures(
    frames: Iterable[ShownFrame], pictures: Pictures, missing: list[Missing], watch: Observer
) -> Iterator[tuple[ShownFrame, Picture]]:
    for frame in frames:
        picture = pictures(frame)
        if isinstance(picture, Missing):
            missing.append(picture)
        yield frame, picture
        watch.advance()


def require_a_file(out: Path) -> None:
    """Raise UsageError where a page cannot have this name."""
    if out.is_dir():
        raise UsageError(f"{out}: is a folder. Name the file to write, as in {out / 'report.html'}.")


@contextlib.contextmanager
def replacing(out: Path) -> Iterator[IO[str]]:
    """A text file that stands under `out` once the block has ended well. Not synced: a page can be made again."""
    temporary = out.with_name(out.name + TEMPORARY_SUFFIX)
    try:
        # A string from a picks file may hold half a surrogate pair, which UTF-8 has no bytes for.
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            yield file
        temporary.replace(out)
    except OSError as error:
        raise StorageError(
            f"{out}: cannot be written ({error.strerror}). Choose another -o, or free some space."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # gone, or never there
            temporary.unlink()
