"""`geal-edge doctor`: is this machine ready?"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from geal_edge.cli.common import Json, fail_if, require_writable_place
from geal_edge.errors import MachineNotReady, UsageError
from geal_edge.runtime.doctor.archive import write_archive
from geal_edge.runtime.doctor.examination import Report, examine
from geal_edge.runtime.doctor.finding import System


def doctor(
    spool: Annotated[
        Path | None,
        typer.Option("--spool", "-s", help="Also examine the disk of this spool, which need not exist yet."),
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option(
            metavar="TAR.GZ",
            help="Also write a file for support: this report, versions, settings without secrets, the spool's status and "
            "events; no frames.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="Put this service's configuration into the archive too, without secrets.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Examine this machine: engines by what they compute, drivers, OpenCV, cameras, clock, disk, memory, caches.

    Each line is good, degraded, broken or not there, and says what to do; ends with 23 where something is broken.

    Example: `geal-edge doctor --spool spool`

    For support: `geal-edge doctor --spool spool --config geal-edge.toml --archive doctor.tar.gz`
    """
    if archive is not None:
        require_writable_place(archive)
    elif config is not None:
        raise UsageError("--config: what it names goes into the archive. Name that too, as in --archive doctor.tar.gz.")
    system = System(environ=os.environ, wall_ns=time.time_ns, spool=spool)
    report = examine(system)
    print(json.dumps(report.as_json(), indent=1, ensure_ascii=False) if as_json else "\n".join(_lines(report)))
    if archive is not None:
        names = write_archive(archive, report, system, config)
        typer.echo(f"{archive}: {', '.join(names)}; no frames", err=True)
    fail_if(report.verdict == "broken", MachineNotReady.exit_code)


def _lines(report: Report) -> Iterator[str]:
    width = max(len(finding.name) for finding in report.findings)
    for finding in report.findings:
        verdict = "not there" if finding.verdict == "absent" else finding.verdict
        yield f"{verdict:<9}  {finding.name:<{width}}  {finding.seen}"
        if finding.advice:
            yield f"{'':<9}  {'':<{width}}  -> {finding.advice}"
    counts = {
        verdict: sum(finding.verdict == verdict for finding in report.findings) for verdict in ("broken", "degraded")
    }
    ready = "NOT READY" if counts["broken"] else "ready"
    yield f"{ready}: {counts['broken']} broken, {counts['degraded']} degraded"
