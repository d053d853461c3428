"""What the formats write down: the selected frames whose pictures lie in the folder, in their order."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Any

from geal_edge.runtime.extract.regions import Region, regions_of
from geal_edge.runtime.selection import SelectedFrame, Selection

LABEL = "novel region"
"""What the region that made a frame new is called in every tool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """The recorded message of a frame, as its recording says it."""

    topic: str
    log_time_ns: int
    publish_time_ns: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractedFrame:
    """A selected frame and the picture or the message of it that was written, or the object that it is.

    file           its name in the folder of images: one plain name, unique, that sorts in the selected order; of an object its
                   name in its bucket
    width, height  pixels of the picture as people see it, EXIF rotation applied; 0 of an object where that is not known
    sha256         of the file that was written, of the message, or of the object
    address        of an object that stays where it is: a URL; or its path from the folder beside the one that was uploaded to
    message        where messages are written; `file` is then the recording that holds them
    """

    frame: SelectedFrame
    file: str
    width: int
    height: int
    sha256: str
    message: Message | None = None
    address: str | None = None

    @property
    def regions(self) -> list[Region]:
        """The witness in pixels, one region per connected group of patches; none for the first of the order."""
        return regions_of(self.frame.patches, self.frame.grid, (self.width, self.height))

    @property
    def score(self) -> float:
        """The distance as a share of the largest possible one, for tools that want a number from 0 to 1."""
        return round(min(self.frame.distance / 2.0, 1.0), 6)

    @property
    def facts(self) -> dict[str, Any]:
        """What every format keeps of a frame, by the names of docs/formats.md."""
        frame = self.frame
        return {
            "order": frame.order,
            "frame_id": frame.id,
            "source": frame.source,
            "frame_index": frame.frame_index,
            "capture_time_ns": frame.capture_time_ns,
            "distance": frame.distance,
            "novelty": frame.novelty,
            **{name: value for name, value in frame.sent.items() if name in ("vehicle", "trip")},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """name is that of the folder that the extraction will stand under."""

    name: str
    selection: Selection
    frames: tuple[ExtractedFrame, ...]

    @property
    def made_by(self) -> dict[str, Any]:
        """Where the selection comes from: without it nobody could say what `untrained` frames are good for."""
        return {
            "producer": self.selection.producer,
            "bundle": self.selection.bundle,
            "feature_space": self.selection.feature_space,
            "preset": self.selection.preset,
            "untrained": self.selection.untrained,
        }


def one_line(value: Any) -> str:
    """JSON on one line. Half a surrogate pair, which a picks file may hold and UTF-8 cannot, is written as JSON's escape.

    >>> print(one_line({"a": "é", "b": chr(0xD800)}))
    {"a": "é", "b": "\\ud800"}
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in text)


def write_items(file: IO[str], items: Iterable[Any]) -> None:
    """A JSON list, one item a line and one item held at a time."""
    file.write("[")
    separator = "\n"
    for item in items:
        file.write(separator + one_line(item))
        separator = ",\n"
    file.write("\n]")
