"""`geal-edge build`: a TensorRT plan of a bundle, for the GPU of this machine."""

from pathlib import Path
from typing import Annotated

import typer

from geal_edge.cli.common import Quiet, Terminal, machine_state, stopping_well
from geal_edge.export import engine
from geal_edge.models.bundle import Bundle


def build(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder, made by `geal-edge export`.")],
    max_batch: Annotated[
        int, typer.Option(min=1, help="Frames in one inference at most, and how many it is made fast for.")
    ] = 1,
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
    hardware_compatible: Annotated[
        bool,
        typer.Option(
            "--hardware-compatible",
            help="One plan for all GPUs from Ampere on, somewhat slower. TensorRT only, not on a Jetson.",
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Build a TensorRT plan of a bundle into this machine's state folder, for `--backend tensorrt`.

    One that fits is left as it is. A new one must answer for itself before `run` takes it: `geal-edge verify`.

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
            hardware_compatible=hardware_compatible,
            watch=watch,
            stop=stop,
        )
        say_built(built, watch)
        if compute_capability is None:
            watch.say(f"\nNext: geal-edge verify {bundle} --backend tensorrt")


def say_built(built: engine.Built, watch: Terminal) -> None:
    """For whom a plan is, where it lies, and whether it was built."""
    facts = built.facts
    target = facts.gpu or "any GPU"
    watch.say(f"{facts.module} {facts.version}, {target} of compute capability {facts.compute_capability}")
    watch.say(f"fits as it is: {built.path}" if built.why is None else f"built ({built.why}): {built.path}")
