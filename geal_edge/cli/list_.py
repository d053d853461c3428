"""`geal-edge list`: the selected frames of a spool in their order, those that it did not take, or what has arrived."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

from geal_edge.cli.common import Json, SpoolOrUrl, Terminal
from geal_edge.cli.farside import Between, Prefix, Tag, Vehicles, choice_of, frame_lines, is_far, opened_fleet
from geal_edge.errors import UsageError
from geal_edge.runtime.eventlog import printable
from geal_edge.runtime.farside.standing import list_lines as far_lines
from geal_edge.runtime.report.page import clock
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.why import refused

Line: TypeAlias = dict[str, Any]
Refused: TypeAlias = Literal["not_new", "gated", "lost"]

LIMIT = 100
COLUMNS = (
    "order", "state", "id", "source", "frame_index", "capture_time_ns", "distance", "cover_radius", "novelty", "radius", "unit",
    "round", "file", "bytes", "sha256",
)  # fmt: skip
REFUSED_COLUMNS = ("state", "id", "capture_time_ns", "reason", "detail", "novelty", "radius", "nearest")
FAR_COLUMNS = (
    "vehicle", "trip", "round", "order", "id", "source", "capture_time_ns", "distance", "novelty", "radius", "unit", "key",
    "bytes", "sha256",
)  # fmt: skip
"""Of CSV; what has parts of its own is in the machine form alone."""


def list_selected(
    where: SpoolOrUrl,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a table for spreadsheets.")] = False,
    retained: Annotated[bool, typer.Option("--retained", help="Also those retained but not selected.")] = False,
    state: Annotated[
        Refused | None, typer.Option(help="Instead: frames that were seen and not retained, the newest first.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"With --state: so many at most. Default: {LIMIT}; 100,000 are known.")
    ] = None,
    prefix: Prefix = "",
    vehicle: Vehicles = None,
    tag: Tag = None,
    between: Between = None,
) -> None:
    """List the selected frames in their order; all that was seen is within the chord `covers` of the frames down to that line.

    Of a URL: the frames that arrived, vehicle by vehicle.

    Example: `geal-edge list spool --json`, `geal-edge list spool --state not_new`, `geal-edge list s3://bucket --vehicle car-17`
    """
    if as_json and as_csv:
        raise UsageError("list: --json and --csv are two forms; choose one.")
    if state is None and limit is not None:
        raise UsageError("list: --limit is for --state; the selected frames are listed whole.")
    if state is not None and retained:
        raise UsageError(f"list: --state {state} is about frames that are not retained; leave out --retained.")
    if is_far(where, prefix=prefix, vehicle=vehicle, tag=tag, between=between):
        if retained or state is not None:
            raise UsageError(
                f"{'--retained' if retained else '--state'}: is for a spool. Only what was selected is on the far side."
            )
        choice = choice_of(vehicle, tag, between)
        with Terminal() as watch, opened_fleet(where, prefix, watch) as (fleet, _, _):
            frames = fleet.frames(choice)
        _warn(any(frame.untrained for frame in frames), quiet=as_json or as_csv)
        print_lines(far_lines(frames), FAR_COLUMNS, frame_lines(frames), as_json=as_json, as_csv=as_csv)
        return
    with open_view(Path(where)) as view:
        lines = list(
            view.list_lines(retained=retained) if state is None else refused(view, state, at_most=limit or LIMIT)
        )
        untrained = view.untrained
    _warn(untrained, quiet=as_json or as_csv)
    columns, words = (COLUMNS, selected_lines(lines)) if state is None else (REFUSED_COLUMNS, refused_lines(lines))
    print_lines(lines, columns, words, as_json=as_json, as_csv=as_csv)


def _warn(untrained: bool, *, quiet: bool) -> None:
    if untrained and not quiet:
        print("UNTRAINED weights: the order shows the machinery, not what DINO would choose", file=sys.stderr)


def print_lines(
    lines: Iterable[Line], columns: Sequence[str], words: Iterable[str], *, as_json: bool, as_csv: bool
) -> None:
    """In the form that was asked for: `words` for people, of `lines` these columns for spreadsheets."""
    if as_csv:
        writer = csv.DictWriter(sys.stdout, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in line.items()} for line in lines)
        return
    for text in (json.dumps(line, ensure_ascii=False) for line in lines) if as_json else words:
        print(text)


def _cell(value: Any) -> Any:
    """A text as a spreadsheet shows it: ids may be anybody's, and one that begins like a formula would be worked out.

    >>> _cell("=1+1"), _cell("live#front@5"), _cell(-0.5)
    ("'=1+1", 'live#front@5', -0.5)
    """
    if not isinstance(value, str):
        return value
    return ("'" if value.startswith(("=", "+", "-", "@")) else "") + printable(value)


def selected_lines(lines: Iterable[Line]) -> Iterator[str]:
    yield "order  distance  covers  file  id"
    for line in lines:
        order = "-" if line["order"] is None else line["order"]
        distance, covers = (_number(line[name]) for name in ("distance", "cover_radius"))
        yield f"{order:>5}  {distance:>8}  {covers:>6}  {line['file'] or '-'}  {line['id']}"


def refused_lines(lines: Iterable[Line]) -> Iterator[str]:
    """novelty beside the radius that it did not reach; a lost or gated frame has a reason instead."""
    yield "novelty  radius  time                        reason          id (nearest)"
    for line in lines:
        novelty, radius = (_number(line[name]) for name in ("novelty", "radius"))
        time = "-" if line["capture_time_ns"] is None else clock(line["capture_time_ns"])
        nearest = "" if line["nearest"] is None else f" ({line['nearest']})"
        yield f"{novelty:>7}  {radius:>6}  {time:<26}  {line['reason'] or '-':<14}  {line['id']}{nearest}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
