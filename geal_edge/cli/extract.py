"""`geal-edge extract`: the selected frames as a folder that a labelling tool imports."""

from pathlib import Path
from typing import Annotated

import typer

from geal_edge.cli.common import Quiet, Terminal, fail_if, stopping_well
from geal_edge.errors import SourceError, SpoolDamaged
from geal_edge.runtime.extract import FormatName
from geal_edge.runtime.extract import extract as extract_frames
from geal_edge.runtime.imagefile import Encoding

_NEXT: dict[str, str] = {
    "images": "frames.jsonl says of each picture what it is and where it was new",
    "coco": "import annotations.json with images/",
    "cvat": "make a task with labels.json (Raw) and images/, then upload annotations.xml as CVAT 1.1",
    "label-studio": "label_config.xml is the labelling interface, tasks.json the import",
    "yolo": "data.yaml names images/ and labels/",
    "fiftyone": "import it as a FiftyOneImageDetectionDataset",
    "mcap": "the .mcap holds the recorded messages in order of time, frames.jsonl says what each of them is",
}


def extract(
    path: Annotated[Path, typer.Argument(metavar="SPOOL|PICKS", help="Spool folder or picks file.")],
    to: Annotated[Path, typer.Option("--to", help="Folder to write; it must be absent or empty.")],
    format_name: Annotated[FormatName, typer.Option("--format", "-f", help="What will read it.")] = "images",
    encoding: Annotated[
        Encoding, typer.Option(help="For frames without a file of their own: those of videos in a picks file.")
    ] = "jpg",
    quiet: Quiet = False,
) -> None:
    """Write the selected frames for a labelling tool: pictures in their order, the new region as a prediction.

    `--format mcap` copies the recorded messages of the selected frames instead, from the bags that they were selected from.

    Example: `geal-edge extract spool --to for-cvat --format cvat`
    """
    with Terminal(quiet=quiet) as watch, stopping_well() as stop:
        summary = extract_frames(path, to, format_name=format_name, encoding=encoding, watch=watch, stop=stop)
        watch.say(f"{to}: {summary.frames} frames, {summary.bytes / 1e6:.1f} MB; {_NEXT[format_name]}")
        if summary.untrained:
            watch.warn("these frames were selected with UNTRAINED weights; the files say so with `untrained`.")
        left_out = len(summary.left_out)
        if left_out:
            watch.warn(f"{left_out} of {summary.frames + left_out} selected frames were left out, as said above.")
    of_spool = path.is_dir() and format_name != "mcap"  # messages come from the bags, also those of a spool
    fail_if(left_out > 0, SpoolDamaged.exit_code if of_spool else SourceError.exit_code)
