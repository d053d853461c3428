"""`geal-edge report`: one page that shows what was selected, and why."""

from pathlib import Path
from typing import Annotated

import typer

from geal_edge.cli.common import PrivacyOf, Quiet, Terminal, privacy_of
from geal_edge.cli.farside import Between, Prefix, Tag, Vehicles, choice_of, is_far, opened_fleet
from geal_edge.errors import UsageError
from geal_edge.runtime.report import write_report
from geal_edge.runtime.report.farside import write_far_report

PICTURES = 200


def report(
    where: Annotated[
        str,
        typer.Argument(
            metavar="SPOOL|PICKS|URL", help="Spool folder, picks file, or what `geal-edge upload --to` sent to."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Page to write.")] = Path("report.html"),
    config: PrivacyOf = None,
    prefix: Prefix = "",
    vehicle: Vehicles = None,
    tag: Tag = None,
    between: Between = None,
    pictures: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of a URL: show so many frames, of each vehicle and day the first in turn, and count the others. Default: 200.",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write one self-contained page: frames in order, what made each new, novelty over time.

    Of a URL: what each vehicle sent on each day, and why.

    Example: `geal-edge report spool -o report.html`, `geal-edge report s3://bucket --prefix fleet`
    """
    far = is_far(where, prefix=prefix, vehicle=vehicle, tag=tag, between=between, pictures=pictures)
    if far and config is not None:
        raise UsageError("--config: is for a spool. What vehicles sent has passed their own [privacy].")
    with Terminal(quiet=quiet) as watch:
        if far:
            choice = choice_of(vehicle, tag, between)
            with opened_fleet(where, prefix, watch) as (fleet, store, cache):
                chosen = fleet.frames(choice)
                shown = PICTURES if pictures is None else pictures
                summary = write_far_report(fleet, chosen, store, cache, out, pictures=shown, watch=watch)
        else:
            summary = write_report(Path(where), out, privacy=privacy_of(config), watch=watch)
        watch.say(f"{out}: {summary.frames} frames, {summary.bytes / 1e6:.1f} MB")
