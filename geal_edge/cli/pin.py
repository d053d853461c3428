"""`geal-edge pin`: what is to stay on disk, whatever is decided."""

from typing import Annotated

import typer

from geal_edge.cli.common import FrameId, SpoolFolder
from geal_edge.runtime import pins


def pin(
    spool: SpoolFolder,
    id: FrameId,  # noqa: A002
    remove: Annotated[bool, typer.Option("--remove", help="Take the pin back.")] = False,
) -> None:
    """Pin a frame that is retained or released, with its unit: its file stays until the pin is removed. Beside `run` too.

    Example: `geal-edge pin spool drive.mp4#120`
    """
    if remove:
        pins.unpin(spool, id)
        print(f"{id}: no longer pinned; it goes as any other")
    else:
        pins.pin(spool, id)
        print(f"{id}: pinned; its files stay until the pin is removed, or until they are sent")
