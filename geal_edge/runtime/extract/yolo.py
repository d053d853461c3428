"""Ultralytics' YOLO layout: `images/`, `labels/` with a text file per picture, and `data.yaml`.

A row is `class x_center y_center width height` as shares of the picture. There is no place for anything else: the order is
in the file names, all other facts are in `frames.jsonl`.
"""

import json
from pathlib import Path

from geal_edge.runtime.extract.extraction import LABEL, ExtractedFrame, Extraction

DATA = "data.yaml"
IMAGES = "images"
LABELS = "labels"


def write(folder: Path, extraction: Extraction) -> None:
    """A picture without a region gets an empty file. Paths in `data.yaml` are relative to it, so the folder can be moved."""
    (folder / LABELS).mkdir()
    for extracted in extraction.frames:
        (folder / LABELS / extracted.file).with_suffix(".txt").write_text(_rows(extracted), encoding="ascii")
    selection = extraction.selection
    (folder / DATA).write_text(
        f"# Frames selected by {_comment(selection.producer)}. The boxes are predictions of where to look, not labels.\n"
        f"# bundle {_comment(selection.bundle)}, untrained: {json.dumps(selection.untrained)}\n"
        f"train: {IMAGES}\nval: {IMAGES}\nnames:\n  0: {LABEL}\n",
        encoding="utf-8",
    )


def _rows(extracted: ExtractedFrame) -> str:
    rows = ""
    for region in extracted.regions:
        left, top, width, height = region.box
        across, down = extracted.width, extracted.height
        values = ((left + width / 2) / across, (top + height / 2) / down, width / across, height / down)
        rows += "0 " + " ".join(f"{value:.6f}" for value in values) + "\n"
    return rows


def _comment(text: str) -> str:
    """Text that cannot end the comment's line."""
    return ascii(text)[1:-1]
