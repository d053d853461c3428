"""`geal-edge select`: the paper's pool selection over recorded sources."""

from pathlib import Path
from typing import Annotated

import typer

from geal_edge.cli.common import (
    BundleFolder,
    Fps,
    Name,
    Quiet,
    Sources,
    Terminal,
    Threads,
    open_encoder,
    open_sources,
    stopping_well,
    untrained_note,
)
from geal_edge.runtime import pool


def select(
    sources: Sources,
    bundle: BundleFolder,
    budget: Annotated[int, typer.Option("-n", "--budget", min=1, help="Frames to pick.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Picks file to write.")] = Path("picks.json"),
    seed: Annotated[int, typer.Option(min=0, help="Draws the first frame; all others follow from it.")] = 0,
    fps: Fps = None,
    name: Name = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Pick frames to label from recorded sources, all at once (the paper's way).

    Example: `geal-edge select drives/*.mp4 --fps 2 --bundle bundle -n 50 -o picks.json`
    """
    opened = open_sources(sources, name=name, fps=fps)
    with Terminal(quiet=quiet) as watch, stopping_well() as stop, open_encoder(bundle, threads) as encoder:
        selection = pool.select(opened, encoder=encoder, budget=budget, seed=seed, watch=watch, stop=stop)
        picks = pool.picks_json(selection, opened, encoder.bundle, budget=budget, seed=seed)
        pool.write_picks(out, picks)
        frames = picks["frames"]
        watch.say(f"{frames['selected']} of {frames['seen']} frames selected, {frames['lost']} lost: {out}")
        if frames["selected"] < budget:
            watch.warn(f"only {frames['selected']} frames could be judged, so all of them are in the order.")
        untrained_note(encoder.bundle.manifest.untrained, watch)
        watch.say(f"\nNext: geal-edge report {out} -o report.html")
