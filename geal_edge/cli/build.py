"""`geal-edge build`: a TensorRT plan of a bundle, for the GPU of this machine."""

from pathlib import Path
from typing import Annotated

import typer

from geal_edge.cli.common import Quiet, Terminal, machine_state, stopping_well
from geal_edge.export import engine
from geal_edge.models.bundle import Bundle


def build(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder, made by `geal-edge export`.")],
    max_batch: Annotated[int, typer.Option(min=1, help="Frames in one inference at most.")] = 1,
    workspace: Annotated[
        int | None,
        typer.Option(
            metavar="MIB",
            min=1,
            help="Scratch memory to plan with. Default: 1024, on a Jetson a quarter of what is free.",
        ),
    ] = None,
    compute_capability: Annotated[
        str | None,
        typer.Option(
            metavar="X.Y", help="Build for such a GPU, which is not here (TensorRT-RTX). Default: this machine's."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Build a TensorRT plan of a bundle into this machine's state folder; no backend runs plans yet.

    One that fits is left as it is.

    Example: `geal-edge build bundle`

    With no GPU at hand: `geal-edge build bundle --compute-capability 8.6`
    """
    opened = Bundle.open(bundle)
    with Terminal(quiet=quiet) as watch, stopping_well() as stop:
        built = engine.build(
            opened,
            machine_state(),
            max_batch=max_batch,
            workspace_mib=workspace,
            compute_capability=compute_capability,
            watch=watch,
            stop=stop,
        )
        facts = built.facts
        target = facts.gpu or "any GPU"
        watch.say(f"{facts.module} {facts.version}, {target} of compute capability {facts.compute_capability}")
        watch.say(f"fits as it is: {built.path}" if built.why is None else f"built ({built.why}): {built.path}")
