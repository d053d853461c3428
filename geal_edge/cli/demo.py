"""`geal-edge demo`: the whole way on this machine, with nothing downloaded."""

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated

import typer

from geal_edge.cli.common import Quiet, Terminal, open_encoder, stopping_well
from geal_edge.cli.status import result_lines
from geal_edge.errors import UsageError
from geal_edge.models.bundle import MANIFEST_FILE
from geal_edge.runtime import durable, pipeline
from geal_edge.runtime.baselines import uniform_in_time
from geal_edge.runtime.report import write_report
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.sources.drawn import DrawnDrive, Event
from geal_edge.runtime.spoolview import StoredFrame, open_view

WEIGHTS = "untrained:0"
SOURCE = "drawn:0"
MARKER = ".geal-edge-demo"
BUDGET = 20


def demo(
    source: Annotated[str, typer.Argument(help="What to stream. Default: a drawn drive with known events.")] = SOURCE,
    folder: Annotated[Path, typer.Option("--folder", help="Where bundle, spool and report go.")] = Path(
        "geal-edge-demo"
    ),
    budget: Annotated[int, typer.Option(min=1, help="Frames to select.")] = BUDGET,
    quiet: Quiet = False,
) -> None:
    """Export, stream, select and report in one go, with untrained weights and a drawn drive.

    Example: `geal-edge demo`, or `geal-edge demo drive.mp4`
    """
    bundle, spool, page = folder / "bundle", folder / "spool", folder / "report.html"
    opened = open_source(source)
    take_folder(folder)
    with Terminal(quiet=quiet) as watch, stopping_well() as stop:
        watch.say(
            "1. export: a ViT-S/16 with UNTRAINED, seeded weights becomes a bundle (real weights: see the README)"
        )
        make_bundle(bundle, watch)
        watch.say(f"2. run: stream {opened.name} on the CPU, budget {budget} frames")
        with open_encoder(bundle, threads=None) as encoder:
            pipeline.run([opened], encoder=encoder, spool_path=spool, budget=budget, watch=watch, stop=stop)
        with open_view(spool) as view:
            selected = view.selected()
            for line in result_lines(view, spool):
                watch.say(f"   {line}")
        watch.say("3. why: the first of the selected order, and how far each was from all before it")
        for frame in selected[:8]:
            watch.say(f"   {_why(frame)}")
        if isinstance(opened, DrawnDrive):
            for line in event_lines(opened, [frame.frame_index for frame in selected]):
                watch.say(line)
        write_report(spool, page)
        watch.say(f"\nThe report, with the region that made each frame new: {page}")


def make_bundle(bundle: Path, watch: Terminal) -> None:
    """Export the demo's bundle, unless an earlier demo did."""
    from geal_edge.cli.export import machinery

    exporter, load_weights = machinery()
    if not (bundle / MANIFEST_FILE).is_file():
        _, parity = exporter.export_bundle(load_weights(WEIGHTS), bundle, exporter.ExportOptions(), watch=watch)
        watch.say("   checked against float64: " + str(parity).replace("\n", "\n                            "))


def take_folder(folder: Path) -> None:
    """Make the demo's folder, or clear what an earlier demo left in it but its bundle. Any other folder is refused."""
    if folder.exists() and not (folder / MARKER).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: is in use for something else. Choose a new --folder for the demo.")
    durable.make_folder(folder)
    (folder / MARKER).write_text("made by `geal-edge demo`, which may remove what lies beside this file\n")
    shutil.rmtree(folder / "spool", ignore_errors=True)


def event_lines(drive: DrawnDrive, selected: Sequence[int]) -> list[str]:
    """How many of the drive's rare events the selection caught, against as many frames evenly spaced in time."""
    uniform = uniform_in_time(drive.frame_count, len(selected))
    ours, theirs = caught(drive.events, selected), caught(drive.events, uniform)
    lines = [f"4. events: {len(drive.events)} rare ones in {drive.frame_count} frames, known beforehand"]
    for event in drive.events:
        marks = "yes" if event in ours else " no", "yes" if event in theirs else " no"
        lines.append(f"   geal-edge {marks[0]}   uniform {marks[1]}   {event.name} (frames {event.first}-{event.last})")
    lines.append(
        f"   caught with {len(selected)} frames each: geal-edge {len(ours)} of {len(drive.events)}, "
        f"uniform sampling {len(theirs)} of {len(drive.events)}"
    )
    return lines


def caught(events: Sequence[Event], frames: Collection[int]) -> list[Event]:
    """The events of which at least one frame is among `frames`."""
    return [event for event in events if any(event.first <= index <= event.last for index in frames)]


def _why(frame: StoredFrame) -> str:
    patches = len(frame.witness_patches)
    what = f"{frame.distance:.3f}, in {patches} patch{'es' * (patches != 1)}" if patches else "first of the round"
    return f"{frame.order:>3}. {frame.id}: {what}"
