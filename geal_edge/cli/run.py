"""`geal-edge run`: stream sources into a spool, as a vehicle does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from geal_edge.cli.common import (
    BackendChoice,
    BundleFolder,
    Fps,
    Group,
    Guard,
    Name,
    Quiet,
    Sources,
    Terminal,
    Threads,
    Topics,
    Unverified,
    open_sources,
    open_watched,
    say_notes,
    stopping_well,
    untrained_note,
)
from geal_edge.cli.status import certificate_words
from geal_edge.runtime import pipeline
from geal_edge.runtime.imagefile import Encoding
from geal_edge.runtime.spoolview import SpoolView, open_view
from geal_edge.runtime.watched import OnFailure

MAX_BUDGET = 1_000_000


def run(
    sources: Sources,
    bundle: BundleFolder,
    spool: Annotated[
        Path, typer.Option("--spool", "-s", help="Spool folder; made if absent, continued if it is there.")
    ],
    budget: Annotated[
        int, typer.Option(min=1, max=MAX_BUDGET, help="Frames (with --group: units) to select, in all for this spool.")
    ],
    known: Annotated[
        list[Path] | None,
        typer.Option(
            help="Memory file (geal-edge memory add) of frames that are labelled or sent already, and of what is to be ignored."
        ),
    ] = None,
    fps: Fps = None,
    topic: Topics = None,
    group: Group = None,
    name: Name = None,
    encoding: Annotated[Encoding, typer.Option(help="How frames without file bytes of their own are stored.")] = "jpg",
    again: Annotated[
        bool, typer.Option("--again", help="Read sources from their start that were read before.")
    ] = False,
    guard: Guard = None,
    backend: BackendChoice = "ort-cpu",
    unverified: Unverified = False,
    on_engine_failure: Annotated[
        OnFailure | None,
        typer.Option(
            help="When the engine answers nonsense or drifts: go on with the next verified one, in the end ONNX Runtime on the "
            "CPU; or pause. Default: pause on a Jetson, else cpu.",
        ),
    ] = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Stream sources and select the frames worth labelling; goes on where it was stopped.

    Example: `geal-edge run drive.mp4 --bundle bundle --spool spool --budget 50`

    Cameras whose stamps lie within 0.05 s as one:
    `geal-edge run drive.mcap --topic '/cam_*' --group 0.05 --bundle bundle --spool spool --budget 50`

    On the fastest engine that was verified here: `geal-edge run drive.mp4 --bundle bundle --spool spool --budget 50 --backend
    auto`

    With no broken frames in it: `geal-edge run drive.mp4 --bundle bundle --spool spool --budget 50 --guard pixels`
    """
    opened = open_sources(sources, name=name, fps=fps, topics=topic, group_s=group)
    with Terminal(quiet=quiet) as watch, stopping_well() as stop:
        say_notes(opened, watch)
        with open_watched(
            bundle, threads, backend, unverified=unverified, on_failure=on_engine_failure, watch=watch
        ) as encoder:
            result = pipeline.run(
                opened,
                encoder=encoder,
                spool_path=spool,
                budget=budget,
                known=known or (),
                group_s=group,
                encoding=encoding,
                again=again,
                guard=guard,
                watch=watch,
                stop=stop,
            )
        for skipped in result.skipped:
            watch.warn(f"{skipped}: was read to its end before; --again reads it once more.")
        with open_view(spool) as view:
            for line in result_lines(view, spool):
                watch.say(line)
        untrained_note(encoder.bundle.manifest.untrained, watch)
        watch.say(f"\nNext: geal-edge report {spool} -o report.html")


def result_lines(view: SpoolView, spool: Path) -> Iterator[str]:
    """What a run came to, for people."""
    frames, _ = view.counts()
    gated = f"{frames['gated']} gated, " if frames["gated"] else ""
    units = "" if view.group_s is None else f" units, of which {view.units()['selected']} are selected"
    yield (
        f"{frames['selected']} of {frames['seen']} frames selected, budget {view.budget}{units} "
        f"({frames['not_new']} not new, {frames['evicted']} evicted, {gated}{frames['lost']} lost): {spool}"
    )
    yield certificate_words(view.certificate(), frames["selected"])
