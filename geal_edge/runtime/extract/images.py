"""`frames.jsonl`: one JSON object per selected frame, schema geal-edge/extract/1. Every extraction has it."""

from dataclasses import asdict
from pathlib import Path

from geal_edge.runtime.extract.extraction import ExtractedFrame, Extraction, one_line

SCHEMA = "geal-edge/extract/1"
FRAMES = "frames.jsonl"
IMAGES = "images"


def write(folder: Path, extraction: Extraction) -> None:
    """Nothing besides the pictures and `frames.jsonl`."""


def write_frames(folder: Path, extraction: Extraction, images: str) -> None:
    """Write `frames.jsonl`; `images` is the folder that `file` begins with, "" for none."""
    with (folder / FRAMES).open("w", encoding="utf-8", newline="\n") as file:
        for extracted in extraction.frames:
            file.write(one_line(line_of(extracted, extraction, images)) + "\n")


def line_of(extracted: ExtractedFrame, extraction: Extraction, images: str) -> dict[str, object]:
    frame, message = extracted.frame, extracted.message
    return {
        "schema": SCHEMA,
        "order": frame.order,
        "id": frame.id,
        "file": f"{images}/{extracted.file}" if images else extracted.file,
        "sha256": extracted.sha256,
        "width": extracted.width,
        "height": extracted.height,
        "source": frame.source,
        "frame_index": frame.frame_index,
        "capture_time_ns": frame.capture_time_ns,
        "distance": frame.distance,
        "novelty": frame.novelty,
        "witness": {"patches": list(frame.patches), "grid": list(frame.grid)},
        "regions": [
            {"box": list(region.box), "outline": [list(corner) for corner in region.outline]}
            for region in extracted.regions
        ],
        **(asdict(message) if message else {}),
        **extraction.made_by,
    }
