"""`geal-edge report`: one page that shows what was selected, and why."""

from pathlib import Path
from typing import Annotated

import typer

from geal_edge.cli.common import Quiet, Terminal
from geal_edge.runtime.report import write_report


def report(
    path: Annotated[Path, typer.Argument(metavar="SPOOL|PICKS", help="Spool folder or picks file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Page to write.")] = Path("report.html"),
    quiet: Quiet = False,
) -> None:
    """Write one self-contained page: frames in order, what made each new, novelty over time.

    Example: `geal-edge report spool -o report.html`
    """
    with Terminal(quiet=quiet) as watch:
        summary = write_report(path, out, watch=watch)
        watch.say(f"{out}: {summary.frames} frames, {summary.bytes / 1e6:.1f} MB")
