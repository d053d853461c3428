"""`geal-edge list`: the selected frames of a spool, in their order."""

import json
import sys
from typing import Annotated

import typer

from geal_edge.cli.common import Json, SpoolFolder
from geal_edge.runtime.spoolview import open_view


def list_selected(
    spool: SpoolFolder,
    as_json: Json = False,
    retained: Annotated[bool, typer.Option("--retained", help="Also those retained but not selected.")] = False,
) -> None:
    """List the selected frames in their order; all that was seen is within the chord `covers` of the frames down to that line.

    Example: `geal-edge list spool --json`
    """
    with open_view(spool) as view:
        lines = list(view.list_lines(retained=retained))
        untrained = view.untrained
    if as_json:
        for line in lines:
            print(json.dumps(line, ensure_ascii=False))
        return
    if untrained:
        print("UNTRAINED weights: the order shows the machinery, not what DINO would choose", file=sys.stderr)
    print("order  distance  covers  file  id")
    for line in lines:
        order = "-" if line["order"] is None else line["order"]
        distance, covers = (_number(line[name]) for name in ("distance", "cover_radius"))
        print(f"{order:>5}  {distance:>8}  {covers:>6}  {line['file'] or '-'}  {line['id']}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
