"""`geal-edge verify`: let an engine answer for itself, on the machine that will run it."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from geal_edge.cli.common import Json, Quiet, Terminal, backends_of, fail_if, machine_state
from geal_edge.errors import ParityError
from geal_edge.models.bundle import Bundle
from geal_edge.runtime import verify as verifying
from geal_edge.runtime.backends.choice import BackendName
from geal_edge.runtime.records import Verification, write_record
from geal_edge.runtime.sources import open_source


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder, made by `geal-edge export`.")],
    backend: Annotated[BackendName, typer.Option(help="Engine to ask.")],
    check: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Also select from these frames, and measure the picks against those of ONNX Runtime on the CPU.",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Let an engine answer the bundle's reference frames on this machine, and record how it did.

    `run` takes no other engine than a verified one; `--backend auto` chooses among them.

    Example: `geal-edge verify bundle --backend openvino --check drive.mp4`
    """
    opened, state = Bundle.open(bundle), machine_state()
    with Terminal(quiet=quiet or as_json) as watch:
        source = None if check is None else open_source(check)
        verification = verifying.verify(opened, backend, backends_of(opened, state), check=source, watch=watch)
        wall_ns = time.time_ns()
        path = write_record(state, opened, verification, wall_ns=wall_ns)
        if as_json:
            print(json.dumps(verification.as_json(opened, wall_ns=wall_ns), indent=1, ensure_ascii=False))
        say_verification(verification, opened, path, watch)
    fail_if(not verification.passed, ParityError.exit_code)


def say_verification(verification: Verification, bundle: Bundle, path: Path, watch: Terminal) -> None:
    """How an engine answered, and where that is recorded."""
    verdict = "verified" if verification.passed else "FAILED"
    watch.say(f"{verification.backend}: {verdict}, {verification.identity.engine} on {verification.identity.device}")
    watch.say("\n".join(f"  {line}" for line in str(verification).splitlines()))
    if verification.frame_ms is not None:
        watch.say(f"  {verification.frame_ms:.1f} ms a frame (median, batch {bundle.manifest.batch or 1})")
    watch.say(f"recorded in {path}")
