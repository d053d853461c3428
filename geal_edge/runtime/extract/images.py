"""`frames.jsonl`: one JSON object per selected frame, schema geal-edge/extract/1. Every extraction has it.

This format alone carries the context of the frames, in a folder of its own with `context.jsonl`, since no tool asks for it.
"""

from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from geal_edge.errors import FrameError
from geal_edge.runtime.extract.extraction import ExtractedFrame, Extraction, one_line

SCHEMA = "geal-edge/extract/1"
FRAMES = "frames.jsonl"
IMAGES = "images"
CONTEXT = "context"


def write(folder: Path, extraction: Extraction) -> None:
    """The context of the frames that have any: `context/` and `context.jsonl`; else nothing besides `frames.jsonl`."""
    beside = [(each, context) for each in extraction.frames for context in each.frame.context]
    if not beside:
        return
    (folder / CONTEXT).mkdir()
    with (folder / f"{CONTEXT}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for extracted, context in beside:
            if extracted.frame.file is None:
                continue
            name = f"{Path(extracted.file).stem}.{context.file.partition('.')[2]}"
            try:
                data = extracted.frame.file.beside(context).read()
            except FrameError:
                continue  # its unit was evicted meanwhile, `check` says what became of it, or the privacy hook failed on it
            (folder / CONTEXT / name).write_bytes(data)
            facts = {"file": f"{CONTEXT}/{name}", "bytes": len(data), "sha256": sha256(data).hexdigest()}
            line = {"of": extracted.frame.id, **asdict(context), **facts}
            file.write(one_line(line) + "\n")


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
        **({"width": extracted.width, "height": extracted.height} if extracted.width else {}),
        "source": frame.source,
        "frame_index": frame.frame_index,
        "capture_time_ns": frame.capture_time_ns,
        "distance": frame.distance,
        "novelty": frame.novelty,
        "witness": {"patches": list(frame.patches), "grid": list(frame.grid)},
        "regions": [
            {"box": list(region.box), "outline": [list(corner) for corner in region.outline]}
            for region in (extracted.regions if extracted.width else ())
        ],
        **({"metadata": frame.metadata} if frame.metadata else {}),
        **(asdict(message) if message else {}),
        **extraction.made_by,
        **frame.sent,
        **({} if extracted.address is None else {"address": extracted.address}),
        **frame.made_by,
    }
