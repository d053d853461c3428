"""The `geal-edge` command: registers the commands, turns our errors into one line on stderr and an exit code."""

import sys

import typer

import geal_edge
from geal_edge.cli import (
    build,
    check,
    compare,
    demo,
    doctor,
    export,
    extract,
    inspect,
    list_,
    memory,
    report,
    run,
    select,
    status,
    verify,
)
from geal_edge.errors import GealEdgeError, StorageError

app = typer.Typer(
    name="geal-edge",
    help="Choose, on the vehicle, the few frames that are worth labelling.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

MODEL, CHOOSE, VEHICLE, HELP = "Model", "Choose", "Vehicle", "Help"

app.command("export", rich_help_panel=MODEL)(export.export)
app.command("build", rich_help_panel=MODEL)(build.build)
app.command("verify", rich_help_panel=MODEL)(verify.verify)
app.command("inspect", rich_help_panel=MODEL)(inspect.inspect)
app.command("select", rich_help_panel=CHOOSE)(select.select)
app.command("compare", rich_help_panel=CHOOSE)(compare.compare)
app.command("report", rich_help_panel=CHOOSE)(report.report)
app.command("extract", rich_help_panel=CHOOSE)(extract.extract)
app.command("run", rich_help_panel=VEHICLE)(run.run)
app.command("status", rich_help_panel=VEHICLE)(status.status)
app.command("list", rich_help_panel=VEHICLE)(list_.list_selected)
app.command("check", rich_help_panel=VEHICLE)(check.check)
app.add_typer(memory.memory, name="memory", rich_help_panel=VEHICLE)
app.command("doctor", rich_help_panel=HELP)(doctor.doctor)
app.command("demo", rich_help_panel=HELP)(demo.demo)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"geal-edge {geal_edge.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def main() -> None:
    """The console script. A mistake of the user's ends in a sentence, never in a traceback."""
    try:
        app()
    except GealEdgeError as error:
        print(f"geal-edge: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # a path that may not be looked at; what we write and read ourselves has its own sentences
        where = f"{error.filename}: " if error.filename else ""
        print(f"geal-edge: {where}{error.strerror or error}. Check the path and your rights to it.", file=sys.stderr)
        sys.exit(StorageError.exit_code)
