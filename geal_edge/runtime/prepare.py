"""A frame on its way into the model: fit or not, resized, encoded. One that stops on the way keeps its place, with the reason.

    Frame -> gates -> guard -> resize -> Prepared -> encoder -> EncodedFrame

The two steps run ahead of the selection, in threads of their own (overlap.py): neither changes what another one reads.
"""

from collections.abc import Callable
from dataclasses import dataclass

from geal_edge.errors import FrameError
from geal_edge.models.bundle import Manifest
from geal_edge.models.preprocess import resize
from geal_edge.runtime.clocks import UNTIMED, Clocks
from geal_edge.runtime.encoder import Encoded
from geal_edge.runtime.frame import Frame, Image, LostFrame, usable
from geal_edge.runtime.gates import Gates, LookedAt
from geal_edge.runtime.guard import Guard


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """pixels: what the model will see of a frame, uint8 (height, width, 3) RGB; or why it will not: lost, or gated.

    looked_at  what its gates remember of it from then on; None where there are none, or it does not pass
    """

    item: Frame | LostFrame
    pixels: Image | FrameError
    looked_at: LookedAt | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedFrame:
    """encoded: what the model says of a frame, or why it was not asked; looked_at: as above."""

    item: Frame | LostFrame
    encoded: Encoded | FrameError
    looked_at: LookedAt | None = None

    def frame(self) -> tuple[Frame, Encoded]:
        """Raises FrameError, or FrameGated, for one that was not encoded."""
        if isinstance(self.encoded, FrameError):
            raise self.encoded
        return usable(self.item), self.encoded


def prepare(
    item: Frame | LostFrame,
    manifest: Manifest,
    guard: Guard | None = None,
    gates: Gates | None = None,
    clocks: Clocks = UNTIMED,
) -> Prepared:
    """Look at a frame and bring it to the model's size. Gates and guard see frames in the order in which this is asked."""
    looked_at = None
    try:
        frame = usable(item)
        if gates is not None:
            looked_at = gates.before(frame)
        if guard is not None:
            guard.before(frame)
    except FrameError as error:
        return Prepared(item=item, pixels=error)
    if gates is not None and looked_at is not None:
        gates.learn(frame.topic, looked_at)
    with clocks["resize"]:
        pixels = resize(frame.image, manifest.width, manifest.height, manifest.resize)
    return Prepared(item=item, pixels=pixels, looked_at=looked_at)


def encode(prepared: Prepared, encoder: Callable[[Image], Encoded], clocks: Clocks = UNTIMED) -> EncodedFrame:
    """Raises BackendError and whatever else the encoder raises: what is wrong with an engine is not wrong with the frame."""
    pixels = prepared.pixels
    if isinstance(pixels, FrameError):
        return EncodedFrame(item=prepared.item, encoded=pixels, looked_at=prepared.looked_at)
    with clocks["encode"]:
        encoded = encoder(pixels)
    return EncodedFrame(item=prepared.item, encoded=encoded, looked_at=prepared.looked_at)
