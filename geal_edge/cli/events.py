"""`geal-edge events`: what happened on a vehicle, once or as it happens."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from geal_edge.cli.common import Json, SpoolFolder, duration_s, onlooking
from geal_edge.runtime.eventlog import Event, EventReader, as_line, has_name, is_since, require_names
from geal_edge.runtime.vehicletime import moment

FOLLOW_S = 1.0
FIRST = 10
"""Events that `--follow` alone begins with."""


def events(
    spool: SpoolFolder,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens, until Ctrl-C.")] = False,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Of the last 90s, 10min or 2h alone.")] = None,
    after: Annotated[
        int | None, typer.Option(metavar="NUMBER", min=0, help="Behind the event of this number alone; 0: all.")
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="Of this name alone, or a glob as `camera_*`; again for more.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell what happened, oldest first: cameras, releases, losses, links, engines. With --follow the last ten, and what comes.

    Example: `geal-edge events spool --follow --name "camera_*"`
    """
    names = name or []
    require_names(names)
    since_s = None if since is None else duration_s(since, "--since")
    reader = EventReader(spool, after or 0)

    def chosen(found: Sequence[Event]) -> list[Event]:
        now = moment()
        return [e for e in found if has_name(e, names) and (since_s is None or is_since(e, since_s, now))]

    with onlooking() as looking:
        if not follow:
            tell(chosen(reader.take()), reader, as_json=as_json)
            return
        first = after is None and since is None
        for found in reader.follow(lambda: looking.wait(FOLLOW_S)):
            new = chosen(found)
            tell(new[-FIRST:] if first else new, reader, as_json=as_json)
            first = first and not found


def tell(found: Sequence[Event], reader: EventReader, *, as_json: bool) -> None:
    for note in reader.notes:
        print(f"note: {note}", file=sys.stderr, flush=True)
    reader.notes.clear()
    for event in found:
        print(as_line(event, as_json=as_json))
    sys.stdout.flush()  # whoever reads a pipe sees each event when it happens
