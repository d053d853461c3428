"""`geal-edge upload`: send what was selected."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from geal_edge.cli.common import Quiet, Terminal, stopping_well
from geal_edge.config import UploadConfig
from geal_edge.errors import ConfigError, UploadUnfinished, UsageError
from geal_edge.runtime.notify import Supervisor
from geal_edge.runtime.privacy.filter import PrivacyFilter
from geal_edge.runtime.settings import read_configuration
from geal_edge.runtime.upload import service


def upload(
    spool: Annotated[
        Path | None,
        typer.Argument(metavar="SPOOL", help="Spool folder, filled by `geal-edge run`.", show_default=False),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            help="The far side: a folder, or a URL of s3, gs, az, http or https. Credentials: docs/upload.md."
        ),
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="Take the spool, [upload] and [privacy] from this configuration (docs/service.md)."
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End when all that is released is sent, or cannot be.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")] = False,
    force: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Send this released frame alone, also if it was set aside, at any time and over any link.",
        ),
    ] = None,
    prefix: Annotated[str, typer.Option(help="What every key begins with, as fleet/europe.")] = "",
    vehicle: Annotated[
        str | None, typer.Option(help="Name of this vehicle in every key. Default: as `run` has noted it.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Send released frames to the far side, in their order, until it is stopped; a process of its own beside `run`.

    What is selected of recorded sources is released by it. Example: `geal-edge upload spool --to s3://bucket/fleet --once`

    As a service: `geal-edge upload --config /etc/geal-edge/geal-edge.toml`
    """
    if config_file is not None:
        if spool is not None or to is not None or prefix or vehicle is not None:
            raise UsageError("--config: says the spool, --to, --prefix and --vehicle itself; leave them out beside it")
        spool, config, privacy = configured(config_file)
    elif spool is not None and to is not None:
        config, privacy = UploadConfig(to=to, prefix=prefix, vehicle=vehicle), None
    else:
        raise UsageError("SPOOL and --to: must be given, or --config FILE that says them")
    if dry_run:
        with Terminal(quiet=quiet) as watch:
            planned = list(service.planned(spool))
            for outgoing in planned:
                print(f"{outgoing.place:>5}  {outgoing.bytes:>9}  {outgoing.trip}  {outgoing.frames[0].id}")
            if service.released_first(spool):
                watch.warn(FIRST.format(spool=spool))
            elif left := service.set_aside_in(spool):
                watch.warn(ASIDE.format(spool=spool, left=left))
            elif not planned:
                watch.warn(NOTHING.format(spool=spool))
        return
    with Terminal(quiet=quiet) as watch, stopping_well() as stop:
        watch.begin("sending", None)
        supervisor = Supervisor(os.environ)
        try:
            done = service.upload(
                spool, config, once=once, force=force, privacy=privacy, watch=watch, stop=stop, supervisor=supervisor
            )
        finally:
            supervisor.stopping()
        aside = f", {done.set_aside} set aside (`geal-edge why` says why)" if done.set_aside else ""
        watch.say(f"{done.sent} units sent{aside}")
        if once and (left := service.set_aside_in(spool)):
            raise UploadUnfinished("set_aside", "unfinished", ASIDE.format(spool=spool, left=left))
        if not done.sent and not done.set_aside:
            watch.warn(NOTHING.format(spool=spool))


NOTHING = (
    "nothing that is released waits; what is only selected goes once it is released. "
    "`geal-edge status {spool}` says how it stands"
)
"""An upload of nothing looks like one that worked."""
FIRST = (
    "{spool}: its recorded sources were read to their end, so an upload would release what is selected, and send it: "
    "`geal-edge list {spool}` names it, in its order"
)
ASIDE = (
    "{spool}: not all is sent: {left} released units are set aside. `geal-edge why {spool} ID` says why, and "
    "`geal-edge upload {spool} --to URL --force ID` tries one again."
)


def configured(path: Path) -> tuple[Path, UploadConfig, PrivacyFilter]:
    """The spool and the far side that a configuration names, and what pictures pass before they leave. Raises ConfigError, and
    UsageError where the function of its [privacy] cannot be had."""
    settings = read_configuration(path, os.environ).settings
    if settings.upload is None:
        raise ConfigError(f'{path}: says nothing of [upload]; it must have `to` at least, as to = "s3://bucket/fleet"')
    config = replace(settings.upload, vehicle=settings.vehicle.id)
    return settings.spool.path, config, PrivacyFilter(settings.privacy)
