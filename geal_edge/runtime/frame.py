"""What a source yields: a frame that can be judged, or a frame that is lost with its reason."""

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from geal_edge.errors import FrameError
from geal_edge.runtime.metadata import Metadata

Image: TypeAlias = npt.NDArray[np.uint8]
"""uint8 (H, W, 3), RGB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One decoded frame, as its source gave it: never resized, never re-encoded.

    id               `<source>#<frame_index>` for video, `<source>/<relative path>` for images,
                     `<source>#<topic>@<capture_time_ns>` for recorded ROS data
    source           the source's name, unique in a spool
    frame_index      position in the source's own decode order from 0, counted before `--fps`: what a restart resumes by
    capture_time_ns  the source's own time; for a video file, nanoseconds from its first frame; None if unknown
    topic            for recorded ROS data, the topic whose message it is, else None
    image            uint8 (H, W, 3) RGB
    encoded          the source's own file bytes where it has them (image files), else None
    encoding         file ending of `encoded` without the dot ("jpg", "png", ...), "" where `encoded` is None
    metadata         what the vehicle says of it (metadata.py); empty where it says nothing
    """

    id: str
    source: str
    frame_index: int
    capture_time_ns: int | None
    image: Image
    encoded: bytes | None = None
    encoding: str = ""
    topic: str | None = None
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LostFrame:
    """A frame that no decision will see, because it could not be read. It counts as seen and as lost.

    reason  short stable key: `empty`, `truncated`, `not_an_image`, `too_large`, `unreadable`, `undecodable`; of live sources also
            those of `LATE`
    detail  one sentence for a person
    """

    id: str
    source: str
    frame_index: int
    capture_time_ns: int | None
    reason: str
    detail: str
    topic: str | None = None


TOO_LATE = frozenset(("queue_full", "too_slow", "torn"))
"""Why a live source loses frames that nobody could look at in time."""
LATE = TOO_LATE | {"stopped", "over_budget", "privacy"}
"""Why frames are lost that could be read: nobody could look at them in time, or before a live source ended; their unit has more
bytes than its budget ever allows; or the privacy hook failed on it. Each may hold for very many, so not each is an event."""


def usable(item: Frame | LostFrame) -> Frame:
    """The frame, if it is one; raises FrameError with its reason where it was lost before anyone could look at it."""
    if isinstance(item, LostFrame):
        raise FrameError(item.reason, item.detail)
    return item
