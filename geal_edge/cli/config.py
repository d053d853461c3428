"""`geal-edge config`: a service's configuration, checked and shown."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from geal_edge.runtime.settings import reference
from geal_edge.runtime.settings.reading import DEFAULT, read_configuration

config = typer.Typer(
    help="The configuration of a service: checked, shown, described for editors.\n\n"
    "Example: `geal-edge config check /etc/geal-edge/geal-edge.toml`",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

ConfigFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="Configuration; `conf.d/*.toml` beside it and the environment are read with it."
    ),
]
USUAL = Path("/etc/geal-edge/geal-edge.toml")


@config.command()
def check(file: ConfigFile = USUAL) -> None:
    """Name every fault of a configuration at once. Looks at nothing but the configuration: no camera, bundle or disk.

    Example: `geal-edge config check geal-edge.toml`
    """
    origins = read_configuration(file, os.environ).origins
    given = [origin for origin in origins.values() if origin != DEFAULT]
    print(f"{file}: no fault; {len(given)} keys are given, {len(origins) - len(given)} have their defaults.")


@config.command()
def show(
    file: ConfigFile = USUAL,
    origin: Annotated[bool, typer.Option("--origin", help="Say of each value where it was given.")] = False,
) -> None:
    """Print the values in force, as a configuration, and their digest; passwords in addresses are left out.

    Example: `geal-edge config show --origin geal-edge.toml`
    """
    found = read_configuration(file, os.environ)
    print(f"# {reference.digest(found)}")
    print("\n".join(reference.effective(found, origin=origin)))


@config.command()
def schema() -> None:
    """Print the JSON Schema of a configuration, which completes and checks it in an editor.

    Example: `geal-edge config schema > geal-edge.schema.json`
    """
    print(json.dumps(reference.schema(), indent=1, ensure_ascii=False))
