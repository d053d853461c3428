"""The console script: turns our errors into one line on stderr and an exit code.

`run` is started by every vehicle, often; the modules of the other commands would cost it a second of its processor each time, so
they are loaded for all other commands alone.
"""

import sys

import typer

import geal_edge
from geal_edge.errors import GealEdgeError, Interrupted, StorageError


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"geal-edge {geal_edge.__version__}")
        raise typer.Exit


def empty_app() -> typer.Typer:
    """`geal-edge` without a command."""
    app = typer.Typer(
        name="geal-edge",
        help="Choose, on the vehicle, the few frames that are worth labelling.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def _root(
        version: bool = typer.Option(
            False, "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ) -> None:
        pass

    return app


def app_for(words: list[str]) -> typer.Typer:
    """`geal-edge` with the commands that a command line may mean."""
    if words[:1] != ["run"]:
        from geal_edge.cli.app import app

        return app
    from geal_edge.cli.run import run

    only_run = empty_app()
    only_run.command("run")(run)
    return only_run


def main(*, says_stopped: bool = True) -> None:
    """A mistake of the user's ends in a sentence, never in a traceback.

    says_stopped: whether being stopped is one too; not where whoever stops it says so itself
    """
    try:
        app_for(sys.argv[1:])()
    except KeyboardInterrupt:  # before the command has begun: it says itself how it was stopped
        sys.exit(Interrupted.exit_code)
    except GealEdgeError as error:
        if says_stopped or not isinstance(error, Interrupted):
            print(f"geal-edge: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # a path that may not be looked at; what we write and read ourselves has its own sentences
        where = f"{error.filename}: " if error.filename else ""
        print(f"geal-edge: {where}{error.strerror or error}. Check the path and your rights to it.", file=sys.stderr)
        sys.exit(StorageError.exit_code)
