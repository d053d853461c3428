"""`geal-edge memory`: what counts as covered before a selection begins: known frames, and regions to be ignored."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from geal_edge.cli.common import Json, Quiet, Terminal, Threads, open_encoder, stopping_well
from geal_edge.errors import UsageError
from geal_edge.runtime.features import LateEncoder
from geal_edge.runtime.memory import Memory, Region
from geal_edge.runtime.memoryfile import memory_json, read_memory
from geal_edge.runtime.remembering import add_ignored, add_known, merge_files

memory = typer.Typer(
    help="Known frames and ignored regions: what a selection counts as covered.\n\n"
    "Example: `geal-edge memory add vehicle.memory spool`",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

MemoryFile = Annotated[Path, typer.Argument(metavar="MEMORY", help="Memory file.")]


@memory.command()
def add(
    file: Annotated[Path, typer.Argument(metavar="MEMORY", help="Memory file; made where it is absent.")],
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Spools, picks files, stored features, folders of images, or label exports (COCO, CVAT, YOLO, Label Studio).",
        ),
    ],
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", "-b", help="Bundle that encodes the frames; for spools none is needed."),
    ] = None,
    ignore: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Ignore what made this frame of a spool or picks file new, not the frame itself."
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,W,H", help="Ignore what lies here instead, as shares of the picture from its upper left."
        ),
    ] = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Remember frames as known, or a region of a frame as one to be ignored.

    Example: `geal-edge memory add vehicle.memory labelled/annotations.json spool --bundle bundle`

    An own bonnet: `geal-edge memory add vehicle.memory spool --ignore drive.mp4#12 --region 0,0.8,1,0.2`
    """
    if region is not None and ignore is None:
        raise UsageError(f"--region {region}: of which frame? Name it with --ignore ID.")
    if ignore is not None and len(paths) > 1:
        raise UsageError(f"--ignore {ignore}: names a frame of one spool or picks file, but {len(paths)} were given.")
    with ExitStack() as stack:
        watch, stop = stack.enter_context(Terminal(quiet=quiet)), stack.enter_context(stopping_well())
        encoder = None if bundle is None else stack.enter_context(LateEncoder(open_encoder(bundle, threads)))
        if ignore is None:
            before, after = add_known(file, paths, encoder=encoder, watch=watch, stop=stop)
        else:
            shape = None if region is None else parse_region(region)
            before, after = add_ignored(file, paths[0], ignore, region=shape, encoder=encoder, stop=stop)
        watch.say(f"{file}: {_change(before, after)}")


@memory.command()
def show(file: MemoryFile, as_json: Json = False) -> None:
    """Show what a memory holds: frames by kind and origin, what is ignored, how much was forgotten.

    Example: `geal-edge memory show vehicle.memory`
    """
    data = memory_json(file, read_memory(file))
    print(json.dumps(data, indent=1, ensure_ascii=False) if as_json else "\n".join(memory_lines(file, data)))


@memory.command()
def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Memory file to write; may be one of the others.")],
    files: Annotated[list[Path], typer.Argument(metavar="MEMORY...", help="Memory files of one feature space.")],
    quiet: Quiet = False,
) -> None:
    """Put memories together: what stands in several of them stands in the result once.

    Example: `geal-edge memory merge fleet.memory car1.memory car2.memory`
    """
    with Terminal(quiet=quiet) as watch:
        merged = merge_files(out, files)
        watch.say(f"{out}: {_holds(merged)}")


def parse_region(text: str) -> Region:
    """`X,Y,W,H` as four numbers. Raises UsageError where it is not.

    >>> parse_region("0,0.8,1,0.2")
    (0.0, 0.8, 1.0, 0.2)
    """
    try:
        x, y, width, height = (float(word) for word in text.split(","))
    except ValueError as error:
        raise UsageError(f"--region {text}: must be four numbers X,Y,W,H from 0 to 1, as in 0,0.8,1,0.2") from error
    return x, y, width, height


def memory_lines(path: Path, data: dict[str, Any]) -> Iterator[str]:
    frames = data["frames"]
    yield f"memory {path}"
    yield f"  feature space  {data['feature_space']}"
    yield (
        f"  frames         {frames['known'] + frames['released']} of at most {data['max_frames']}: {frames['known']} known, "
        f"{frames['released']} released; {data['forgotten']} forgotten"
    )
    on_disk, resident = data["file_bytes"] / 1e6, data["rows_bytes"] / 1e6
    yield f"  size           {on_disk:.1f} MB on disk, {resident:.1f} MB as {data['clusters']} rows"
    for origin in data["origins"]:
        yield f"  {origin['kind']:<13}  {origin['frames']:>5}  {origin['origin']}"
    for ignored in data["ignore"]:
        region = ignored["region"]
        where = "its witness" if region is None else f"region {','.join(f'{n:g}' for n in region)}"
        patches = len(ignored["patches"])
        yield f"  ignore         {ignored['id']} ({where}): {ignored['clusters']} clusters, {patches} patches"


def _change(before: Memory, after: Memory) -> str:
    forgotten = after.forgotten - before.forgotten
    new = len(after.entries) - len(before.entries) + forgotten
    gone = f", {forgotten} forgotten (the most redundant)" if forgotten else ""
    return f"{new} new{gone}; {_holds(after)}"


def _holds(held: Memory) -> str:
    frames = len(held.frames)
    return f"{frames} of at most {held.max_frames} frames, regions to be ignored: {len(held.entries) - frames}"
