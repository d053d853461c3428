"""`geal-edge run`: stream sources into a spool, as a vehicle does."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from geal_edge.cli.common import (
    BackendChoice,
    Group,
    Guard,
    LiveFps,
    Name,
    Quiet,
    RunBundle,
    RunSources,
    Terminal,
    Threads,
    Topics,
    Unverified,
    duration_s,
    open_sources,
    open_watched,
    say_notes,
    stopping_well,
    untrained_note,
)
from geal_edge.cli.service import run_service
from geal_edge.cli.status import result_lines
from geal_edge.config import DiskConfig
from geal_edge.errors import UsageError
from geal_edge.runtime import pipeline
from geal_edge.runtime.budget import FORMS, BudgetPlan, live_plan, parse_bytes, parse_cap
from geal_edge.runtime.identity import Identity, machine_name
from geal_edge.runtime.imagefile import Encoding
from geal_edge.runtime.live import LiveSource, is_live, open_live
from geal_edge.runtime.release import ReleaseRule
from geal_edge.runtime.sources import Source
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.telemetry import Telemetry, pulse_folder
from geal_edge.runtime.vehicletime import boot_id
from geal_edge.runtime.watched import OnFailure


def run(
    context: typer.Context,
    sources: RunSources = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help="Run as a service by this configuration (docs/service.md); flags given beside it win over what it says.",
        ),
    ] = None,
    bundle: RunBundle = None,
    spool: Annotated[
        Path | None, typer.Option("--spool", "-s", help="Spool folder; made if absent, continued if it is there.")
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="Frames (with --group: units) to select: of recorded sources in all for this spool, as 50; of live ones per "
            "hour, day or trip, or bytes, as 50/day or 200MB/day; again for more caps, which hold together.",
        ),
    ] = None,
    release: Annotated[
        ReleaseRule | None,
        typer.Option(
            help="When what is selected of a live source becomes final: spread over the round, at its end, or at the moment it "
            "is seen. Default: paced; of a budget per trip: round_end.",
        ),
    ] = None,
    for_: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="End a live source after so long, as 90s, 10min or 2h.")
    ] = None,
    known: Annotated[
        list[Path] | None,
        typer.Option(
            help="Memory file (geal-edge memory add) of frames that are labelled or sent already, and of what is to be ignored."
        ),
    ] = None,
    fps: LiveFps = None,
    topic: Topics = None,
    group: Group = None,
    name: Name = None,
    encoding: Annotated[Encoding, typer.Option(help="How frames without file bytes of their own are stored.")] = "jpg",
    again: Annotated[
        bool, typer.Option("--again", help="Read sources from their start that were read before.")
    ] = False,
    guard: Guard = None,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Decide and count, and write no frames: what would a budget select here?")
    ] = False,
    tag: Annotated[
        list[str] | None,
        typer.Option(
            help="A word for what is retained in this run, as rain or route-7; again for more. `list` has them."
        ),
    ] = None,
    max_disk: Annotated[
        str | None,
        typer.Option(
            metavar="BYTES",
            help="What all files of the spool may take, as 2GB: beyond it the radius rises and the least needed gives way; what "
            "is released never does. Default: no quota; 200 MB of the disk stay free in any case.",
        ),
    ] = None,
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
    allow_untrained: Annotated[
        bool, typer.Option("--allow-untrained", help="With --config: run a bundle of untrained weights.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Stream sources and select the frames worth labelling; goes on where it was stopped.

    Example: `geal-edge run drive.mp4 --bundle bundle --spool spool --budget 50`

    Cameras whose stamps lie within 0.05 s as one:
    `geal-edge run drive.mcap --topic '/cam_*' --group 0.05 --bundle bundle --spool spool --budget 50`

    On the fastest engine that was verified here: `geal-edge run drive.mp4 --bundle bundle --spool spool --budget 50 --backend
    auto`

    With no broken frames in it: `geal-edge run drive.mp4 --bundle bundle --spool spool --budget 50 --guard pixels`

    What a camera's software writes into a folder, as it comes: `geal-edge run watch:/data/incoming --bundle bundle --spool spool
    --budget 50/day --budget 200MB/day`

    As a service: `geal-edge run --config /etc/geal-edge/geal-edge.toml`
    """
    if config is not None:
        run_service(
            config,
            context,
            for_s=None if for_ is None else duration_s(for_, "--for"),
            shadow=shadow,
            tags=tag or (),
            quiet=quiet,
        )
        return
    if not sources or bundle is None or spool is None or not budget:
        absent = {"SOURCE": sources, "--bundle": bundle, "--spool": spool, "--budget": budget}
        raise UsageError(
            f"{', '.join(name for name, value in absent.items() if not value)}: must be given, or --config FILE that says it"
        )
    opened: list[Source | LiveSource]
    identity = None
    if any(is_live(spec) for spec in sources):
        if topic or again:
            option = "--topic" if topic else "--again"
            raise UsageError(
                f"{option}: is for recorded sources; live ones are seen once, and a topic is named ros2:/TOPIC"
            )
        opened = [
            open_live(
                sources,
                name=name,
                rate_hz=fps,
                group_s=group,
                for_s=None if for_ is None else duration_s(for_, "--for"),
            )
        ]
        limit: int | BudgetPlan = live_plan([parse_cap(text) for text in budget], release)
        identity = Identity(vehicle=machine_name(), boot_id=boot_id())
    else:
        opened = [*open_sources(sources, name=name, fps=fps, topics=topic, group_s=group)]
        limit = recorded_budget(budget, release, for_)
    with Terminal(quiet=quiet) as watch, stopping_well() as stop:
        say_notes(opened, watch)
        with open_watched(
            bundle, threads, backend, unverified=unverified, on_failure=on_engine_failure, watch=watch
        ) as encoder:
            result = pipeline.run(
                opened,
                encoder=encoder,
                spool_path=spool,
                budget=limit,
                known=known or (),
                identity=identity,
                group_s=group,
                encoding=encoding,
                again=again,
                guard=guard,
                shadow=shadow,
                tags=tag or (),
                disk=DiskConfig(max_bytes=None if max_disk is None else parse_bytes(max_disk, "--max-disk")),
                telemetry=Telemetry(pulse_folder(os.environ)),
                watch=watch,
                stop=stop,
            )
        for skipped in result.skipped:
            watch.warn(f"{skipped}: was read to its end before; --again reads it once more.")
        with open_view(spool) as view:
            for line in result_lines(view, spool):
                watch.say(line)
        if shadow:
            watch.warn("a shadow: it decided and counted, and wrote no frames.")
        untrained_note(encoder.bundle.manifest.untrained, watch)
        watch.say(f"\nNext: geal-edge report {spool} -o report.html")


def recorded_budget(texts: Sequence[str], release: ReleaseRule | None, for_: str | None) -> int:
    """Frames in all. Raises UsageError for what only a live source can have."""
    if release is not None or for_ is not None:
        option = "--for" if release is None else "--release"
        raise UsageError(f"{option}: is for live sources; recorded ones are read to their end, which releases nothing.")
    cap = parse_cap(texts[0])
    if len(texts) > 1 or cap.period is not None or cap.counts == "bytes":
        raise UsageError(
            f"--budget {' --budget '.join(texts)}: recorded sources have one budget in all, a number of frames, as --budget 50. "
            f"Live ones have {FORMS}."
        )
    return cap.limit
