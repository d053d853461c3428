"""`geal-edge run --config`: the run that a supervisor starts."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

import numpy as np
import typer

from geal_edge.cli.common import Terminal, open_watched, stopping_well, untrained_note
from geal_edge.cli.status import result_lines
from geal_edge.errors import UsageError
from geal_edge.runtime.budget import parse_bytes, parse_cap
from geal_edge.runtime.companion import Companion, Program
from geal_edge.runtime.exporter import Exporter
from geal_edge.runtime.live import open_live
from geal_edge.runtime.notify import Supervisor
from geal_edge.runtime.service import Service, admitted, serve
from geal_edge.runtime.settings import Configuration, read_configuration
from geal_edge.runtime.settings.files import Said
from geal_edge.runtime.settings.sections import KEYS, cap_key
from geal_edge.runtime.settings.values import toml
from geal_edge.runtime.spoolview import open_view
from geal_edge.runtime.telemetry import Telemetry, pulse_folder

KEY_OF = {
    "sources": "source.uris",
    "fps": "source.rate_hz",
    "group": "source.group_s",
    "name": "source.name",
    "bundle": "bundle.path",
    "backend": "bundle.backend",
    "unverified": "bundle.unverified",
    "on_engine_failure": "bundle.on_engine_failure",
    "allow_untrained": "bundle.allow_untrained",
    "release": "budget.release",
    "spool": "spool.path",
    "encoding": "spool.encoding",
    "max_disk": "spool.max_bytes",
    "known": "memory.known",
    "guard": "gates.guard",
    "threads": "limits.threads",
}
"""Parameter of `run` -> the key that it comes before."""


def run_service(
    path: Path, context: typer.Context, *, for_s: float | None, shadow: bool, tags: Sequence[str], quiet: bool
) -> None:
    """Run by a configuration and what was said beside it, until it is told to stop."""
    read = partial(read_configuration, path, os.environ, flags(context))
    configuration = read()
    settings = configuration.settings
    bundle = admitted(settings.bundle)
    source = open_live(
        settings.source.uris,
        name=settings.source.name,
        rate_hz=settings.source.rate_hz,
        group_s=settings.source.group_s,
        for_s=for_s,
    )
    with Terminal(quiet=quiet) as watch, stopping_well() as stop:
        service = Service(
            configuration,
            watch=watch,
            read=read,
            supervisor=Supervisor(os.environ),
            stop=stop,
            uploader=Companion(np.random.default_rng()),
            uploads=lambda now: None if shadow else uploader_of(now),
        )
        with reloading(service):  # also while the model is loaded: without it a hang-up ends the process
            encoder = open_watched(
                settings.bundle.path,
                settings.limits.threads,
                settings.bundle.backend,
                unverified=settings.bundle.unverified,
                on_failure=settings.bundle.on_engine_failure,
                watch=watch,
            )
            with encoder:
                telemetry = Telemetry(pulse_folder(os.environ))
                with Exporter(settings.metrics, telemetry, settings.spool.path, service.note):
                    serve(service, source, encoder=encoder, shadow=shadow, tags=tags, telemetry=telemetry, stop=stop)
        with open_view(settings.spool.path) as view:
            for line in result_lines(view, settings.spool.path):
                watch.say(line)
        untrained_note(bundle.manifest.untrained, watch)


def uploader_of(configuration: Configuration) -> Program | None:
    """`geal-edge upload` on this configuration, where it is to run inside the service."""
    upload = configuration.settings.upload
    if upload is None or not upload.inside:
        return None
    words = ("-m", "geal_edge.cli.inside", os.getpid(), "upload", "--quiet", "--config", configuration.path)
    return Program(words=(sys.executable, *map(str, words)), environ=_as_variables(configuration))


def _as_variables(configuration: Configuration) -> dict[str, str]:
    """What flags said, for who reads the same files: they may have named another spool, or a key that no file has."""
    found = {"GEAL_EDGE_SPOOL__PATH": os.path.abspath(configuration.settings.spool.path)}
    for name, key in KEYS.items():
        value, where = configuration.value(key), configuration.origins[name]
        if value is not None and where.startswith(("--", "SOURCE")):
            text = str(value) if isinstance(value, str | Path) else toml(value)
            found[f"GEAL_EDGE_{key.section}__{key.name}".upper()] = text
    return found


def flags(context: typer.Context) -> list[Said]:
    """What stands on the command line, as keys. Raises UsageError for what a service does not have."""
    given = {
        name: value
        for name, value in context.params.items()
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }
    if "max_disk" in given:
        given["max_disk"] = parse_bytes(given["max_disk"], "--max-disk")
    for name in ("topic", "again"):
        if name in given:
            raise UsageError(f"--{name}: is for recorded sources; a service has live ones, which are seen once")
    said = [_said(KEY_OF[name], value, name) for name, value in given.items() if name in KEY_OF]
    if "budget" in given:  # all caps together: one that stayed from a file would hold beside them
        said += [_said(name, None, "budget") for name in KEYS if name.startswith("budget.") and "_per_" in name]
        for cap in map(parse_cap, given["budget"]):
            if cap.period is None:
                raise UsageError(f"--budget {cap}: a service has no end, so say how often, as {cap}/day")
            said.append(_said(f"budget.{cap_key(cap)}", cap.limit, "budget"))
    return said


def _said(key: str, value: object, parameter: str) -> Said:
    section, _, name = key.partition(".")
    where = "SOURCE" if parameter == "sources" else f"--{parameter.replace('_', '-')}"
    return Said(section=section, name=name, value=_of_toml(value), where=where)


def _of_toml(value: object) -> object:
    """As a file would say it, but that a path counts from here."""
    if isinstance(value, Path):
        return os.path.abspath(value)
    return [_of_toml(item) for item in value] if isinstance(value, list | tuple) else value


@contextmanager
def reloading(service: Service) -> Iterator[None]:
    """SIGHUP asks for the configuration to be read anew."""

    def ask(_signum: int, _frame: FrameType | None) -> None:
        service.ask_to_reload()

    before = signal.signal(signal.SIGHUP, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
