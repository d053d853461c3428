"""`geal-edge bench`: what a bundle costs on this machine."""

import json
from pathlib import Path
from typing import Annotated

import typer

from geal_edge.cli.common import (
    BackendChoice,
    Json,
    Quiet,
    Terminal,
    open_encoder,
    open_sources,
    require_writable_place,
    stopping_well,
)
from geal_edge.runtime import bench as benching
from geal_edge.runtime import durable
from geal_edge.runtime.bench.plot import svg
from geal_edge.runtime.bench.told import lines


def bench(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder, made by `geal-edge export`.")],
    backend: BackendChoice = "auto",
    source: Annotated[
        str,
        typer.Option(
            metavar="SOURCE",
            help="Recorded frames to measure with: a folder or glob of images, a video, a ROS bag (PATH#TOPIC: of one topic), or "
            "`drawn:SEED`.",
        ),
    ] = "drawn:0",
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="Go on with the pipeline for so long, and tell rate, temperature and clocks; Ctrl-C ends it sooner.",
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Also draw it.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a bundle on this machine: each stage, the pipeline beside its encoder, energy, memory, and what is written.

    What this system does not tell is told as such. Spools are made where temporary files go (TMPDIR) and removed.

    Example: `geal-edge bench bundle --source drive.mp4 --minutes 10 --plot bench.svg`
    """
    if plot is not None:
        require_writable_place(plot)
    (frames,) = open_sources([source], name=None, fps=None)
    with Terminal(quiet=quiet or as_json) as watch, stopping_well() as stop:
        with open_encoder(bundle, None, backend, unverified=True, watch=watch) as encoder:
            found = benching.bench(encoder, frames, minutes=minutes, watch=watch, stop=stop)
        if plot is not None:
            durable.write_file(plot, svg(found).encode())
        if as_json:
            print(json.dumps(found.as_json(), indent=1, ensure_ascii=False))
        watch.say("\n".join(lines(found)))
