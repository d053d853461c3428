"""`geal-edge erase`: remove what is left of frames, for good."""

import sys
from typing import Annotated

import typer

from geal_edge.cli.common import SpoolFolder
from geal_edge.errors import UsageError
from geal_edge.runtime.erasure import Erasable, Rule, moment_ns
from geal_edge.runtime.erasure import erase as erase_frames


def erase(
    spool: SpoolFolder,
    id: Annotated[str | None, typer.Option("--id", metavar="ID", help="One frame, with its unit.")] = None,  # noqa: A002
    source: Annotated[str | None, typer.Option(help="All frames of a source, by its name.")] = None,
    between: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="FROM TO", help="All that was captured or stored from FROM to TO, as 2026-03-01T12:00:00 (UTC)."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase frames for good: files, clusters, ids, their part of the memory. Stop `run` first; what was sent is out of reach.

    Example: `geal-edge erase spool --between 2026-03-01T12:00:00 2026-03-01T12:10:00`
    """
    if sum(given is not None for given in (id, source, between)) != 1:
        raise UsageError("erase: say what, by one of --id, --source and --between.")
    between_ns = between and (moment_ns(between[0]), moment_ns(between[1]))
    if between is not None and between_ns is not None and between_ns[0] > between_ns[1]:
        raise UsageError(f"--between {between[0]} {between[1]}: ends before it begins. Nothing was erased.")
    rule = Rule(id=id, source=source, between_ns=between_ns)
    agreed: list[bool] = []

    def sure(found: Erasable) -> bool:
        if not yes and not sys.stdin.isatty():
            raise UsageError(f"{_words(found)}: would be erased. Nothing was; say --yes where nobody can be asked.")
        agreed.append(yes or typer.confirm(f"Erase {_words(found)} for good?"))
        return agreed[-1]

    found = erase_frames(spool, rule, sure=sure)
    print(f"{spool}: {_words(found)} erased" if agreed[-1] else "Nothing was erased.")


def _words(found: Erasable) -> str:
    others = f", and what is noted of {len(found.verdicts)} others" if found.verdicts else ""
    return f"{len(found.ids)} frames in {len(found.units)} units, {found.bytes} bytes{others}"
