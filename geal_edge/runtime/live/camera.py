"""What a camera is to a live source: something that offers shots from a thread of its own, for as long as it can."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import Any, Protocol, TypeAlias

from geal_edge.runtime.frame import Image
from geal_edge.runtime.metadata import Metadata

Picture: TypeAlias = bytes | Image
"""The bytes of an image file, decoded only if the frame is judged; or the pixels, uint8 (H, W, 3) RGB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One picture that a camera has now.

    capture_time_ns  the camera's own time; nanoseconds of its clock
    read             gets the picture; called at once and only if the shot is taken. Raises FrameError
    metadata         gets what the vehicle says of it; called after `read`, in the same way. Raises UsageError
    """

    capture_time_ns: int
    read: Callable[[], Picture]
    metadata: Callable[[], Metadata] = dict


class Intake(Protocol):
    """Where a camera's shots go; it never blocks."""

    def offer(self, shot: Shot) -> bool:
        """Hand in a shot; False where the rate passes it over. Whether it is judged is not known yet."""

    def notice(self, name: str, **detail: Any) -> None:
        """Tell of something that a person may ask about."""

    def end_trip(self) -> None:
        """Whoever runs the camera says that the trip is over."""


class Camera(Protocol):
    """`name` is the topic of its frames; `spec` is what opens it, without any secret."""

    @property
    def name(self) -> str: ...

    @property
    def spec(self) -> str: ...

    def watch(self, intake: Intake, stopped: Event) -> None:
        """Offer every shot until `stopped`; looks at it at least every `HEED_S`.

        Raises SourceError, or returns before it, where there is nothing more to be had for now: it is called again after a
        while, and again, until it works.
        """


HEED_S = 0.25
"""Seconds for which a camera may wait without looking whether it should stop."""
