"""A frame on its way into the model: fit or not, resized, encoded. One that stops on the way keeps its place, with the reason.

    Frame -> guard -> resize -> Prepared -> encoder -> EncodedFrame

The two steps run ahead of the selection, in threads of their own (overlap.py): neither changes what another one reads.
"""

from collections.abc import Callable
from dataclasses import dataclass

from geal_edge.errors import FrameError
from geal_edge.models.bundle import Manifest
from geal_edge.models.preprocess import resize
from geal_edge.runtime.encoder import Encoded
from geal_edge.runtime.frame import Frame, Image, LostFrame, usable
from geal_edge.runtime.guard import Guard


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """pixels: what the model will see of a frame, uint8 (height, width, 3) RGB; or why it will not: lost, or gated."""

    item: Frame | LostFrame
    pixels: Image | FrameError


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedFrame:
    """encoded: what the model says of a frame, or why it was not asked."""

    item: Frame | LostFrame
    encoded: Encoded | FrameError

    def frame(self) -> tuple[Frame, Encoded]:
        """Raises FrameError, or FrameGated, for one that was not encoded."""
        if isinstance(self.encoded, FrameError):
            raise self.encoded
        return usable(self.item), self.encoded


def prepare(item: Frame | LostFrame, manifest: Manifest, guard: Guard | None = None) -> Prepared:
    """Look at a frame and bring it to the model's size. The guard sees frames in the order in which this is asked."""
    try:
        frame = usable(item)
        if guard is not None:
            guard.before(frame)
    except FrameError as error:
        return Prepared(item=item, pixels=error)
    return Prepared(item=item, pixels=resize(frame.image, manifest.width, manifest.height, manifest.resize))


def encode(prepared: Prepared, encoder: Callable[[Image], Encoded]) -> EncodedFrame:
    """Raises BackendError and whatever else the encoder raises: what is wrong with an engine is not wrong with the frame."""
    pixels = prepared.pixels
    return EncodedFrame(item=prepared.item, encoded=pixels if isinstance(pixels, FrameError) else encoder(pixels))
