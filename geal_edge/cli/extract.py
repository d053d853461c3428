"""`geal-edge extract`: the selected frames as a folder that a labelling tool imports."""

from pathlib import Path
from typing import Annotated

import typer

from geal_edge.cli.common import PrivacyOf, Quiet, Terminal, fail_if, privacy_of, stopping_well
from geal_edge.cli.farside import Between, Prefix, Tag, Vehicles, choice_of, is_far, opened_fleet
from geal_edge.errors import SourceError, SpoolDamaged, UsageError
from geal_edge.runtime.extract import ExtractSummary, FormatName
from geal_edge.runtime.extract import extract as extract_frames
from geal_edge.runtime.extract.farside import extract_far_side
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
_IN_PLACE: dict[str, str] = {
    "images": "frames.jsonl says of each where it lies",
    "coco": "annotations.json names them with coco_url",
    "cvat": "put manifest.jsonl beside them, make a task of it with labels.json, then upload annotations.xml as CVAT 1.1",
    "label-studio": "label_config.xml is the labelling interface, tasks.json the import (docs/labelling.md)",
}


def extract(
    where: Annotated[
        str,
        typer.Argument(
            metavar="SPOOL|PICKS|URL", help="Spool folder, picks file, or what `geal-edge upload --to` sent to."
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="Folder to write; it must be absent or empty.")],
    format_name: Annotated[FormatName, typer.Option("--format", "-f", help="What will read it.")] = "images",
    encoding: Annotated[
        Encoding, typer.Option(help="For frames without a file of their own: those of videos in a picks file.")
    ] = "jpg",
    config: PrivacyOf = None,
    prefix: Prefix = "",
    vehicle: Vehicles = None,
    tag: Tag = None,
    between: Between = None,
    download: Annotated[
        bool,
        typer.Option("--download", help="Of a URL: write the pictures too. Default: files that point at the objects."),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write the selected frames for a labelling tool: pictures in their order, the new region as a prediction.

    `--format mcap` copies the recorded messages of the selected frames instead, from the bags that they were selected from.

    Of a URL: import files that point at the objects where they lie, with no picture read.

    Example: `geal-edge extract spool --to for-cvat --format cvat`, `geal-edge extract s3://bucket --to tasks -f label-studio`
    """
    if is_far(where, prefix=prefix, vehicle=vehicle, tag=tag, between=between, download=download):
        if config is not None:
            raise UsageError("--config: is for a spool. What vehicles sent has passed their own [privacy].")
        choice = choice_of(vehicle, tag, between)
        with (
            Terminal(quiet=quiet) as watch,
            stopping_well() as stop,
            opened_fleet(where, prefix, watch) as (fleet, store, _),
        ):
            summary = extract_far_side(
                fleet.frames(choice),
                store,
                to,
                url=where,
                format_name=format_name,
                download=download,
                watch=watch,
                stop=stop,
            )
            said = f"{summary.bytes / 1e6:.1f} MB" if download else "where they lie"
            watch.say(f"{to}: {summary.frames} frames, {said}; {(_NEXT if download else _IN_PLACE)[format_name]}")
            _say_what_is_wrong(summary, watch)
        fail_if(bool(summary.left_out), SourceError.exit_code)
        return
    path = Path(where)
    with Terminal(quiet=quiet) as watch, stopping_well() as stop:
        summary = extract_frames(
            path, to, format_name=format_name, encoding=encoding, privacy=privacy_of(config), watch=watch, stop=stop
        )
        watch.say(f"{to}: {summary.frames} frames, {summary.bytes / 1e6:.1f} MB; {_NEXT[format_name]}")
        _say_what_is_wrong(summary, watch)
    of_spool = path.is_dir() and format_name != "mcap"  # messages come from the bags, also those of a spool
    fail_if(bool(summary.left_out), SpoolDamaged.exit_code if of_spool else SourceError.exit_code)


def _say_what_is_wrong(summary: ExtractSummary, watch: Terminal) -> None:
    if summary.untrained:
        watch.warn("these frames were selected with UNTRAINED weights; the files say so with `untrained`.")
    if left_out := len(summary.left_out):
        watch.warn(f"{left_out} of {summary.frames + left_out} selected frames were left out, as said above.")
